"""What each fact of a worker becomes: rows, all of one read of the spool in one transaction.

The spool's offset moves in that same transaction, so a daemon that dies anywhere reads again
exactly what it has not kept.
"""

import json
from collections.abc import Callable, Mapping, Sequence

from ftd.core import wire
from ftd.core.job import Attempt, Job
from ftd.core.models import FULL, Model, ModelKind, checkpoint_name
from ftd.core.results import CHECKPOINT_METRICS, step_message
from ftd.store import attempts, checkpoints, events, jobs, models
from ftd.store.db import Transaction
from ftd.store.store import STARTED, Store

AGES_S = 10 * 365 * 86_400  # an end that is further away is not foretold

# The facts that decide how an attempt ended.
TELLING = (wire.Accepted, wire.Done, wire.Failed, wire.Stopped)


def keep(
    store: Store, attempt: Attempt, facts: Sequence[wire.Fact], offset: int, eta_step_s: float
) -> Callable[[Transaction], int]:
    """The change that records `facts` and moves the cursor to `offset`.

    A job that is over gets no more events; its cursor moves all the same.
    """

    def work(tx: Transaction) -> int:
        job = jobs.find(tx, attempt.job)
        assert job is not None
        told = 0
        if not job.final:
            told = _Recorder(store, tx, job, attempt, eta_step_s).record(facts)
        telling = [fact for fact in facts if isinstance(fact, TELLING)]
        # As short as it came: it is read again as a line.
        word = telling[-1].model_dump_json(exclude_none=True) if telling else None
        attempts.advance(tx, attempt.id, offset, word)
        return told

    return work


class _Recorder:
    """One job's facts inside one transaction, in order. Steps, which are nearly all of them, are
    written together: before anything else is told, and at the end."""

    def __init__(
        self, store: Store, tx: Transaction, job: Job, attempt: Attempt, eta_step_s: float
    ) -> None:
        self._store = store
        self._tx = tx
        self._job = job
        self._attempt = attempt
        self._eta_step_s = eta_step_s
        self._now = store.clock.now()
        self._ids = store.ids.events()
        self._steps: list[events.StepTold] = []
        self._last: wire.Step | None = None

    def record(self, facts: Sequence[wire.Fact]) -> int:
        """Make rows of the facts; how many events were told."""
        told = 0
        for fact in facts:
            if isinstance(fact, wire.Step):
                self._steps.append(self._step(fact))
                self._last = fact
            else:
                told += self._write_steps() + self._other(fact)
        told += self._write_steps()
        if self._last is not None:
            remaining_s = (self._last.total_steps - self._last.step) * self._eta_step_s
            finish = self._now + round(remaining_s) if remaining_s < AGES_S else None
            jobs.note_progress(self._tx, self._job.id, self._last.step, finish)
        return told

    def _other(self, fact: wire.Fact) -> int:
        match fact:
            case wire.Accepted():
                return self._once(STARTED)
            case wire.Phase(name=name):
                jobs.note_phase(self._tx, self._job.id, name)
            case wire.Notice():
                again = self._attempt.number > 1
                if again and events.told(self._tx, self._job.id, fact.message):
                    return 0
                return self._tell(fact.message, level=fact.level, data=fact.data)
            case wire.Prepared(total_steps=total_steps):
                jobs.note_plan(self._tx, self._job.id, total_steps)
            case wire.Resumed(step=step):
                checkpoints.forget_after(self._tx, self._job.id, step)
                return self._once(f"Resumed from step {step}", level="warn")
            case wire.Saved():
                return self._saved(fact)
            case wire.Step():
                raise AssertionError("steps are written together")
            case wire.Started() | wire.Ready() | wire.Done() | wire.Stopped() | wire.Failed():
                pass  # what they mean is settled when the attempt has ended
        return 0

    def _once(self, message: str, *, level: str = "info") -> int:
        if events.told(self._tx, self._job.id, message):
            return 0
        return self._tell(message, level=level)

    def _tell(
        self, message: str, *, level: str = "info", data: Mapping[str, object] | None = None
    ) -> int:
        self._store.tell(self._tx, self._job.id, message, level=level, data=data)
        return 1

    def _step(self, fact: wire.Step) -> events.StepTold:
        data = {
            key: value
            for key, value in (
                ("step", fact.step),
                ("total_steps", fact.total_steps),
                ("train_loss", fact.train_loss),
                ("train_mean_token_accuracy", fact.train_mean_token_accuracy),
                ("valid_loss", fact.valid_loss),
                ("valid_mean_token_accuracy", fact.valid_mean_token_accuracy),
                ("full_valid_loss", fact.full_valid_loss),
                ("full_valid_mean_token_accuracy", fact.full_valid_mean_token_accuracy),
                ("tokens_per_second", round(fact.tokens / max(fact.seconds, 1e-9), 1)),
            )
            if value is not None
        }
        return events.StepTold(fact.step, next(self._ids), step_message(data), json.dumps(data))

    def _write_steps(self) -> int:
        steps, self._steps = self._steps, []
        return events.tell_steps(self._tx, self._job.id, self._now, steps) if steps else 0

    def _saved(self, fact: wire.Saved) -> int:
        name = checkpoint_name(self._job.minted, fact.step) if fact.epoch_end else None
        values = events.step_values(self._tx, self._job.id, fact.step)
        path = f"runs/{self._attempt.launch}/out/{fact.path}"
        published = checkpoints.publish(
            self._tx,
            checkpoint_id=self._store.ids.checkpoint(),
            job_id=self._job.id,
            now=self._store.clock.now(),
            step=fact.step,
            model=name,
            metrics={key: values[key] for key in CHECKPOINT_METRICS if key in values},
            path=path,
            sha256=fact.manifest_sha256,
        )
        if published.fresh:
            attempts.note_progress(self._tx, self._attempt.id)
        checkpoints.thin(self._tx, self._job.id, fact.step)
        if name is None:
            return 0
        models.replace(
            self._tx,
            Model(
                name=name,
                project=self._job.project,
                kind=ModelKind.CHECKPOINT,
                base=self._job.base,
                path=f"{path}/{fact.contents}",
                sha256=fact.manifest_sha256,
                created_at=self._store.clock.now(),
                job=self._job.id,
                facts={"form": FULL if fact.contents == "model" else fact.contents},
            ),
        )
        if published.named:
            self._tell(f"Checkpoint created at step {fact.step} with Snapshot ID: {name}")
        return int(published.named)
