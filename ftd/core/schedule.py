"""What should happen next, decided from one view of the truth: no await, no clock, no log.

Training goes first. A queued job that finds no device makes the inference workers of one give way;
no job is ever stopped for a request. On the CPU both live side by side, and nobody gives way.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ftd.core.device import Device
from ftd.core.job import FINAL, State, Want, pauses


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenJob:
    """A job that is not over, or is over while its attempt still ends."""

    id: str
    seq: int
    priority: int
    state: State
    want: Want
    checking: tuple[str, ...] = ()  # files whose check still runs
    began_on: str | None = None  # the kind of device that its values were resolved for
    retry_at: int | None = None  # one whose trainer ended early rests until then


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveAttempt:
    id: int
    job: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """An inference worker that has not gone: it loads, answers, idles or gives way."""

    id: int
    weights: str  # the name of the model that it has loaded
    device: str
    busy: bool  # it owes an answer, or somebody waits for it
    idle_s: float
    yielding: bool  # it begins no new answers, and ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """`holders` maps a leased device to the job that leases it. `resting` jobs were refused a
    moment ago and keep the reason that they were given. `full` devices have no place left for
    another server, `withheld` ones for anybody. `wanted` are the weights that requests wait for,
    the oldest wish first."""

    jobs: tuple[OpenJob, ...]
    attempts: tuple[LiveAttempt, ...]
    devices: tuple[Device, ...]
    holders: dict[str, str]
    resting: frozenset[str] = frozenset()
    servers: tuple[Server, ...] = ()
    wanted: tuple[str, ...] = ()
    now: int = 0  # Unix seconds
    disk_full: bool = False
    withheld: Mapping[str, str] = field(default_factory=dict)  # device -> why nobody gets it
    full: frozenset[str] = frozenset()
    idle_limit_s: float = math.inf
    max_servers: int = 1


@dataclass(frozen=True, slots=True)
class Admit:
    """The job's files are checked: let it into the queue, or fail it."""

    job: str


@dataclass(frozen=True, slots=True)
class Start:
    job: str
    devices: tuple[Device, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """Nobody wants this attempt to go on; `save`: a later one will, from where it ends."""

    attempt: int
    save: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Data that people see: why a job does not run yet."""

    job: str
    reason: str


@dataclass(frozen=True, slots=True)
class Serve:
    """Load these weights on this device."""

    weights: str
    device: Device


@dataclass(frozen=True, slots=True)
class Yield:
    """This server begins no new answers, and ends when those that it has begun are given."""

    server: int
    why: str
    if_idle: bool = False  # unless somebody has come meanwhile


@dataclass(frozen=True, slots=True)
class Hold:
    """Data that people see: why weights that are wanted have no server yet."""

    weights: str
    why: str


Action = Admit | Start | Stop | Wait | Serve | Yield | Hold


def decide(snapshot: Snapshot) -> list[Action]:
    """Wishes first, so that a cancelled job is never started; then the queue, in order; then
    requests, on what training leaves."""
    board = _Board(snapshot)
    return [
        *_honour_wishes(snapshot),
        *_admit(snapshot),
        *_fill_devices(board),
        *_end_idle(board),
        *_answer(board),
    ]


@dataclass(slots=True)
class _Board:
    """The view, and what this turn has decided of it so far."""

    view: Snapshot
    lent: dict[str, str] = field(default_factory=dict)  # device -> the job that has it
    promised: dict[str, str] = field(default_factory=dict)  # device -> the job that gets it next
    placed: dict[str, str] = field(default_factory=dict)  # weights -> the device they are loaded on
    leaving: set[int] = field(default_factory=set)  # servers

    def __post_init__(self) -> None:
        self.lent.update(self.view.holders)
        self.leaving.update(server.id for server in self.view.servers if server.yielding)

    def on(self, device: Device) -> list[Server]:
        return [server for server in self.view.servers if server.device == device.id]

    def clear(self) -> Device | None:
        """A device that a job can have at once, rather one where nobody serves."""
        clear = [
            device
            for device in self.view.devices
            if not self.taken(device) and (device.shared or not self.on(device))
        ]
        return min(clear, key=lambda device: len(self.on(device)), default=None)

    def clearable(self) -> Device | None:
        """A device that only servers keep a job from, rather the one that is given up soonest."""
        served = [
            device
            for device in self.view.devices
            if not device.shared and not self.trains(device) and self.on(device)
        ]
        return min(served, key=self._time_to_clear, default=None)

    def _time_to_clear(self, device: Device) -> tuple[bool, bool]:
        servers = self.on(device)
        stays = any(server.id not in self.leaving for server in servers)
        return stays, any(server.busy for server in servers)

    def place(self) -> Device | None:
        """A device that can take one more server: rather one that nobody uses, else the CPU
        beside training, else one where others serve."""
        open_ = [device for device in self.view.devices if self.obstacle(device) is None]
        return min(open_, key=self._crowd, default=None)

    def _crowd(self, device: Device) -> tuple[int, int]:
        servers = len(self.on(device)) + list(self.placed.values()).count(device.id)
        return 1 if device.id in self.lent else 2 if servers else 0, servers

    def obstacle(self, device: Device) -> str | None:
        """Why the device can take no more servers, or None."""
        if device.id in self.view.withheld:
            return f"{device.id} is withheld: {self.view.withheld[device.id]}"
        if self.trains(device):
            if device.id in self.lent:
                return f"{device.id} trains {self.lent[device.id]}"
            return f"{device.id} is kept for {self.promised[device.id]}"
        return f"{device.id} has no place left" if device.id in self.view.full else None

    def trains(self, device: Device) -> bool:
        """Whether the device is a job's alone, now or next."""
        return not device.shared and self.taken(device)

    def taken(self, device: Device) -> bool:
        """Whether a job has the device, or gets it next, or nobody can have it."""
        return (
            device.id in self.lent or device.id in self.promised or device.id in self.view.withheld
        )

    def dismiss(
        self, servers: Iterable[Server], why: str, *, if_idle: bool = False
    ) -> list[Action]:
        """Have those of them that do not leave already give way."""
        staying = [server for server in servers if server.id not in self.leaving]
        self.leaving.update(server.id for server in staying)
        return [Yield(server.id, why, if_idle) for server in staying]


# Training.


def _honour_wishes(snapshot: Snapshot) -> list[Action]:
    jobs = {job.id: job for job in snapshot.jobs}
    stops: list[Action] = []
    for attempt in snapshot.attempts:
        job = jobs.get(attempt.job)
        if job is None or job.state in FINAL or job.want is Want.CANCEL:
            stops.append(Stop(attempt.id))
        elif job.want is Want.PAUSE:
            stops.append(Stop(attempt.id, save=True))
    return stops


def _admit(snapshot: Snapshot) -> list[Action]:
    actions: list[Action] = []
    for job in snapshot.jobs:
        if job.state is State.VALIDATING:
            if job.checking:
                actions.append(Wait(job.id, f"checking {' and '.join(job.checking)}"))
            else:
                actions.append(Admit(job.id))
    return actions


def _fill_devices(board: _Board) -> list[Action]:
    """Priority, then age; one device a job. A job whose last attempt still ends waits for it."""
    view = board.view
    ending = {attempt.job for attempt in view.attempts}
    kinds = {device.kind for device in view.devices}  # GPUs, or the CPU where there are none
    resting: list[OpenJob] = []
    busy = ""  # with what all devices are, once they are
    waiting = 0
    actions: list[Action] = []
    queued = [job for job in view.jobs if job.state is State.QUEUED and job.want is Want.RUN]
    for job in sorted(queued, key=lambda job: (-job.priority, job.seq)):
        if job.id in ending:
            actions.append(Wait(job.id, "its last attempt has not ended yet"))
        elif job.id in view.resting:
            resting.append(job)
        elif view.disk_full:
            actions.append(Wait(job.id, "the disk of ftd's home is full"))
        elif pauses(job.retry_at, view.now):
            actions.append(Wait(job.id, "its trainer ended early; it rests before the next try"))
        elif job.began_on is not None and job.began_on not in kinds:
            actions.append(Wait(job.id, f"it began on {job.began_on}, and there is no such device"))
        elif not busy and (device := board.clear()) is not None:
            board.lent[device.id] = job.id
            actions.append(Start(job.id, (device,)))
        elif not busy and (device := board.clearable()) is not None:
            board.promised[device.id] = job.id
            actions += board.dismiss(board.on(device), f"{job.id} needs {device.id}")
            actions.append(Wait(job.id, _until_answered(board, device)))
            waiting += 1
        else:
            busy = busy or _busy(board)
            place = f"; {waiting} queued ahead of it" if waiting else ""
            actions.append(Wait(job.id, f"{busy}{place}"))
            waiting += 1
    for job in resting:  # it tries again in a moment: other jobs may go before it, requests not
        if (device := board.clear()) is not None:
            board.promised[device.id] = job.id
    return actions


def _until_answered(board: _Board, device: Device) -> str:
    servers = board.on(device)
    end = "it ends when its" if len(servers) == 1 else "they end when their"
    return f"{device.id} serves {_names(servers)}; {end} answers are given"


def _busy(board: _Board) -> str:
    if not board.view.devices:
        return "there is no device to run on"
    told = [why for device in board.view.devices if (why := _busy_with(board, device))]
    return ", ".join(told) or "every device was just lent"


def _busy_with(board: _Board, device: Device) -> str | None:
    """What the device was busy with before this turn."""
    view = board.view
    if device.id in view.holders:
        return f"{device.id} runs {view.holders[device.id]}"
    if device.id in view.withheld:
        return f"{device.id} is withheld: {view.withheld[device.id]}"
    return f"{device.id} serves {_names(board.on(device))}" if device.id in board.promised else None


# Serving.


def _end_idle(board: _Board) -> list[Action]:
    view = board.view
    idle = [server for server in _idle(board) if server.idle_s >= view.idle_limit_s]
    return board.dismiss(idle, f"it was idle for {view.idle_limit_s:g} s", if_idle=True)


def _answer(board: _Board) -> list[Action]:
    """A server for each model that is wanted, or the reason why there is none yet."""
    view = board.view
    room = view.max_servers - len(view.servers)
    ends = len(board.leaving)  # each makes room for one
    served = {server.weights for server in view.servers if server.id not in board.leaving}
    actions: list[Action] = []
    for weights in view.wanted:
        if weights in served:
            continue
        device = board.place()
        if device is not None and room > 0:
            room -= 1
            board.placed[weights] = device.id
            actions.append(Serve(weights, device))
            continue
        why = _why_held(board, device)
        if ends > 0 and _crowded(board):
            ends -= 1
            why = f"another model makes room for it ({why})"
        elif idle := _idle(board):
            actions += board.dismiss(idle[:1], f"{weights} is asked for", if_idle=True)
            why = f"{idle[0].weights}, which is idle, makes room for it"
        actions.append(Hold(weights, why))
    return actions


def _crowded(board: _Board) -> bool:
    """Whether the end of a server is all that it takes: some device is left to serve on."""
    return any(not board.trains(device) for device in board.view.devices)


def _why_held(board: _Board, device: Device | None) -> str:
    if device is not None:
        loaded = [*(server.weights for server in board.view.servers), *board.placed]
        return f"{board.view.max_servers} at once at most are loaded, now {' and '.join(loaded)}"
    obstacles = [board.obstacle(device) for device in board.view.devices]
    return ", ".join(filter(None, obstacles)) or "there is no device to run on"


def _idle(board: _Board) -> list[Server]:
    """Servers that nobody needs, the one idle longest first."""
    idle = [
        server
        for server in board.view.servers
        if not server.busy
        and server.id not in board.leaving
        and server.weights not in board.view.wanted
    ]
    return sorted(idle, key=lambda server: -server.idle_s)


def _names(servers: Iterable[Server]) -> str:
    return " and ".join(dict.fromkeys(server.weights for server in servers))
