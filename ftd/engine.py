"""Snapshot, decide, apply: the loop that moves jobs and inference workers.

A lost wake-up costs a tick, never a job or a request.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ftd.bell import SCHEDULE, Bell, wait
from ftd.core.device import Device
from ftd.core.errors import FtdError, Kind
from ftd.core.job import Attempt
from ftd.core.schedule import (
    Action,
    Admit,
    Hold,
    Serve,
    Server,
    Snapshot,
    Start,
    Stop,
    Wait,
    Yield,
    decide,
)
from ftd.runner.quarantine import Quarantine
from ftd.runner.rests import Rests, wants
from ftd.runner.runner import Rooms, Runner
from ftd.runner.warm import Warm
from ftd.store import attempts, jobs
from ftd.store.db import Transaction

log = logging.getLogger(__name__)

TICK_S = 1.0
EXPLAINED = 2000  # reasons in one change
PAUSE_S = 0.02  # between looks, so that a burst of commits is one look
REST = 9  # so many times as long as a look took, so that a long queue costs a tenth at most
ODD_S = 5.0  # how long a job is left alone that could not be moved


class Servers(Protocol):
    """Whoever runs the inference workers: it is asked what there is, and told what to do."""

    def servers(self) -> tuple[Server, ...]:
        """Every worker that has not gone; one whose lease is still held is among them."""
        ...

    def wanted(self) -> tuple[str, ...]:
        """The weights that requests wait for and nobody serves, the oldest wish first."""
        ...

    async def open(self, weights: str, device: Device) -> None:
        """Begin a worker, and return before it has loaded."""
        ...

    def close(self, server: int, why: str, *, if_idle: bool = False) -> None:
        """Have a worker give way; with `if_idle`, unless somebody has come. Idempotent."""
        ...

    def hold(self, weights: str, why: str) -> None:
        """Why these weights have no worker yet."""
        ...


@dataclass(slots=True)
class _Life:
    runner: Runner
    task: "asyncio.Task[None]"


@dataclass(slots=True)
class Engine:
    """Runs until cancelled. Trainers do not end with it: the next daemon takes them up.

    `pool` is None where no inference worker is ours to run, `warm` where no trainer is kept ready,
    `quarantine` where no device can keep memory.
    """

    rooms: Rooms
    bell: Bell
    devices: tuple[Device, ...]
    pool: Servers | None = None
    warm: Warm | None = None
    quarantine: Quarantine | None = None
    alive: Callable[[], None] = lambda: None  # told at every turn: the watchdog's food
    _lives: dict[int, _Life] = field(default_factory=dict)
    _rests: Rests = field(default_factory=Rests)
    _reasons: dict[str, str] = field(default_factory=dict)
    _odd: dict[str, float] = field(default_factory=dict)  # job -> until when it is left alone

    async def run(self) -> None:
        """Look, decide and act, for ever."""
        try:
            while True:
                heard = self.bell.listen(SCHEDULE)
                started = self.rooms.clock.monotonic()
                looked_s = 0.0
                try:
                    looked_s = await self._turn()
                except Exception as error:  # noqa: BLE001 - a full disk, one odd row: tried again
                    _complain("turn failed", error)
                ended = self.rooms.clock.monotonic()
                self.rooms.metrics.queue.cycle.observe(ended - started)
                self.alive()
                await wait(heard, TICK_S)  # the first ring after a quiet time is heard at once
                rested_s = self.rooms.clock.monotonic() - ended
                await asyncio.sleep(min(TICK_S, max(PAUSE_S, REST * looked_s)) - rested_s)
        finally:
            tasks = [life.task for life in self._lives.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _turn(self) -> float:
        """Returns for how many seconds it looked and decided."""
        started = self.rooms.clock.monotonic()
        await self._adopt()
        actions = decide(await self._look())
        looked_s = self.rooms.clock.monotonic() - started
        try:
            for action in actions:
                if not isinstance(action, Wait):
                    await self._try(action)
        finally:  # whatever went wrong: people should read why the others wait
            await self._explain({a.job: a.reason for a in actions if isinstance(a, Wait)})
        if self.warm is not None:
            starting = any(life.runner.starting for life in self._lives.values())
            self.warm.allow(begin=not starting)
        return looked_s

    async def _look(self) -> Snapshot:
        """Everything that is decided upon. A worker that goes meanwhile still counts as one."""
        serving = self.rooms.settings.serving
        servers = () if self.pool is None else self.pool.servers()
        wanted = () if self.pool is None else self.pool.wanted()
        snapshot = await self.rooms.store.snapshot(self.devices)
        # Whoever has somebody to follow it and no attempt that lives was refused just now.
        resting = frozenset(life.runner.job for life in self._lives.values())
        now = self.rooms.clock.monotonic()
        self._odd = {job: until for job, until in self._odd.items() if now < until}
        withheld: Mapping[str, str] = {}
        if self.quarantine is not None:
            tenants = snapshot.holders.keys() | {server.device for server in servers}
            withheld = await self.quarantine.look(tenants)
        return replace(
            snapshot,
            withheld=withheld,
            resting=resting | self._odd.keys(),
            disk_full=self.rooms.space.full,
            servers=servers,
            wanted=wanted,
            idle_limit_s=serving.idle_s,
            max_servers=serving.workers,
        )

    async def _adopt(self) -> None:
        """Give every live attempt somebody who follows it, whoever began it; or who ends it, where
        following has failed too often."""
        now = self.rooms.clock.monotonic()
        for attempt in await attempts.live(self.rooms.store.db):
            if attempt.id in self._lives or self._rests.resting(attempt.job, now):
                continue
            runner = Runner(self.rooms, attempt)
            fault = self._rests.fault(attempt.job)
            life = runner.run() if fault is None else runner.abandon(fault)
            self._live(attempt, runner, life)

    async def _try(self, action: Action) -> None:
        """One row that cannot be moved, by a mistake of ours, keeps no other job from its turn."""
        if isinstance(action, Admit) and action.job in self._odd:
            return
        try:
            await self._apply(action)
        except Exception as error:
            if not isinstance(action, Admit | Start) or wants(error):
                raise
            self._odd[action.job] = self.rooms.clock.monotonic() + ODD_S
            _complain("job not moved", error, job=action.job, rest_s=f"{ODD_S:g}")

    async def _apply(self, action: Action) -> None:
        match action:
            case Admit(job=job):
                await self.rooms.store.admit(job)
            case Start(job=job, devices=devices):
                await self._start(job, devices)
            case Stop(attempt=attempt, save=save):
                if (life := self._lives.get(attempt)) is not None:
                    life.runner.stop(save=save)
            case Serve() | Yield() | Hold():
                await self._tell(action)

    async def _tell(self, action: Serve | Yield | Hold) -> None:
        assert self.pool is not None, "nobody serves, and nothing is wanted"
        match action:
            case Serve(weights=weights, device=device):
                await self.pool.open(weights, device)
            case Yield(server=server, why=why, if_idle=if_idle):
                self.pool.close(server, why, if_idle=if_idle)
            case Hold(weights=weights, why=why):
                self.pool.hold(weights, why)

    async def _start(self, job_id: str, devices: tuple[Device, ...]) -> None:
        store, launcher = self.rooms.store, self.rooms.launcher
        waiting = None if self.warm is None else await self.warm.take()
        attempt = None
        try:
            attempt = await store.start(job_id, waiting or store.ids.launch(), devices)
        finally:
            if attempt is None and waiting is not None:
                await launcher.undo(waiting)
        if attempt is None:
            return  # somebody cancelled it first
        runner = Runner(self.rooms, attempt, starting=True)
        begin = runner.begin(devices[0], launched=waiting is not None)
        self._live(attempt, runner, begin)

    async def _explain(self, reasons: dict[str, str]) -> None:
        """Keep those that are new: a few thousand in one change, so that others come between."""
        told = self._reasons
        fresh = [(job, why) for job, why in reasons.items() if told.get(job) != why]
        for start in range(0, len(fresh), EXPLAINED):
            some = dict(fresh[start : start + EXPLAINED])

            def work(tx: Transaction, some: dict[str, str] = some) -> None:
                jobs.note_waits(tx, some)

            await self.rooms.store.db.write(work, about=())  # nothing is decided by it
        self._reasons = reasons

    def _live(self, attempt: Attempt, runner: Runner, life: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(life)
        self._lives[attempt.id] = _Life(runner, task)
        task.add_done_callback(lambda done: self._ended(attempt, done))

    def _ended(self, attempt: Attempt, task: "asyncio.Task[None]") -> None:
        """A runner that fails, on a full disk or by our own mistake, is begun anew after a rest,
        and takes up its trainer where it stands."""
        runner = self._lives.pop(attempt.id).runner
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            now = self.rooms.clock.monotonic()
            rest_s = self._rests.failed(attempt, runner.offset, error, now)
            _complain("runner failed", error, job=attempt.job, rest_s=f"{rest_s:g}")
        elif runner.settled:
            self._rests.settled(attempt.job)


def _complain(what: str, error: BaseException, **about: str) -> None:
    """A mistake of ours is said loudly; a full disk is none."""
    if isinstance(error, FtdError) and error.kind is Kind.NO_SPACE:
        log.warning("%s: the disk is full", what, extra=about)
    else:
        log.error(what, extra=about, exc_info=error)
