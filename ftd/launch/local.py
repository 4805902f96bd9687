"""Starts workers on this host, each below a shim of its own, and finds them again.

A run directory runs/<launch>/ holds everything that is known of a launch:

    in/           the job's inputs and spec.json            control.sock   the shim's ear
    out/          what the worker writes                    assigned.json  the shim had its locks
    spool         the worker's facts                        exit.json      the worker's end
    worker.log    its output (.0: how it began, .1: before)  shim.log       the shim's own words

The daemon keeps nothing else: a later one finds the same by the same names.
"""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from ftd.core.job import Exit
from ftd.core.wire import Assign, encode
from ftd.launch import channel, locks, spool
from ftd.launch.base import Assignment, BadInputs, Gone, Refused, Role, Spooled
from ftd.launch.channel import LocalChannel
from ftd.launch.environment import of_worker
from ftd.launch.inputs import SPEC, discard, lend, place, write
from ftd.launch.sandbox import DEFAULT, Lacking, Sandbox

log = logging.getLogger(__name__)

START_S = 20.0  # for a shim to listen: an interpreter's start, on a machine that is busy
ASSIGN_S = 10.0
KILL_S = 10.0  # for a shim to vanish that was killed
LOG_BYTES = 2**24
SCRATCH = "out/scratch"  # what a worker's libraries compile and cache, until its run is over

# The shim's package is all that its interpreter finds beside the standard library.
_SHIM = "import sys; sys.path.append(sys.argv.pop(1)); from shim.main import main; main()"
_LAST_BYTES = 2048
_PROGRAMS = {role: (sys.executable, "-I", "-m", f"ftd.worker.{role}") for role in Role}


@dataclass(slots=True)
class _Shim:
    """A shim that we have started; our child until it ends."""

    pid: int
    pidfd: int
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class LocalLauncher:
    """A Launcher whose workers run on this host.

    `programs` are those that a shim starts for each role (of ftd.worker unless given); `gpu_locks`
    is where GPUs' locks lie (None: where all homes of this machine look for them); `sandbox`
    confines the workers (None: they may do what we may). Use it in one event loop, and `close` it
    there.
    """

    def __init__(
        self,
        home: Path,
        *,
        log_bytes: int = LOG_BYTES,
        programs: Mapping[Role, Sequence[str]] = _PROGRAMS,
        gpu_locks: Path | None = None,
        sandbox: Sandbox | None = DEFAULT,
    ) -> None:
        self._home = home
        self._log_bytes = log_bytes
        self._programs = programs
        self._gpu_locks = gpu_locks
        self._sandbox = sandbox
        self._shims: dict[str, _Shim] = {}
        # The first connection to a shim: while that is unassigned, it lives as long as this does;
        # that of an inference worker always.
        self._first: dict[str, LocalChannel] = {}
        self._bonds: dict[str, LocalChannel] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def launch(self, launch: str, role: Role = Role.TRAIN) -> None:
        """Start a shim and its idle worker. Cancelled or refused, it leaves no process."""
        run = self._run(launch)
        try:
            for directory in (run, run / "in", run / "out", run / SCRATCH):
                directory.mkdir(mode=0o700, parents=True)
            first = await self._start(launch, role)
        except (OSError, Lacking) as error:
            raise Refused(f"no shim can be started: {error}") from error
        try:
            await first.ask({"op": "status"}, START_S)
        except (Refused, TimeoutError) as error:
            await self._kill(launch)
            raise Refused(self._obituary(launch)) from error
        except asyncio.CancelledError:
            await first.close()
            raise
        (self._bonds if role is Role.INFER else self._first)[launch] = first

    async def assign(self, launch: str, assignment: Assignment) -> None:
        """Give a launched worker its job. Once this fails, the launch is over."""
        try:
            await self._assign(launch, assignment)
        except BaseException:
            await self.hang_up(launch)
            raise

    async def undo(self, launch: str) -> None:
        """End a launch that has no job, and remove its run directory."""
        assert not self.assigned(launch), f"{launch} has a job"
        try:
            await self._kill(launch)
            await asyncio.to_thread(_remove, self._run(launch))
        except (OSError, TimeoutError) as error:
            raise Refused(f"{launch} cannot be taken back: {error}") from error

    async def abandoned(self) -> tuple[str, ...]:
        """The launches that have no job and no shim that lives."""
        return await asyncio.to_thread(self._abandoned)

    async def hang_up(self, launch: str) -> None:
        """End an inference worker at once."""
        bond = self._bonds.pop(launch, None)
        if bond is None:
            return
        with contextlib.suppress(Refused):  # its shim has gone already
            await bond.signal("KILL")  # other channels to it may still be open
        await bond.close()

    async def lend(self, launch: str, name: str, source: Path) -> None:
        """Link `source` to in/<name> of a launched run, if it is not there already."""
        try:
            await asyncio.to_thread(lend, source, self._run(launch) / "in", name)
        except (FileNotFoundError, ValueError) as error:
            raise BadInputs(str(error)) from error

    async def dial(
        self, launch: str, name: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the worker's own socket. Raises OSError when nobody listens."""
        connection = channel.reach(self.out(launch) / name)
        return await asyncio.open_unix_connection(sock=connection)

    async def connect(self, launch: str) -> LocalChannel | None:
        """Open a channel to a shim that lives, or None."""
        connection = channel.dial(self._run(launch))
        return None if connection is None else await channel.over(connection)

    async def alive(self, job: str) -> bool:
        """Whether some process still holds the job's lock."""
        async with self._turn(job):
            return locks.held(locks.job_lock(self._home, job))

    def assigned(self, launch: str) -> bool:
        """Whether the shim of this launch had its locks."""
        return (self._run(launch) / "assigned.json").exists()

    def read(self, launch: str, offset: int, limit_bytes: int) -> Spooled:
        """Frames of the spool from `offset` on, about `limit_bytes` of them at most."""
        return spool.read(self._run(launch) / "spool", offset, limit_bytes)

    def exit_record(self, launch: str) -> Exit | None:
        """The worker's end as its shim recorded it, or None."""
        path = self._run(launch) / "exit.json"
        try:
            return _exit(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            # Until the shim has the last word, its worker may write there.
            log.warning("no exit record", extra={"launch": launch, "why": str(error)})
            return None

    def out(self, launch: str) -> Path:
        """The directory that the worker writes."""
        return self._run(launch) / "out"

    def log(self, launch: str) -> Path:
        """The file that takes the worker's stdout and stderr; its older part ends in .1."""
        return self._run(launch) / "worker.log"

    async def discard(self, launch: str) -> None:
        """Remove the inputs of a run that has ended: their bytes go if nobody else has them. And
        what its libraries cached."""
        await asyncio.to_thread(discard, self._run(launch) / "in")
        await asyncio.to_thread(shutil.rmtree, self._run(launch) / SCRATCH, ignore_errors=True)

    async def close(self) -> None:
        """Let go of all shims; those that have no job end, and those of inference workers."""
        for connections in (self._first, self._bonds):
            for connection in list(connections.values()):
                await connection.close()
            connections.clear()
        for launch, shim in list(self._shims.items()):
            self._forget(launch, shim)

    # Starting a shim and watching over it.

    async def _start(self, launch: str, role: Role) -> LocalChannel:
        run = self._run(launch)
        options = ["--with-daemon"] if role is Role.INFER else []
        if self._sandbox is not None:
            options += ["--grants", self._sandbox.worker(run).to_json()]
        arguments = (*options, str(run), str(self._log_bytes), *self._programs[role])
        ours, stdin = socket.socketpair()
        try:
            pid = _spawn(arguments, of_worker(run / SCRATCH), stdin, run)
            shim = self._shims[launch] = _Shim(pid, os.pidfd_open(pid))
        except OSError:
            ours.close()
            raise
        finally:
            stdin.close()
        asyncio.get_running_loop().add_reader(shim.pidfd, self._reap, launch, shim)
        return await channel.over(ours)

    def _reap(self, launch: str, shim: _Shim) -> None:
        os.waitpid(shim.pid, 0)  # it has ended: the pidfd is readable
        self._forget(launch, shim)

    def _forget(self, launch: str, shim: _Shim) -> None:
        asyncio.get_running_loop().remove_reader(shim.pidfd)
        os.close(shim.pidfd)
        del self._shims[launch]
        self._first.pop(launch, None)
        self._bonds.pop(launch, None)
        shim.ended.set()

    async def _kill(self, launch: str) -> None:
        """End a shim at once; the worker asked the kernel to die with it."""
        shim = self._shims.get(launch)
        if shim is not None:
            signal.pidfd_send_signal(shim.pidfd, signal.SIGKILL)
            async with asyncio.timeout(KILL_S):
                await shim.ended.wait()

    # Giving it a job.

    async def _assign(self, launch: str, assignment: Assignment) -> None:
        line = self._first.pop(launch, None) or await self.connect(launch)
        if line is None:
            raise Gone(self._obituary(launch))
        try:
            await asyncio.to_thread(self._furnish, launch, assignment)
            async with self._turn(assignment.job):
                await line.ask(self._request(assignment), ASSIGN_S)
        except Gone as error:
            raise Gone(self._obituary(launch)) from error
        except TimeoutError as error:
            # It may yet take the locks and begin: only its end makes the refusal true.
            await self._kill(launch)
            raise Gone("its shim did not answer") from error
        except (FileNotFoundError, ValueError) as error:
            raise BadInputs(str(error)) from error
        except OSError as error:
            raise Refused(str(error)) from error
        finally:
            await line.close()

    def _furnish(self, launch: str, assignment: Assignment) -> None:
        """Inputs and spec, before any lock is taken: a copy may take minutes."""
        inside = self._run(launch) / "in"
        for name, source in assignment.inputs.items():
            place(source, inside / name)
        write(inside / SPEC, assignment.spec)

    def _request(self, assignment: Assignment) -> dict[str, object]:
        (self._home / "locks").mkdir(mode=0o700, parents=True, exist_ok=True)
        wanted = [(locks.job_lock(self._home, assignment.job), False)]
        for device in assignment.devices:
            wanted += locks.device_locks(
                self._home, device, shared=assignment.shared, gpus=self._gpu_locks
            )
        gpus = tuple(device.id for device in assignment.devices if device.kind == "cuda")
        command = encode(Assign(job=assignment.job, attempt=assignment.attempt, gpus=gpus))
        return {
            "op": "assign",
            "job": assignment.job,
            "attempt": assignment.attempt,
            "locks": [{"path": str(path), "shared": shared} for path, shared in wanted],
            "line": command.decode().rstrip("\n"),
        }

    def _abandoned(self) -> tuple[str, ...]:
        """Blocks for some 20 microseconds a run."""
        runs = self._home / "runs"
        jobless = [
            run.name
            for run in (runs.iterdir() if runs.is_dir() else ())
            if not (run / "assigned.json").exists()
        ]
        return tuple(launch for launch in jobless if not self._listens(launch))

    def _listens(self, launch: str) -> bool:
        connection = channel.dial(self._run(launch))
        if connection is not None:
            connection.close()
        return connection is not None

    def _obituary(self, launch: str) -> str:
        """Why a launch ended before its time, in the last words of its shim or its worker."""
        words = _last_line(self._run(launch) / "shim.log") or _last_line(self.log(launch))
        return f"its worker has ended: {words or 'it said nothing'}"

    def _turn(self, job: str) -> asyncio.Lock:
        """Who starts a job and who asks whether it lives take turns: both take its lock."""
        return self._turns.setdefault(job, asyncio.Lock())

    def _run(self, launch: str) -> Path:
        return self._home / "runs" / launch


def _spawn(
    arguments: Sequence[str], environment: Mapping[str, str], stdin: socket.socket, run: Path
) -> int:
    """Start a shim and answer its pid; what it has to say itself goes to the run's shim.log.

    In a session of its own, so that nothing that ends the daemon's ends it; and not by asyncio,
    whose transport kills its child when the loop is closed.
    """
    with (run / "shim.log").open("ab") as log, Path(os.devnull).open("wb") as null:
        onto = [(stdin.fileno(), 0), (null.fileno(), 1), (log.fileno(), 2)]
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", "-c", _SHIM, str(Path(__file__).parent), *arguments],
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, source, target) for source, target in onto],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGINT, signal.SIGTERM],
        )


def _exit(record: Any) -> Exit:
    """Raises ValueError for what no shim has written."""
    match record:
        case {"code": int()} | {"signal": int()}:
            peak = record.get("peak_memory_bytes")
            return Exit(
                code=record.get("code"),
                signal=record.get("signal"),
                starved=record.get("starved") is True,  # an older shim does not know
                bounded=record.get("bounded") is True,
                peak_memory_bytes=peak if isinstance(peak, int) else None,
            )
        case _:
            raise ValueError("it says neither how the worker exited nor what ended it")


def _remove(run: Path) -> None:
    if run.exists():
        shutil.rmtree(run)


def _last_line(path: Path) -> str:
    """The end of what a program had to say before it ended; empty if it said nothing."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LAST_BYTES))
        lines = file.read(_LAST_BYTES).decode(errors="replace").splitlines()
    return lines[-1] if lines else ""
