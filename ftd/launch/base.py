"""What a launcher promises: a worker is known by its run directory, spool and control channel.

Nothing here says that the worker runs on this host. The launcher answers whether it lives.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from ftd.core.device import Device
from ftd.core.job import Exit
from ftd.core.wire import Command


class Role(StrEnum):
    """What a worker is for. A trainer that has its job goes on without the daemon; an inference
    worker ends with it."""

    TRAIN = "train"
    INFER = "infer"


class Refused(Exception):
    """An assignment that did not happen: a lock is held, or the shim is gone. Nothing runs."""


class Gone(Refused):
    """The launched worker has ended, or its shim: another launch may do better."""


class BadInputs(Exception):
    """An input of an assignment is not there, or is no data: trying again changes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A job for a launched worker.

    `spec` is the JSON of a TrainSpec or a ServeSpec, written to in/spec.json. `inputs` maps a name
    below `in/` to a file or directory that is hard-linked there (copied across file systems), so
    that its bytes outlive a delete. The job's lock and the devices' are taken before the worker is
    told; those of devices together with others if `shared`. An inference worker's `job` is a name
    for its lock alone.
    """

    job: str
    attempt: int
    spec: bytes
    inputs: Mapping[str, Path]
    devices: tuple[Device, ...]
    shared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One fact as spooled. `seq` counts from 1 within a launch, without gaps; `end` is the offset
    of the next one."""

    seq: int
    line: bytes
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spooled:
    """What a read of the spool gave.

    `offset` is where to read on. `torn` says that the bytes there are no whole valid frame: of a
    living shim, wait; of a dead one, the spool ends here. `corrupt` says that bytes before the
    end are damaged and names what is wrong.
    """

    frames: tuple[Frame, ...]
    offset: int
    torn: bool = False
    corrupt: str | None = None


class Channel(Protocol):
    """A line to one launched worker's shim; it may break at any time and be opened anew."""

    @property
    def stalled(self) -> bool:
        """Whether the worker's facts wait for the disk, and the worker with them."""
        ...

    async def changed(self, timeout_s: float) -> bool:
        """Wait until the shim pokes (new frames, an exit) or the time is up; False when the
        shim has gone."""
        ...

    async def command(self, command: Command) -> None:
        """Forward a command to the worker. Raises Gone when the shim is gone."""
        ...

    async def signal(self, name: str) -> None:
        """Send "TERM" or "KILL" to the worker's process group, or "USR1" to the worker alone,
        which then writes its stack into its log. Raises Gone likewise."""
        ...

    async def end(self) -> None:
        """Kill a shim that does not do what it is told, and with it its worker. Raises Gone
        likewise."""
        ...

    async def close(self) -> None: ...


class Launcher(Protocol):
    """Starts workers and finds them again."""

    async def launch(self, launch: str, role: Role = Role.TRAIN) -> None:
        """Make runs/<launch>/{in,out} and start a shim with an idle worker, which sees no device
        yet. Returns when the shim listens. Raises Refused when it does not start."""
        ...

    async def assign(self, launch: str, assignment: Assignment) -> None:
        """Give a launched worker its job and its devices. Returns when the locks are held,
        `assigned.json` is on disk and the worker has been told. Raises Refused (Gone when it had
        ended already) or BadInputs, and then the launch is over."""
        ...

    async def undo(self, launch: str) -> None:
        """Take back a launch that has no job: its processes end at once, and nothing is left of
        it. Idempotent. Raises Refused when its processes or its files do not go."""
        ...

    async def abandoned(self) -> tuple[str, ...]:
        """The launches that have no job and no shim that lives: what daemons have left."""
        ...

    async def hang_up(self, launch: str) -> None:
        """End an inference worker at once, assigned or not; idempotent. Returns before it has
        vanished."""
        ...

    async def lend(self, launch: str, name: str, source: Path) -> None:
        """Link the file or directory `source` to in/<name> of a launched run, whole or not at
        all; what is there already stays. Raises BadInputs, or OSError as the disk does."""
        ...

    async def dial(
        self, launch: str, name: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the worker's own socket, out/<name>. Raises OSError when nobody listens."""
        ...

    async def connect(self, launch: str) -> Channel | None:
        """Open a channel to a shim that lives, or None."""
        ...

    async def alive(self, job: str) -> bool:
        """Whether some process still holds the job's lock: kernel truth, not a pid."""
        ...

    def assigned(self, launch: str) -> bool:
        """Whether `assigned.json` is there: the shim had its locks."""
        ...

    def read(self, launch: str, offset: int, limit_bytes: int) -> Spooled:
        """Frames of the spool from `offset` on, about `limit_bytes` of them at most."""
        ...

    def exit_record(self, launch: str) -> Exit | None:
        """The worker's end as its shim recorded it, or None."""
        ...

    def out(self, launch: str) -> Path:
        """The directory that the worker writes."""
        ...

    def log(self, launch: str) -> Path:
        """The file that takes the worker's stdout and stderr."""
        ...

    async def discard(self, launch: str) -> None:
        """Remove the inputs of a run that has ended, so that their bytes can go; idempotent."""
        ...
