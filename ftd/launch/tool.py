"""Runs a worker program that answers once and ends: in a session of its own, with limits."""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import DEVNULL
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ftd.launch.environment import of_tool
from ftd.launch.fetching import FETCH
from ftd.launch.sandbox import DEFAULT, Lacking, Sandbox
from ftd.launch.shim.bounds import LOOK_S, Bounds, excess
from ftd.launch.shim.processes import members

_log = logging.getLogger(__name__)

# An answer is one line; what is printed before it may be lost. The log's end tells the story.
STDOUT_BYTES = 4 * 2**20
STDERR_BYTES = 16 * 2**10
# How long the pipes may stay open once everything in the session is dead.
DRAIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """How a tool ended. A negative `returncode` is the signal that ended it.

    `stdout` is the last STDOUT_BYTES of what it printed, `stderr_tail` the last STDERR_BYTES;
    `excess` is which bound it was over, in words, and so was killed.
    """

    returncode: int
    stdout: bytes
    stderr_tail: str
    timed_out: bool = False
    excess: str | None = None

    def answer(self) -> dict[str, object]:
        """The JSON object on the last line of stdout; an error as tools tell theirs, of one that
        was over its bounds. Raises ValueError when there is none."""
        if self.excess is not None:
            message = f"the worker took {self.excess}, which `sandbox` in the configuration bounds."
            return {"error": {"message": message, "code": "no_memory"}}
        lines = self.stdout.splitlines()
        value = json.loads(lines[-1]) if lines else None
        if not isinstance(value, dict):
            raise ValueError("the last line is not a JSON object")
        return value


async def run_tool(
    module: str,
    *args: str,
    timeout_s: float | None,
    memory_bytes: int | None = None,
    env: Mapping[str, str] | None = None,
    sandbox: Sandbox | None = DEFAULT,
) -> ToolResult:
    """Run `python -m module args` to its end, confined to what the sandbox's table says of it
    (None: it may do what we may).

    Of `env` (None: our environment) it sees what tools need; its notes lie in a directory of its
    own in $TMPDIR, which is gone afterwards. `memory_bytes` is its address space; CUDA and torch
    need far more of that than of memory. When the time is up, the caller is cancelled, or its group
    takes more memory or processes than the sandbox allows, the tool and all that it started are
    killed; it also dies with this process. Raises OSError when no process can be started, nothing
    else.
    """
    given = os.environ if env is None else env
    notes = Path(tempfile.mkdtemp(prefix=f".{module.rpartition('.')[2]}-", dir=given.get("TMPDIR")))
    try:
        grants = sandbox.tool(module, args, given, notes) if sandbox else None
        return await _run(
            [str(memory_bytes or 0), grants.to_json() if grants else ""],
            [module, *args],
            of_tool(given, notes, fetches=module == FETCH),
            timeout_s,
            grants.bounds if grants else Bounds(),
        )
    except Lacking as error:
        raise PermissionError(str(error)) from error
    finally:
        shutil.rmtree(notes, ignore_errors=True)


async def _run(
    limits: list[str],
    tool: list[str],
    environment: dict[str, str],
    timeout_s: float | None,
    bounds: Bounds,
) -> ToolResult:
    program = [sys.executable, "-P", "-m", "ftd.launch.oneshot"]  # -P: no modules from the cwd
    spawning = asyncio.ensure_future(
        asyncio.get_running_loop().subprocess_exec(
            _Run,
            *program,
            str(os.getpid()),
            *limits,
            *tool,
            stdin=DEVNULL,
            env=environment,
            start_new_session=True,
        )
    )
    timed_out, over = False, None
    try:
        # Cancelled by itself it waits, perhaps for ever, for what the tool has started.
        await asyncio.shield(spawning)
    except asyncio.CancelledError:
        await _end(*await spawning)
        raise
    transport, run = spawning.result()
    try:
        async with asyncio.timeout(timeout_s):
            over = await _end_or_excess(run, transport.get_pid(), bounds)
    except TimeoutError:
        timed_out = True
    finally:
        await _end(transport, run)
    returncode = transport.get_returncode()
    return ToolResult(
        returncode=-signal.SIGKILL if returncode is None else returncode,
        stdout=run.stdout.kept(),
        stderr_tail=run.stderr.kept().decode(errors="replace"),
        timed_out=timed_out,
        excess=over,
    )


async def _end_or_excess(run: "_Run", group: int, bounds: Bounds) -> str | None:
    """Wait until it has exited (None), or until its group is over its bounds, and say which."""
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S if any(bounds) else None):
                await run.exited.wait()
                return None
        if over := await asyncio.to_thread(lambda: excess(bounds, members(group))):
            return over


async def _end(transport: asyncio.SubprocessTransport, run: "_Run") -> None:
    """Kill what is left and read the pipes to their ends.

    Also for a tool that ended by itself: a child that it left behind would hold the pipes open.
    One that left the session keeps them, and is not waited for.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(transport.get_pid(), signal.SIGKILL)
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            await run.closed.wait()
    except TimeoutError:
        _log.warning("tool left a process that holds its pipes", extra={"pid": transport.get_pid()})
    finally:
        transport.close()


class _Run(asyncio.SubprocessProtocol):
    """Hears of the exit and of the pipes' ends, which come in any order."""

    def __init__(self) -> None:
        self.exited = asyncio.Event()
        self.closed = asyncio.Event()  # exited, and both pipes are read to their ends
        self.stdout = _Tail(STDOUT_BYTES)
        self.stderr = _Tail(STDERR_BYTES)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        (self.stdout if fd == 1 else self.stderr).add(data)

    def process_exited(self) -> None:
        self.exited.set()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc  # a pipe that broke is a pipe that ended
        self.closed.set()


class _Tail:
    """The last bytes of a stream: a chatty tool costs no memory."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._bytes = bytearray()

    def add(self, data: bytes) -> None:
        self._bytes += data
        if len(self._bytes) > 2 * self._limit:
            del self._bytes[: -self._limit]

    def kept(self) -> bytes:
        return bytes(self._bytes[-self._limit :])
