"""A daemon that has no time just now is there all the same."""

import asyncio
from pathlib import Path

from tests.ftctl.conftest import Daemon

BUSY_S = 1.5


async def test_a_daemon_that_is_slow_to_greet_is_waited_for(daemon: Daemon, tmp_path: Path) -> None:
    """As on a machine whose processors all train."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            writer.write(data)
        writer.close()
        await writer.wait_closed()

    over = asyncio.Event()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(BUSY_S)
        theirs, ours = await asyncio.open_unix_connection(tmp_path / "s")
        await asyncio.gather(relay(reader, ours), relay(theirs, writer))
        over.set()

    async with await asyncio.start_unix_server(greet, tmp_path / "busy"):
        ran = await daemon.run("models", "list", "-o", "name", FTD_ADDR=f"unix:{tmp_path}/busy")
        await asyncio.wait_for(over.wait(), 10)
    assert (ran.status, ran.out) == (0, "smollm2\n"), ran.err
