"""The changes that touch several tables at once, each one transaction's worth of truth."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ftd.bell import SCHEDULE
from ftd.core.admission import Admitted, Rejected, judge
from ftd.core.clock import Clock
from ftd.core.device import Device
from ftd.core.file import File
from ftd.core.ids import Ids
from ftd.core.job import Attempt, Ending, Job, JobError, State, Want, again
from ftd.core.models import Model
from ftd.core.schedule import LiveAttempt, Snapshot
from ftd.store import attempts, events, files, jobs, models, servers
from ftd.store.db import Database, Transaction
from ftd.store.servers import ServerRow

CANCELLING = "Fine tuning process stopping due to job cancellation"
STARTED = "Fine-tuning job started"
ADMITTED = "Files validated, moving job to queued state"
PAUSED = "Fine-tuning job paused"
RESUMED = "Fine-tuning job resumed"


@dataclass(frozen=True, slots=True)
class Store:
    """The database with the clock and the ids that its rows need."""

    db: Database
    clock: Clock
    ids: Ids

    def tell(
        self,
        tx: Transaction,
        job_id: str,
        message: str,
        *,
        level: str = "info",
        data: Mapping[str, object] | None = None,
    ) -> None:
        events.tell(
            tx,
            job_id=job_id,
            event_id=self.ids.event(),
            now=self.clock.now(),
            message=message,
            level=level,
            data=data,
        )

    async def create(self, draft: Callable[[Transaction], Job]) -> Job:
        """Store a new job, drafted in the transaction that stores it; one whose files are checked
        already is judged in the same breath."""

        def work(tx: Transaction) -> Job:
            job = draft(tx)
            verdict = self._judge(tx, job)
            if isinstance(verdict, Admitted):
                job = replace(job, state=State.QUEUED, hyperparameters=verdict.hyperparameters)
            job = replace(job, seq=jobs.insert(tx, job))
            told = [f"Created fine-tuning job: {job.id}", f"Validating {_named(job)}"]
            told += [ADMITTED] if isinstance(verdict, Admitted) else []
            now = self.clock.now()
            events.tell_all(tx, job.id, now, [(self.ids.event(), message) for message in told])
            if isinstance(verdict, Rejected):
                self.fail(tx, job.id, verdict.error, data=verdict.data())
                return _found(tx, job.id)
            return job

        return await self.db.write(work, about=(SCHEDULE,))

    async def admit(self, job_id: str) -> None:
        """Judge a job whose files are checked; nothing happens while they are not."""

        def work(tx: Transaction) -> None:
            verdict = self._judge(tx, _found(tx, job_id))
            if isinstance(verdict, Rejected):
                self.fail(tx, job_id, verdict.error, data=verdict.data())
            elif verdict is not None and jobs.move(tx, job_id, State.QUEUED, now=self.clock.now()):
                jobs.resolve(tx, job_id, verdict.hyperparameters)
                self.tell(tx, job_id, ADMITTED)
                if _found(tx, job_id).want is Want.PAUSE:
                    self._pause(tx, job_id)

        await self.db.write(work, about=(SCHEDULE, job_id))

    def _judge(self, tx: Transaction, job: Job) -> Admitted | Rejected | None:
        """What becomes of a job with these files; None while one of them is not checked."""
        reports = {}
        for param, file_id in (
            ("training_file", job.training_file),
            ("validation_file", job.validation_file),
        ):
            if file_id is None:
                continue
            report = files.report(tx, file_id)
            if report is None:
                return None
            reports[param] = report
        return judge(job.requested, reports)

    def fail(
        self,
        tx: Transaction,
        job_id: str,
        error: JobError,
        *,
        data: Mapping[str, object] | None = None,
    ) -> bool:
        """Fail a job and say why; False if it was over already."""
        if not jobs.move(tx, job_id, State.FAILED, now=self.clock.now(), error=error):
            return False
        told = data or {"code": error.code, "param": error.param}
        self.tell(tx, job_id, error.message, level="error", data=told)
        return True

    async def cancel(self, job_id: str) -> Job | None:
        """Cancel at the door: the wish and the move are one transaction. None if it was over."""

        def work(tx: Transaction) -> Job | None:
            if not jobs.move(tx, job_id, State.CANCELLED, now=self.clock.now()):
                return None
            jobs.wish(tx, job_id, Want.CANCEL)
            self.tell(tx, job_id, CANCELLING, level="warn")
            return _found(tx, job_id)

        return await self.db.write(work, about=(SCHEDULE, job_id))

    async def pause(self, job_id: str) -> Job | None:
        """Wish for a pause. A queued job has it at once; one that runs, or whose files are being
        checked, has it when that has ended. None if it was over."""

        def work(tx: Transaction) -> Job | None:
            job = _found(tx, job_id)
            if job.final:
                return None
            jobs.wish(tx, job_id, Want.PAUSE)
            if job.state is State.QUEUED:
                self._pause(tx, job_id)
            return _found(tx, job_id)

        return await self.db.write(work, about=(SCHEDULE, job_id))

    async def resume(self, job_id: str) -> Job | None:
        """Take back the wish for a pause, if there is one. A paused job is queued; one that still
        stops will be, when it has. None if it was over."""

        def work(tx: Transaction) -> Job | None:
            job = _found(tx, job_id)
            if job.final:
                return None
            if job.want is Want.PAUSE:
                jobs.wish(tx, job_id, Want.RUN)
                self.tell(tx, job_id, RESUMED)
            if job.state is State.PAUSED:
                jobs.move(tx, job_id, State.QUEUED, now=self.clock.now())
            return _found(tx, job_id)

        return await self.db.write(work, about=(SCHEDULE, job_id))

    def _pause(self, tx: Transaction, job_id: str, why: str | None = None) -> None:
        """Pause a job that does not run any more, unless it is over. `why`: the mishap that ended
        its attempt before a checkpoint did."""
        step = _found(tx, job_id).step
        if not jobs.move(tx, job_id, State.PAUSED, now=self.clock.now()):
            return
        if why is None:
            self.tell(tx, job_id, f"{PAUSED} after step {step}" if step else PAUSED)
        else:
            told = f"{why} The job is paused; it will go on from its last checkpoint."
            self.tell(tx, job_id, told, level="warn")

    async def start(self, job_id: str, launch: str, devices: Sequence[Device]) -> Attempt | None:
        """Move a queued job to running and lease its devices, or do nothing and return None."""

        def work(tx: Transaction) -> Attempt | None:
            if not jobs.move(tx, job_id, State.RUNNING, now=self.clock.now()):
                return None
            return attempts.begin(
                tx, job_id=job_id, launch=launch, devices=devices, now=self.clock.now()
            )

        return await self.db.write(work, about=(SCHEDULE, job_id))

    async def give_back(self, attempt: Attempt, why: str) -> None:
        """An attempt that never began: its job waits in the queue again, or pauses."""

        def work(tx: Transaction) -> None:
            now = self.clock.now()
            if not attempts.end(tx, attempt.id, ending=attempts.RETURNED, note=why, now=now):
                return
            if _found(tx, attempt.job).want is Want.PAUSE:
                self._pause(tx, attempt.job)
            elif jobs.move(tx, attempt.job, State.QUEUED, now=now):
                jobs.note_waits(tx, {attempt.job: why})

        await self.db.write(work, about=(SCHEDULE, attempt.job))

    async def lose(
        self,
        attempt: Attempt,
        error: JobError,
        max_attempts: int,
        *,
        pause_s: float = 0.0,
        smaller: bool = False,
    ) -> None:
        """A trainer vanished: the job is queued again, or fails once it has had its chances, as
        core.job.again says.

        One that was to pause is paused, and not blamed: as a rule its trainer was killed because
        it took too long to save.
        """

        def work(tx: Transaction) -> None:
            now = self.clock.now()
            pausing = _found(tx, attempt.job).want is Want.PAUSE
            ending = Ending.STOPPED if pausing else Ending.LOST
            if not attempts.end(
                tx, attempt.id, ending=ending, note=error.message, code=error.code, now=now
            ):
                return
            losses = attempts.losses(tx, attempt.job)
            chance = again(error, losses, attempts=max_attempts, pause_s=pause_s, smaller=smaller)
            if pausing:
                self._pause(tx, attempt.job, error.message)
            elif chance is None:
                message = f"{error.message} (attempt {losses.in_a_row}, the last)"
                told = replace(error, message=message)
                self.fail(tx, attempt.job, told)
            elif jobs.move(tx, attempt.job, State.QUEUED, now=now):
                jobs.note_retry(tx, attempt.job, now + math.ceil(chance.after_s))
                self.tell(tx, attempt.job, f"{error.message} {chance.how}", level="warn")

        await self.db.write(work, about=(SCHEDULE, attempt.job))

    async def stopped(self, attempt: Attempt, pause_s: float = 0.0) -> None:
        """An attempt ended because it was asked to. Its job pauses if people want that; else the
        machine shuts down, or they have changed their mind, and it is queued again.

        That never counts against it. One that has published nothing rests `pause_s` all the same:
        trainers that end at once must not follow each other as fast as they can.
        """

        def work(tx: Transaction) -> None:
            now = self.clock.now()
            if not attempts.end(tx, attempt.id, ending=Ending.STOPPED, note=None, now=now):
                return
            job = _found(tx, attempt.job)
            if job.want is Want.PAUSE:
                self._pause(tx, attempt.job)
            elif jobs.move(tx, attempt.job, State.QUEUED, now=now):
                if not attempts.progressed(tx, attempt.id):
                    jobs.note_retry(tx, attempt.job, now + math.ceil(pause_s))
                told = f"The trainer was stopped after step {job.step}. The job is queued again."
                self.tell(tx, attempt.job, told)

        await self.db.write(work, about=(SCHEDULE, attempt.job))

    async def failed(self, attempt: Attempt, error: JobError) -> None:
        """The trainer gave up and said why."""

        def work(tx: Transaction) -> None:
            now = self.clock.now()
            if attempts.end(tx, attempt.id, ending=Ending.FAILED, note=error.message, now=now):
                self.fail(tx, attempt.job, error)

        await self.db.write(work, about=(SCHEDULE, attempt.job))

    async def succeed(
        self, attempt: Attempt, *, model: Model, result: File, trained_tokens: int
    ) -> bool:
        """The job is done: its model, its result file and its last events, all or nothing.

        False if it was cancelled meanwhile; nothing of it is kept then.
        """

        def work(tx: Transaction) -> bool:
            now = self.clock.now()
            if not attempts.end(tx, attempt.id, ending=Ending.DONE, note=None, now=now):
                return False
            if not jobs.move(
                tx, attempt.job, State.SUCCEEDED, now=now, fine_tuned_model=model.name
            ):
                return False
            models.replace(tx, model)
            files.insert(tx, result)
            jobs.note_result(
                tx,
                attempt.job,
                model_sha256=model.sha256,
                trained_tokens=trained_tokens,
                result_file=result.id,
            )
            self.tell(tx, attempt.job, f"New fine-tuned model created: {model.name}")
            self.tell(tx, attempt.job, "The job has successfully completed")
            return True

        return await self.db.write(work, about=(SCHEDULE, attempt.job))

    async def serve(self, weights: str, launch: str, device: Device) -> ServerRow | None:
        """Lease a place on the device to a new inference worker; None when it has none left."""
        return await self.db.write(
            lambda tx: servers.begin(
                tx, weights=weights, launch=launch, device=device, now=self.clock.now()
            )
        )

    async def served(self, server_id: int, note: str) -> bool:
        """An inference worker has ended, as `note` says; False if that was known."""
        return await self.db.write(
            lambda tx: servers.end(tx, server_id, note=note, now=self.clock.now())
        )

    async def recover_servers(self) -> tuple[ServerRow, ...]:
        """End what an earlier daemon has left: its workers ended with it. Returns those rows."""

        def work(tx: Transaction) -> tuple[ServerRow, ...]:
            left = servers.open_rows(tx)
            for server in left:
                servers.end(tx, server.id, note="its daemon ended", now=self.clock.now())
            return left

        return await self.db.write(work)

    async def running(self) -> int:
        """How many attempts live."""
        return len(await attempts.live(self.db))

    async def snapshot(self, devices: Sequence[Device]) -> Snapshot:
        """One consistent view of everything that is not over."""
        async with self.db.reading() as read:
            open_jobs = await jobs.still_open(read)
            live = await read("SELECT id, job FROM attempts WHERE ended_at IS NULL")
            leases = await read(
                "SELECT leases.device, leases.slot, attempts.job FROM leases "
                "LEFT JOIN attempts ON attempts.id = leases.attempt"
            )
        taken = {(row["device"], row["slot"]) for row in leases}
        return Snapshot(
            jobs=open_jobs,
            attempts=tuple(LiveAttempt(id=row["id"], job=row["job"]) for row in live),
            devices=tuple(devices),
            now=self.clock.now(),
            holders={row["device"]: row["job"] for row in leases if row["job"] is not None},
            full=frozenset(
                device.id
                for device in devices
                if all((device.id, slot) in taken for slot in device.serving_slots)
            ),
        )


def _found(tx: Transaction, job_id: str) -> Job:
    job = jobs.find(tx, job_id)
    assert job is not None, f"{job_id} has no row"
    return job


def _named(job: Job) -> str:
    validation = f" and validation file: {job.validation_file}" if job.validation_file else ""
    return f"training file: {job.training_file}{validation}"
