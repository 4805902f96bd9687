"""A daemon that has no time just now is there all the same."""

import asyncio
import contextlib
from pathlib import Path

from tests.ftctl.conftest import Daemon

BUSY_S = 1.5


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(2**16):
            writer.write(data)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_a_daemon_that_is_slow_to_greet_is_waited_for(daemon: Daemon, tmp_path: Path) -> None:
    """As on a machine whose processors all train."""
    greeting: list[asyncio.Task[None]] = []

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(BUSY_S)
        theirs, ours = await asyncio.open_unix_connection(tmp_path / "s")
        await asyncio.gather(relay(reader, ours), relay(theirs, writer))

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeting.append(asyncio.create_task(greet(reader, writer)))

    async with await asyncio.start_unix_server(begin, tmp_path / "busy"):
        ran = await daemon.run("models", "list", "-o", "name", FTD_ADDR=f"unix:{tmp_path}/busy")
        await asyncio.wait(greeting, timeout=10)
    assert (ran.status, ran.out) == (0, "smollm2\n"), ran.err
