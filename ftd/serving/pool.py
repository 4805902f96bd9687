"""The inference workers of this daemon, and the requests that use them or wait for one.

Nothing about devices is decided here: a request without a worker is a wish that the engine sees
(`wanted`), and the engine opens and closes workers as `core.schedule.decide` says. Whoever waits
looks again at every change, so a lost wake-up costs a tick of the engine's and no request.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

from ftd.bell import Bell, wait
from ftd.core import chat
from ftd.core.device import Device
from ftd.core.errors import FtdError, Kind
from ftd.core.models import Model
from ftd.core.schedule import Server
from ftd.launch.base import Refused
from ftd.serving.line import again
from ftd.serving.meter import Meter
from ftd.serving.worker import Rooms, Worker

log = logging.getLogger(__name__)

TICK_S = 1.0  # how late whoever waits for a worker that loads can see a lost change
FAULT_S = 15.0  # that a model which could not be served is not tried again
REST_S = 3.0  # after a refusal (its device's lock was held), before it is wished for again
STOP_S = 2.0  # for all workers to end with the daemon; their shims end them in any case


@dataclass(slots=True)
class _Wish:
    """Requests that wait for one model's weights."""

    weights: Model
    requests: int = 0
    why: str = "no device was free"  # as the engine last said


@dataclass(frozen=True, slots=True)
class _Fault:
    """What became of the last worker of these weights, told until a moment has passed."""

    sha256: str
    error: FtdError
    until: float


class Pool:
    """Belongs to one event loop; `stop` it there."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._workers: dict[int, Worker] = {}
        self._lives: dict[int, asyncio.Task[None]] = {}
        self._wishes: dict[str, _Wish] = {}
        self._faults: dict[str, _Fault] = {}
        self._resting: dict[str, float] = {}
        self._changes = Bell()
        self._stopping = False

    async def generate(
        self, weights: Model, adapter: Model | None, request: chat.Generate
    ) -> AsyncGenerator[chat.Answer, None]:
        """Began, then the answer, then Ended. Leaving it before then cancels it.

        `weights` is a base model or one that was trained whole, `adapter` one to it. Raises, mostly
        before Began: INVALID for what cannot be done as it was asked, UNAVAILABLE when no device
        is free in time, too much is waiting, or the worker ends.
        """
        with Meter(self._rooms.metrics.serving, weights.base, self._rooms.clock) as meter:
            worker = await self._enter(weights)
            try:
                place = None if adapter is None else await worker.lend(adapter)
                placed = request.model_copy(update={"adapter": place})
                async with aclosing(worker.ask(placed, meter.take)) as answers:
                    async for answer in answers:
                        yield answer
            finally:
                worker.exit()

    # What the engine asks and applies.

    def servers(self) -> tuple[Server, ...]:
        """Every worker that has not gone."""
        return tuple(
            Server(
                id=worker.id,
                weights=worker.weights.name,
                device=worker.device.id,
                busy=worker.busy or worker.weights.name in self._wishes,
                idle_s=worker.idle_s,
                yielding=worker.leaving,
            )
            for worker in self._workers.values()
        )

    def wanted(self) -> tuple[str, ...]:
        """Weights that requests wait for and nobody serves, the oldest wish first."""
        now = self._rooms.clock.monotonic()
        return tuple(
            name
            for name, wish in self._wishes.items()
            if self._find(wish.weights) is None and self._resting.get(name, 0.0) <= now
        )

    async def open(self, weights: str, device: Device) -> None:
        """Start a worker, unless nobody waits any more or the device has no place left."""
        wish = self._wishes.get(weights)
        if wish is None or self._stopping or self._find(wish.weights) is not None:
            return
        rooms = self._rooms
        row = await rooms.store.serve(weights, rooms.store.ids.launch(), device)
        if row is None:
            return
        worker = Worker(rooms, row, wish.weights, device, self._look_at)
        self._workers[worker.id] = worker
        rooms.metrics.serving.workers.labels(worker.weights.base).inc()
        self._lives[worker.id] = life = asyncio.create_task(worker.run())
        life.add_done_callback(lambda done: self._ended(worker, done))
        log.info(
            "inference worker begun",
            extra={"model": weights, "device": device.id, "launch": row.launch},
        )

    def close(self, server: int, why: str, *, if_idle: bool = False) -> None:
        """Let a worker answer what it has begun, for a while, and then end.

        With `if_idle` it stays when somebody has come since the engine looked.
        """
        worker = self._workers.get(server)
        wanted = worker is not None and (worker.busy or worker.weights.name in self._wishes)
        if worker is not None and not (if_idle and wanted):
            worker.leave(why, self._rooms.settings.serving.yield_s)

    def hold(self, weights: str, why: str) -> None:
        """Why these weights have no worker yet: told to whoever has waited too long."""
        if (wish := self._wishes.get(weights)) is not None:
            wish.why = why

    async def stop(self) -> None:
        """The daemon ends: whoever waits is told so, and no worker stays. Idempotent."""
        self._stopping = True
        self._changes.ring()
        for worker in self._workers.values():
            worker.leave("ftd is stopping", 0.0, politely=False)
        lives = set(self._lives.values())
        if not lives:
            return
        _, late = await asyncio.wait(lives, timeout=STOP_S)
        for life in late:
            life.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    # Waiting for a worker.

    async def _enter(self, weights: Model) -> Worker:
        """A worker that is ready for one more request, whatever that takes."""
        left_s = self._rooms.settings.serving.wait_s
        clock = self._rooms.clock
        with self._wishing(weights) as wish:
            while True:
                heard = self._changes.listen()
                self._raise_fault(weights)
                worker = self._find(weights)
                if worker is not None and worker.ready:
                    worker.enter()
                    return worker
                if worker is not None:  # it loads, within a limit of its own
                    await wait(heard, TICK_S)
                    continue
                if left_s <= 0:
                    raise FtdError(
                        Kind.UNAVAILABLE, f"{weights.name} has no device: {wish.why}. Try again."
                    )
                since = clock.monotonic()
                self._rooms.bell.ring()
                await wait(heard, min(left_s, TICK_S))
                left_s -= clock.monotonic() - since

    @contextmanager
    def _wishing(self, weights: Model) -> Iterator[_Wish]:
        wish = self._wishes.setdefault(weights.name, _Wish(weights))
        wish.weights = weights
        wish.requests += 1
        try:
            yield wish
        finally:
            wish.requests -= 1
            if not wish.requests:
                del self._wishes[weights.name]

    def _find(self, weights: Model) -> Worker | None:
        """The worker of exactly these bytes that is not leaving."""
        for worker in self._workers.values():
            if worker.weights.name == weights.name and not worker.leaving:
                if worker.weights.sha256 == weights.sha256:
                    return worker
                worker.leave("its model was replaced", self._rooms.settings.serving.yield_s)
        return None

    def _raise_fault(self, weights: Model) -> None:
        if self._stopping:
            raise FtdError(Kind.UNAVAILABLE, "ftd is stopping; try again.")
        fault = self._faults.get(weights.name)
        if fault is None or fault.sha256 != weights.sha256:
            return
        if self._rooms.clock.monotonic() < fault.until:
            raise again(fault.error)
        del self._faults[weights.name]

    def _look_at(self, worker: Worker) -> None:
        """A worker is ready, or leaves: whoever waits for it looks again, or learns why."""
        if isinstance(worker.fault, Refused):
            self._resting[worker.weights.name] = self._rooms.clock.monotonic() + REST_S
            self.hold(worker.weights.name, str(worker.fault))
        elif worker.fault is not None and not worker.loaded:
            self._note(worker, worker.fault)
        self._changes.ring()

    def _note(self, worker: Worker, fault: BaseException) -> None:
        if not isinstance(fault, FtdError):
            log.error("inference worker failed", extra={"id": worker.id}, exc_info=fault)
            fault = FtdError(Kind.INTERNAL, "The inference worker could not be started.")
        until = self._rooms.clock.monotonic() + FAULT_S
        self._faults[worker.weights.name] = _Fault(worker.weights.sha256, fault, until)

    def _ended(self, worker: Worker, life: "asyncio.Task[None]") -> None:
        del self._workers[worker.id], self._lives[worker.id]
        self._rooms.metrics.serving.workers.labels(worker.weights.base).dec()
        if not life.cancelled() and (error := life.exception()) is not None:
            log.error("inference worker not ended", extra={"id": worker.id}, exc_info=error)
        self._changes.ring()
