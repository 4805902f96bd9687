"""Lives through one attempt, from wherever it stands to its end.

A fresh attempt and one that an earlier daemon began are the same from here: the run directory,
the spool and the kernel's locks say where it stands. Nothing is decided from memory.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from ftd.bell import wait
from ftd.config import Settings
from ftd.core import wire
from ftd.core.clock import Clock
from ftd.core.device import CPU, Device
from ftd.core.errors import FtdError, Kind
from ftd.core.job import Attempt, Ending, JobError, Outcome, outcome
from ftd.core.story import Story
from ftd.host.home import Home
from ftd.host.shelf import Shelf
from ftd.host.space import Space
from ftd.launch.base import Assignment, BadInputs, Channel, Gone, Launcher, Refused
from ftd.metrics import Metrics
from ftd.runner import tokens
from ftd.runner.health import KILL_S, Health
from ftd.runner.hearing import announces, hear, story_of
from ftd.runner.ingest import keep
from ftd.runner.janitor import thin
from ftd.runner.ladder import Ladder
from ftd.runner.plan import plan
from ftd.runner.publish import publish
from ftd.store import attempts, jobs
from ftd.store.store import Store

log = logging.getLogger(__name__)

READ_BYTES = 128 * 1024  # of the spool in one transaction: some 500 steps, 8 ms of the loop
TICK_S = 1.0  # how late a lost poke can make us
SILENT_S = 0.2  # between looks at a lock that is still held
BEGIN_AGAIN_S = 3.0  # after a refusal, before the job may try again
ASSIGNING_S = 5.0  # what an assignment may still take that an earlier daemon made


@dataclass(slots=True)
class Pace:
    """How long a step takes, its evaluations and checkpoints included, in seconds.

    Measured from the first step that we hear of; what is read in a burst, after a pause of ours,
    never counts as faster than the step itself was.
    """

    step_s: float = 0.0
    _first: tuple[int, float] | None = None

    def take(self, fact: wire.Step, now: float) -> None:
        if self._first is None:
            self._first = (fact.step, now)
        step, heard = self._first
        paced = (now - heard) / (fact.step - step) if fact.step > step else 0.0
        self.step_s = max(fact.seconds, paced)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """What a runner works with."""

    store: Store
    launcher: Launcher
    settings: Settings
    metrics: Metrics
    clock: Clock
    home: Home
    space: Space


class Runner:
    """One attempt's life. `run` returns when the attempt is over and its row says how."""

    def __init__(self, rooms: Rooms, attempt: Attempt, *, starting: bool = False) -> None:
        self.starting = starting  # to be begun, or begun and not at its first step yet
        self.settled = False  # it came to its end
        self._rooms = rooms
        self._attempt = attempt
        self._offset = attempt.spool_offset
        self._channel: Channel | None = None
        self._ladder = Ladder(rooms.settings.stopping)
        self._health = Health(rooms.settings.silence, rooms.launcher.log(attempt.launch))
        self._woken = asyncio.Event()
        self._fault: JobError | None = None
        self._story: Story | None = None  # of what is kept; None before the first read
        self._pace = Pace()
        self._shelf = Shelf(rooms.home.tokens, rooms.settings.limits.cache_bytes)

    @property
    def job(self) -> str:
        return self._attempt.job

    @property
    def offset(self) -> int:
        """Up to where its spool is kept."""
        return self._offset

    def stop(self, *, save: bool = False) -> None:
        """Bring the trainer to its end at its next step, with a checkpoint if `save`. Idempotent;
        one without outweighs one with it."""
        if self._ladder.ask(self._rooms.clock.monotonic(), save=save):
            self._woken.set()

    async def begin(self, device: Device, *, launched: bool = False) -> None:
        """Launch a worker, unless that is done, and give it the job; then live through the
        attempt."""
        attempt = self._attempt
        try:
            job = await jobs.get(self._rooms.store.db, attempt.job)
            assert job is not None
            planned = await plan(
                self._rooms.store, self._rooms.settings, self._rooms.home, job, attempt, device
            )
            await self._entrust(planned.assignment, launched=launched)
            if attempt.number == 1:
                waited_s = self._rooms.clock.now() - job.created_at
                self._rooms.metrics.queue.wait.observe(max(0, waited_s))
        except Refused as refusal:
            log.warning("attempt refused", extra={"job": attempt.job, "why": str(refusal)})
            await self._give_back(str(refusal))
            await self._pause(BEGIN_AGAIN_S)  # the job rests as long as we are here
        except BadInputs as error:
            await self._fail(JobError(code="missing_input", message=f"An input is gone: {error}"))
        except FtdError as error:
            if error.kind in (Kind.NO_SPACE, Kind.UNAVAILABLE):  # no fault of the job's: it waits
                await self._take_back()
                raise
            await self._fail(JobError(code=error.code or "invalid", message=error.message))
        except Exception:
            await self._take_back()
            raise
        else:
            await self.run()

    async def _entrust(self, assignment: Assignment, *, launched: bool) -> None:
        """Give the job to its worker. One that waited and has ended is replaced at once, under the
        same name: that costs the job nothing but the imports."""
        launcher, launch = self._rooms.launcher, self._attempt.launch
        if not launched:
            await launcher.launch(launch)
        try:
            await self._assign(assignment)
        except Gone as gone:
            if not launched or launcher.assigned(launch):  # then it may have begun
                raise
            told = {"job": self._attempt.job, "why": str(gone)}
            log.warning("the trainer that waited had ended", extra=told)
            await launcher.undo(launch)
            await launcher.launch(launch)
            await self._assign(assignment)

    async def _assign(self, assignment: Assignment) -> None:
        launcher, launch = self._rooms.launcher, self._attempt.launch
        await tokens.lend(self._rooms.store.db, self._shelf, launcher, launch, assignment.job)
        await launcher.assign(launch, assignment)

    async def _take_back(self) -> None:
        """End a worker that has no job yet, if there is one: nobody else would."""
        launcher, launch = self._rooms.launcher, self._attempt.launch
        if not launcher.assigned(launch):
            await launcher.undo(launch)

    async def run(self) -> None:
        """Follow an assigned attempt to its end and settle it."""
        try:
            if await self._began():
                await self._follow()
                await self._settle()
                self.settled = True
            else:
                await self._give_back("its worker never began")
        finally:
            if self._channel is not None:
                await self._channel.close()

    async def abandon(self, error: JobError) -> None:
        """Bring a trainer that nobody can follow to its end, and fail its job.

        Nothing that it said is read. Its devices are given back when no process of it lives.
        """
        launcher, attempt = self._rooms.launcher, self._attempt
        ends_at = self._rooms.clock.monotonic() + KILL_S
        while True:
            channel = await launcher.connect(attempt.launch)
            if channel is not None:
                with contextlib.suppress(Gone):
                    late = self._rooms.clock.monotonic() > ends_at  # its shim is frozen, perhaps
                    await (channel.end() if late else channel.signal("KILL"))
                await channel.close()
            elif not await launcher.alive(attempt.job):
                break
            await self._pause(SILENT_S)
        await self._fail(error)
        self._rooms.metrics.training.forget(attempt.job)
        self.settled = True

    async def catch_up(self) -> None:
        """Keep what the spool of an attempt that has ended still holds, and settle nothing."""
        while await self._ingest():
            pass

    async def _began(self) -> bool:
        """Whether the worker got its job. One that did not ends when we hang up."""
        launcher, launch = self._rooms.launcher, self._attempt.launch
        deadline = self._rooms.clock.monotonic() + ASSIGNING_S
        while not launcher.assigned(launch):
            alive = await launcher.connect(launch)
            if alive is None or self._rooms.clock.monotonic() > deadline:
                break
            await alive.changed(SILENT_S)
            await alive.close()
        return launcher.assigned(launch)

    async def _follow(self) -> None:
        """Until the worker has ended, everything it said is kept, and nobody holds its lock."""
        while True:
            while await self._ingest():
                pass
            await self._press()
            if self._channel is None:
                self._channel = await self._rooms.launcher.connect(self._attempt.launch)
            if self._channel is not None:
                await self._listen(self._channel)
            elif await self._rooms.launcher.alive(self._attempt.job):
                await self._pause(SILENT_S)
            else:
                break
        while await self._ingest():
            pass

    async def _listen(self, channel: Channel) -> None:
        """Wait for a poke, a request to stop, or a tick."""
        changed = asyncio.ensure_future(channel.changed(TICK_S))
        woken = asyncio.ensure_future(self._woken.wait())
        try:
            await asyncio.wait({changed, woken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            if not changed.done():
                changed.cancel()
            results = await asyncio.gather(changed, woken, return_exceptions=True)
        self._woken.clear()
        if results[0] is False:
            await channel.close()
            self._channel = None

    async def _ingest(self) -> bool:
        """Keep the next facts of the spool; False when there are none for now."""
        if self._fault is not None:
            return False
        launcher, attempt = self._rooms.launcher, self._attempt
        spooled = launcher.read(attempt.launch, self._offset, READ_BYTES)
        story = self._story or await story_of(self._rooms.store.db, attempt)
        understand = partial(hear, spooled, self._offset, story, launcher.out(attempt.launch))
        heard = await asyncio.to_thread(understand) if announces(spooled) else understand()
        self._fault = heard.fault
        moved = heard.offset > self._offset
        if moved:
            self._health.hear(heard.facts)
            self._measure(heard.facts)
            told = await self._rooms.store.db.write(
                keep(self._rooms.store, attempt, heard.facts, heard.offset, self._pace.step_s),
                about=(attempt.job,),  # nothing here changes what is decided
            )
            self._rooms.metrics.queue.events.inc(told)
            self._offset, self._story = heard.offset, heard.story
            if any(isinstance(fact, wire.Saved) for fact in heard.facts):
                await thin(self._rooms.store.db, self._rooms.home, attempt)
        if self._fault is not None:
            self._ladder.kill()
            return False
        return moved

    def _measure(self, facts: Sequence[wire.Fact]) -> None:
        """Count every step; show the last, since a scrape between two of one read cannot be."""
        metrics, job = self._rooms.metrics.training, self._attempt.job
        steps = [fact for fact in facts if isinstance(fact, wire.Step)]
        if not steps:
            return
        self.starting = False
        now = self._rooms.clock.monotonic()
        for fact in steps:
            self._pace.take(fact, now)
            metrics.step_duration.observe(fact.seconds)
        metrics.steps.inc(len(steps))
        metrics.tokens.labels("input").inc(sum(fact.tokens for fact in steps))
        metrics.tokens.labels("loss").inc(sum(fact.loss_tokens for fact in steps))
        last = steps[-1]
        metrics.progress.labels(job).set(last.step / last.total_steps)
        metrics.eta.labels(job).set((last.total_steps - last.step) * self._pace.step_s)
        metrics.learning_rate.labels(job).set(last.learning_rate)
        metrics.tokens_per_second.labels(job).set(last.tokens / max(last.seconds, 1e-9))
        for split in ("train", "valid", "full_valid"):
            loss = _newest(getattr(fact, f"{split}_loss") for fact in reversed(steps))
            if loss is not None:
                metrics.loss.labels(job, split).set(loss)
        norm = _newest(fact.grad_norm for fact in reversed(steps))
        if norm is not None:
            metrics.grad_norm.labels(job).set(norm)

    async def _press(self) -> None:
        if self._channel is None:
            return
        try:
            await self._ladder.press(self._channel, self._rooms.clock.monotonic())
            await self._health.look(self._channel, self._rooms.clock.monotonic(), self._pace.step_s)
        except Gone:
            return  # its shim has just ended; the next look sees that

    async def _pause(self, timeout_s: float) -> None:
        """Wait so long, or until somebody asks us to stop."""
        await wait(self._woken, timeout_s)
        self._woken.clear()

    async def _give_back(self, why: str) -> None:
        await self._rooms.store.give_back(self._attempt, why)
        await self._rooms.launcher.discard(self._attempt.launch)

    async def _fail(self, error: JobError) -> None:
        await self._rooms.store.failed(self._attempt, error)
        await self._rooms.launcher.discard(self._attempt.launch)

    async def _settle(self) -> None:
        """Say on the job how its attempt ended."""
        rooms, attempt = self._rooms, self._attempt
        # The bytes come first and the rows after: what a crash leaves, the next settling takes.
        await tokens.keep(
            rooms.store.db, self._shelf, rooms.launcher.out(attempt.launch), attempt.job
        )
        verdict = await self._conclude()
        log.info("attempt ended", extra={"job": attempt.job, "ending": verdict.ending})
        match verdict.ending:
            case Ending.DONE:
                pass
            case Ending.FAILED:
                assert verdict.error is not None
                await rooms.store.failed(attempt, verdict.error)
            case Ending.STOPPED:
                await rooms.store.stopped(attempt, rooms.settings.training.retry_s)
            case Ending.LOST:
                assert verdict.error is not None
                await self._lose(verdict.error)
        rooms.metrics.queue.exits.labels(verdict.ending).inc()
        rooms.metrics.queue.run.labels(verdict.ending).observe(
            max(0, rooms.clock.now() - attempt.started_at)
        )
        rooms.metrics.training.forget(attempt.job)
        await rooms.launcher.discard(attempt.launch)

    async def _conclude(self) -> Outcome:
        """How it ended; one that is done is published by then, or lost, if its model is damaged."""
        rooms, attempt = self._rooms, self._attempt
        exit_ = rooms.launcher.exit_record(attempt.launch)
        word = await attempts.last_word(rooms.store.db, attempt.id)
        fact = None if word is None else wire.decode_fact(word.encode())
        error = self._fault
        if error is None and isinstance(fact, wire.Failed):
            error = JobError(code=fact.code, message=fact.message, param=fact.param)
        last_word = None if fact is None else str(fact.kind)
        last_word = "failed" if self._fault else last_word
        verdict = outcome(exit_, last_word, error, ended_for=self._health.error)
        if verdict.ending is not Ending.DONE:
            return verdict
        assert isinstance(fact, wire.Done)
        damage = await publish(rooms.store, rooms.home, attempt, fact)
        return verdict if damage is None else Outcome(ending=Ending.LOST, error=damage)

    async def _lose(self, error: JobError) -> None:
        training = self._rooms.settings.training
        await self._rooms.store.lose(
            self._attempt,
            error,
            training.attempts,
            pause_s=training.retry_s,
            smaller=self._attempt.devices == (CPU,),
        )


def _newest(backwards: Iterable[float | None]) -> float | None:
    """The first that was measured; not every step measures everything."""
    return next((value for value in backwards if value is not None), None)
