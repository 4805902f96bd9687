"""The daemon's end of a control connection, when what speaks at the other is no shim."""

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from ftd.core import wire
from ftd.launch.base import Gone, Refused
from ftd.launch.channel import LocalChannel, over
from tests.fuzz import mutated, seeded, seeds

Line = tuple[LocalChannel, socket.socket]
Open = Callable[[], Awaitable[Line]]
TRUE = [
    b'{"poke": 7}\n', b'{"poke": 7, "stalled": true}\n', b'{"exit": true}\n',
    b'{"assigned": true}\n', b'{"refused": "held"}\n', b'{"ended": "gone"}\n',
    b'{"status": {"worker": 1, "assigned": false, "seq": 0, "stalled": false}}\n',
]  # fmt: skip
NONSENSE = [
    b"\n", b"null\n", b"[1]\n", b'"poke"\n', b"7\n", b"{\n", b"\xff\n", b"[" * 5000 + b"\n",
    b"9" * 5000 + b"\n",
]  # fmt: skip


@pytest.fixture
async def open_line() -> AsyncIterator[Open]:
    opened: list[Line] = []

    async def connect() -> Line:
        ours, theirs = socket.socketpair()
        theirs.settimeout(10)
        opened.append((await over(ours), theirs))
        return opened[-1]

    yield connect
    for channel, theirs in opened:
        await channel.close()
        theirs.close()


async def gone(channel: LocalChannel) -> None:
    """Until it has hung up, as after any end of a shim."""
    async with asyncio.timeout(10):
        while await channel.changed(10):
            pass
    with pytest.raises(Gone):
        await channel.command(wire.Stop())


@pytest.mark.parametrize("nonsense", NONSENSE)
async def test_what_is_no_message_ends_the_line(
    open_line: Open,
    nonsense: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    channel, theirs = await open_line()
    asking = asyncio.create_task(channel.ask({"op": "status"}, 10))
    theirs.sendall(b'{"poke": 1}\n' + nonsense)
    with pytest.raises(Gone):
        await asking
    await gone(channel)
    assert "no shim" in caplog.text


async def test_a_line_without_an_end_costs_no_memory(
    open_line: Open,
) -> None:
    channel, theirs = await open_line()
    theirs.setblocking(False)
    sent, loop = 0, asyncio.get_running_loop()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012
        while sent < 2**26:
            await loop.sock_sendall(theirs, b"x" * 2**16)
            sent += 2**16
    assert sent < 2**22
    await gone(channel)


async def test_an_answer_that_nobody_asked_for_is_passed_over(
    open_line: Open,
) -> None:
    channel, theirs = await open_line()
    theirs.sendall(b"".join(TRUE[3:]))
    theirs.sendall(b'{"poke": 1}\n')
    assert await channel.changed(10)
    asking = asyncio.create_task(channel.ask({"op": "status"}, 10))
    await asyncio.to_thread(theirs.recv, 100)
    theirs.sendall(TRUE[4])
    with pytest.raises(Refused, match="held"):
        await asking


async def test_no_bytes_break_it(open_line: Open) -> None:
    for seed in seeds(300):
        with seeded(seed) as chance:
            channel, theirs = await open_line()
            theirs.sendall(spoken(chance))
            theirs.close()
            await gone(channel)


def spoken(chance: random.Random) -> bytes:
    said = b"".join(chance.choice(TRUE) for _ in range(chance.randrange(1, 6)))
    for _ in range(chance.randrange(4)):
        said = mutated(said, chance, [*TRUE, *NONSENSE, json.dumps("\ud800").encode()])
    return said
