"""The daemon's end of a control connection to a shim; launch/shim has the protocol."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftd.core.wire import Command, encode
from ftd.launch.base import Gone, Refused

ANSWER_BYTES = 2**16  # of one line of a shim
_GONE = "its shim has gone"
log = logging.getLogger(__name__)


class LocalChannel(asyncio.Protocol):
    """A Channel over a unix socket.

    Pokes are a flag and not a queue: however many have come, one look at the spool finds all.
    """

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._news = asyncio.Event()  # a poke, or the end of the connection
        self._poked = False
        self._stalled = False
        self._gone = asyncio.Event()
        self._answer: asyncio.Future[Mapping[str, Any]] | None = None

    async def changed(self, timeout_s: float) -> bool:
        """Wait until the shim pokes or the time is up; False when the shim has gone.

        A poke that came before the end is told first, so that nothing said last is missed.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return True
        if self._poked:
            self._poked = False
            if not self._gone.is_set():
                self._news.clear()
            return True
        return False

    async def command(self, command: Command) -> None:
        """Forward a command to the worker. Raises Gone when the shim is gone."""
        self._send({"op": "send", "line": encode(command).decode().rstrip("\n")})

    async def signal(self, name: str) -> None:
        """Send "TERM" or "KILL" to the worker's process group, "USR1" to the worker alone. Raises
        Gone likewise."""
        self._send({"op": "signal", "name": name})

    async def end(self) -> None:
        """Kill the shim. Raises Gone likewise. Only over a connection that was dialled: the kernel
        knows who listens there."""
        if self._transport is None or self._transport.is_closing():
            raise Gone(_GONE)
        connection = self._transport.get_extra_info("socket")
        credentials = connection.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
        )
        pid, _, _ = struct.unpack("3i", credentials)
        assert pid != os.getpid(), "a shim's first connection names us"
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    async def ask(self, request: Mapping[str, Any], timeout_s: float) -> Mapping[str, Any]:
        """Make a request that has an answer, one at a time. Raises Refused (Gone when the worker
        or its shim has ended), TimeoutError."""
        self._answer = asyncio.get_running_loop().create_future()
        self._send(request)
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._answer
        finally:
            self._answer = None
        if "ended" in answer:
            raise Gone(answer["ended"])
        if "refused" in answer:
            raise Refused(answer["refused"])
        return answer

    @property
    def stalled(self) -> bool:
        """Whether the worker's facts wait for the disk, as the shim last said."""
        return self._stalled

    @property
    def gone(self) -> bool:
        """Whether nothing can be said any more."""
        return self._transport is None or self._transport.is_closing()

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            await self._gone.wait()

    def _send(self, request: Mapping[str, Any]) -> None:
        if self._transport is None or self._transport.is_closing():
            raise Gone(_GONE)
        self._transport.write(json.dumps(request).encode() + b"\n")

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        try:
            for line in lines:
                self._hear(_message(line))
            if len(self._rest) > ANSWER_BYTES:
                raise ValueError("a line without an end")
        except (ValueError, RecursionError) as error:
            # Its worker may have taken the socket's place. The locks and the spool say what is so.
            log.warning("what speaks is no shim", extra={"why": str(error)})
            assert self._transport is not None
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc  # why it has gone changes nothing: the spool and the locks say what is true
        self._gone.set()
        self._news.set()
        self._hear({"ended": _GONE})

    def _hear(self, message: Mapping[str, Any]) -> None:
        if "poke" in message or "exit" in message:
            self._stalled = bool(message.get("stalled"))  # of which an older shim does not speak
            self._poked = True
            self._news.set()
        elif self._answer is not None and not self._answer.done():
            self._answer.set_result(message)


def _message(line: bytes) -> Mapping[str, Any]:
    """Raises ValueError, or RecursionError, for what a shim does not say."""
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("a message that is no object")
    return message


async def over(connection: socket.socket) -> LocalChannel:
    """A channel over a connected socket, which it owns from now on."""
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    _, channel = await loop.create_unix_connection(LocalChannel, sock=connection)
    return channel


def reach(path: Path) -> socket.socket:
    """A connection to a unix socket that listens. Raises OSError when nobody does.

    Through a descriptor of the socket's file, because a path in an address has 108 bytes at most;
    and a link that a worker put there leads nowhere.
    """
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.setblocking(False)
            connection.connect(f"/proc/self/fd/{descriptor}")
        except OSError:
            connection.close()
            raise
    finally:
        os.close(descriptor)
    return connection


def dial(directory: Path) -> socket.socket | None:
    """A connection to the shim of a run directory, or None when nobody listens."""
    try:
        return reach(directory / "control.sock")
    except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
        return None
