"""Keeps one trainer launched and without a job, so that no job waits for its trainer's imports.

    begun     a moment after the daemon is ready; later only while no other trainer is on its way to
              its first step: on few cores, seconds of imports would come out of that
    taken     by the next job that starts, whose attempt then bears the name of this launch
    ended     with the daemon, or when memory gets short; one that ends by itself is replaced, later
              each time, so that a broken installation does not spin

It costs two idle processes and 0.4 GiB. It sees no device before it has a job: that is lent then.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from ftd.core import wire
from ftd.launch.base import Channel, Refused
from ftd.runner.runner import Rooms
from ftd.store import launches

log = logging.getLogger(__name__)

AFTER_READY_S = 0.5  # the first requests go first
LOOK_S = 2.0  # between looks at the memory
# Of available memory. None is begun below what a small job needs beside it; the one that waits ends
# when less is left. Between the two lies more than it takes itself: its end does not begin another.
BEGIN_BYTES = 2 * 2**30
KEEP_BYTES = 2**30
AGAIN_S = 1.0  # after one that ended by itself, and twice as long after each that follows
AGAIN_LIMIT_S = 300.0
FACTS_BYTES = 2**16  # of its spool, where it says one or two


def pause_s(ends: int) -> float:
    """How long to wait after so many in a row have ended by themselves."""
    return min(AGAIN_LIMIT_S, AGAIN_S * 2.0 ** min(ends - 1, 16))


@dataclass(frozen=True, slots=True)
class _Waiting:
    launch: str
    channel: Channel  # closed when it is taken: who keeps one keeps an unassigned shim alive


class Warm:
    """The trainer that waits for a job, if there is one. `available` says how many bytes of this
    host's memory are."""

    def __init__(self, rooms: Rooms, available: Callable[[], int]) -> None:
        self._rooms = rooms
        self._available = available
        self._waiting: _Waiting | None = None
        self._taken: str | None = None  # the last one's launch
        self._allowed = asyncio.Event()
        self._short = False  # of memory, as was said
        self._ends = 0  # in a row, without a job

    def allow(self, *, begin: bool) -> None:
        """Whether one may be begun now. One that waits already is not touched."""
        if begin:
            self._allowed.set()
        else:
            self._allowed.clear()

    async def take(self) -> str | None:
        """The launch of the one that waits: from now on the caller's. None where none does."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return None
        self._taken = waiting.launch
        self._ends = 0
        self._allowed.clear()  # its job has yet to come to its first step
        await waiting.channel.close()
        return waiting.launch

    async def run(self) -> None:
        """Keep one, for ever; only clear up where none is wanted."""
        await asyncio.sleep(AFTER_READY_S)
        try:
            await self._clear_up()
        except Exception:
            log.exception("what earlier trainers left is not removed")
        while self._rooms.settings.training.warm:
            await self._allowed.wait()
            if self._short_of(BEGIN_BYTES):
                await asyncio.sleep(LOOK_S)
                continue
            launch = self._rooms.store.ids.launch()
            try:
                await self._keep(launch)
            except Refused as refusal:
                self._note_end(launch, str(refusal))
            except Exception:
                # Whatever it is, no job fails of it, and the daemon does not end of it.
                log.exception("no trainer is kept ready")
                self._ends += 1
            if self._ends:
                await asyncio.sleep(pause_s(self._ends))

    async def _keep(self, launch: str) -> None:
        """Launch one and stay with it until it is taken; in any other case leave nothing of it."""
        try:
            await self._rooms.launcher.launch(launch)
            await self._stay(launch)
        finally:
            if launch != self._taken:
                await self._rooms.launcher.undo(launch)

    async def _stay(self, launch: str) -> None:
        """Until it is taken or has ended, or must end because memory gets short."""
        channel = await self._rooms.launcher.connect(launch)
        if channel is not None:
            self._waiting = _Waiting(launch, channel)
            try:
                await self._watch(self._waiting)
            finally:
                self._waiting = None
                self._rooms.metrics.training.warm.set(0)
                await channel.close()
            if launch == self._taken or self._short:
                return
        self._note_end(launch, self._last_words(launch))

    async def _watch(self, waiting: _Waiting) -> None:
        gauge = self._rooms.metrics.training.warm
        while await waiting.channel.changed(LOOK_S) and self._waiting is waiting:
            if self._short_of(KEEP_BYTES):
                return
            gauge.set(any(isinstance(fact, wire.Started) for fact in self._facts(waiting.launch)))

    def _short_of(self, least_bytes: int) -> bool:
        """Whether less memory than that is available; said once until there is enough again."""
        available = self._available()
        short = available < least_bytes
        if short and not self._short:
            told = {"available_bytes": available, "least_bytes": least_bytes}
            log.warning("memory is short: no trainer is kept ready", extra=told)
        self._short = short
        return short

    def _note_end(self, launch: str, why: str) -> None:
        self._ends += 1
        told = {"launch": launch, "why": why, "again_in_s": pause_s(self._ends)}
        log.warning("the trainer that waited for a job has ended", extra=told)

    def _facts(self, launch: str) -> list[wire.Fact]:
        spooled = self._rooms.launcher.read(launch, 0, FACTS_BYTES)
        return [wire.decode_fact(frame.line) for frame in spooled.frames]

    def _last_words(self, launch: str) -> str:
        """What it said of its end, else what its shim saw of it."""
        for fact in self._facts(launch):
            if isinstance(fact, wire.Failed):
                return fact.message
        exit_ = self._rooms.launcher.exit_record(launch)
        lines = self._rooms.launcher.log(launch).read_text(errors="replace").splitlines()
        return ": ".join(["no exit record" if exit_ is None else str(exit_), *lines[-1:]])

    async def _clear_up(self) -> None:
        """Remove what trainers that waited have left, whose daemon has ended."""
        left = await self._rooms.launcher.abandoned()
        known = await launches.known(self._rooms.store.db, left)
        for launch in left:
            if launch not in known:
                await self._rooms.launcher.undo(launch)
