"""The changes of a job's life, each one transaction, on a real database."""

import asyncio
import json
import sqlite3
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftd.core.dataset import Fault, Format, Report
from ftd.core.device import Device
from ftd.core.file import FINE_TUNE, RESULTS, File, FileStatus
from ftd.core.hyperparams import Requested
from ftd.core.job import Attempt, Job, JobError, State, Want
from ftd.core.models import Model, ModelKind
from ftd.store import attempts, checkpoints, events, files, jobs, models
from ftd.store.store import CANCELLING, Store

CPU = Device(id="cpu", kind="cpu", name="a CPU", memory_bytes=1, slots=4)
GOOD = Report(format=Format.CHAT, examples=20, lines=20)
BAD = Report(
    format=Format.CHAT,
    examples=19,
    faults=(Fault(line=3, example=3, code="x", message="Example 3 is odd", fix="mend it"),),
    fault_count=1,
)


async def add_file(store: Store, file_id: str, report: Report | None = GOOD) -> None:
    status = FileStatus.UPLOADED if report is None else FileStatus.PROCESSED
    file = File(
        seq=0, id=file_id, project="p", purpose=FINE_TUNE, filename="a.jsonl", bytes=1, sha256="0",
        created_at=0, status=status, report=None if report is None else report.to_json(),
    )  # fmt: skip
    await store.db.write(lambda tx: files.insert(tx, file))


async def add_job(store: Store, name: str = "ftjob-1", **changes: Any) -> Job:
    job = Job(
        seq=0, id=name, project="p", created_at=0, model="m", base="m", minted=f"ft:m::{name}",
        training_file="file-1", seed=1, requested=Requested(), state=State.VALIDATING,
    )  # fmt: skip
    return await store.create(lambda _: replace(job, **changes))


async def started(
    store: Store, name: str = "ftjob-1", devices: tuple[Device, ...] = (CPU,)
) -> Attempt:
    attempt = await store.start(name, store.ids.launch(), devices)
    assert attempt is not None
    return attempt


async def state(store: Store, name: str = "ftjob-1") -> State:
    job = await jobs.get(store.db, name)
    assert job is not None
    return job.state


async def told(store: Store, name: str = "ftjob-1") -> list[str]:
    return [event.message for event in await events.since(store.db, name, 0, 100)]


async def test_a_job_on_checked_files_is_queued_when_create_answers(store: Store) -> None:
    await add_file(store, "file-1")
    job = await add_job(store)
    assert job.state is State.QUEUED
    assert job.hyperparameters is not None
    assert job.hyperparameters.n_epochs == 5
    assert await told(store) == [
        "Created fine-tuning job: ftjob-1",
        "Validating training file: file-1",
        "Files validated, moving job to queued state",
    ]


async def test_a_job_on_an_unchecked_file_waits_for_it(store: Store) -> None:
    await add_file(store, "file-1", None)
    assert (await add_job(store)).state is State.VALIDATING
    await store.admit("ftjob-1")
    assert await state(store) is State.VALIDATING
    await store.db.write(
        lambda tx: files.checked(tx, "file-1", FileStatus.PROCESSED, GOOD.to_json())
    )
    await store.admit("ftjob-1")
    assert await state(store) is State.QUEUED


async def test_a_job_on_a_bad_file_fails_at_once_with_every_fault(store: Store) -> None:
    await add_file(store, "file-1", BAD)
    job = await add_job(store)
    assert job.state is State.FAILED
    assert job.error is not None
    assert job.error.code == "invalid_training_file"
    last = (await events.page(store.db, job.id, after=None, limit=1))[0]
    assert last.level == "error"
    assert last.data is not None
    assert last.data["errors"][0]["line"] == 3  # type: ignore[index]
    assert last.data["error_count"] == 1


async def test_of_five_racers_one_starts_a_job(store: Store) -> None:
    await add_file(store, "file-1")
    await add_job(store)
    results = await asyncio.gather(
        *(store.start("ftjob-1", f"run-{n}", (replace(CPU, id=str(n)),)) for n in range(5))
    )
    assert sum(result is not None for result in results) == 1


async def test_a_device_is_lent_once_whatever_the_code_believes(store: Store) -> None:
    await add_file(store, "file-1")
    await add_job(store, "ftjob-1")
    await add_job(store, "ftjob-2")
    await started(store, "ftjob-1")
    with pytest.raises(sqlite3.IntegrityError):
        await store.start("ftjob-2", "run-2", (CPU,))
    assert await state(store, "ftjob-2") is State.QUEUED, "the move was undone with the lease"


async def test_cancel_is_immediate_and_happens_once(store: Store) -> None:
    await add_file(store, "file-1")
    await add_job(store)
    attempt = await started(store)
    cancelled = await store.cancel("ftjob-1")
    assert cancelled is not None
    assert (cancelled.state, cancelled.want) == (State.CANCELLED, Want.CANCEL)
    assert cancelled.finished_at is not None
    assert await store.cancel("ftjob-1") is None
    assert (await told(store)).count(CANCELLING) == 1
    assert await attempts.holders(store.db) == {"cpu": "ftjob-1"}, "the lease lives on"
    await store.stopped(attempt)
    assert await attempts.holders(store.db) == {}
    assert await state(store) is State.CANCELLED


async def test_a_lost_job_is_queued_again_until_its_chances_are_gone(store: Store) -> None:
    await add_file(store, "file-1")
    await add_job(store)
    gone = JobError(code="trainer_lost", message="The trainer was killed by signal 9.")
    for _ in range(2):
        await store.lose(await started(store), gone, 3)
        assert await state(store) is State.QUEUED
    await store.lose(await started(store), gone, 3)
    job = await jobs.get(store.db, "ftjob-1")
    assert job is not None
    assert job.state is State.FAILED
    assert job.error is not None
    assert job.error.message == "The trainer was killed by signal 9. (attempt 3, the last)"


async def test_a_checkpoint_gives_new_chances_and_a_return_costs_none(store: Store) -> None:
    await add_file(store, "file-1")
    await add_job(store)
    gone = JobError(code="trainer_lost", message="gone")
    for _ in range(4):
        attempt = await started(store)
        await store.db.write(lambda tx, id_=attempt.id: attempts.note_progress(tx, id_))
        await store.lose(attempt, gone, 1)
        assert await state(store) is State.QUEUED
        await store.give_back(await started(store), "a lock was held")
        assert await state(store) is State.QUEUED
    await store.lose(await started(store), gone, 1)
    assert await state(store) is State.FAILED


async def test_one_that_was_cut_off_leaves_the_job_its_chances(store: Store) -> None:
    await add_file(store, "file-1")
    await add_job(store)
    gone = JobError(code="trainer_lost", message="gone")
    cut = JobError(code="trainer_cut_off", message="The trainer vanished.")
    for error in (cut, cut, gone, cut, cut):
        await store.lose(await started(store), error, 2)
        assert await state(store) is State.QUEUED
    assert (await told(store))[-1].startswith("The trainer vanished. The job is queued again, not")
    await store.lose(await started(store), gone, 2)
    job = await jobs.get(store.db, "ftjob-1")
    assert job is not None
    assert job.error == JobError(code="trainer_lost", message="gone (attempt 6, the last)")


async def test_a_job_that_is_cut_off_again_and_again_fails_in_the_end(store: Store) -> None:
    await add_file(store, "file-1")
    await add_job(store)
    cut = JobError(code="trainer_cut_off", message="The trainer vanished.")
    for progressed in (False, False, False, False, True, False, False, False, False):
        attempt = await started(store)
        if progressed:
            await store.db.write(lambda tx, id_=attempt.id: attempts.note_progress(tx, id_))
        await store.lose(attempt, cut, 1)
        assert await state(store) is State.QUEUED
    await store.lose(await started(store), cut, 1)
    job = await jobs.get(store.db, "ftjob-1")
    assert job is not None
    assert job.state is State.FAILED
    assert job.error == replace(cut, message="The trainer vanished. (attempt 5, the last)")


async def test_success_is_all_or_nothing(store: Store) -> None:
    await add_file(store, "file-1")
    await add_job(store)
    attempt = await started(store)
    model = Model(
        name="ft:m::ftjob-1", project="p", kind=ModelKind.TUNED, base="m", path="adapters/x",
        sha256="0", created_at=1, job="ftjob-1",
    )  # fmt: skip
    result = File(
        seq=0, id="file-1", project="p", purpose=RESULTS, filename="r.csv", bytes=1, sha256="0",
        created_at=1, status=FileStatus.PROCESSED,
    )  # fmt: skip
    with pytest.raises(sqlite3.IntegrityError):  # the id of the result file is taken
        await store.succeed(attempt, model=model, result=result, trained_tokens=5)
    assert await state(store) is State.RUNNING
    assert await models.get(store.db, "p", model.name) is None

    good = replace(result, id="file-2")
    await store.succeed(attempt, model=model, result=good, trained_tokens=5)
    await store.succeed(attempt, model=model, result=good, trained_tokens=5)
    job = await jobs.get(store.db, "ftjob-1")
    assert job is not None
    assert (job.state, job.fine_tuned_model) == (State.SUCCEEDED, model.name)
    assert (job.trained_tokens, job.result_file) == (5, "file-2")
    assert job.fine_tuned_model_sha256 == model.sha256
    assert (await told(store))[-2:] == [
        f"New fine-tuned model created: {model.name}",
        "The job has successfully completed",
    ]


async def test_a_step_is_told_once_and_its_last_values_are_kept(store: Store) -> None:
    await add_file(store, "file-1")
    await add_job(store)
    for loss in (2.0, 1.0, 0.5):
        step = events.StepTold(
            1, store.ids.event(), f"loss {loss}", json.dumps({"step": 1, "train_loss": loss})
        )
        added = await store.db.write(
            lambda tx, step=step: events.tell_steps(tx, "ftjob-1", 0, [step])
        )
        assert added == (loss == 2.0)
    assert [m for m in await told(store) if m.startswith("loss")] == ["loss 2.0"]
    (last,) = await events.all_steps(store.db, "ftjob-1")
    assert json.loads(last) == {"step": 1, "train_loss": 0.5}
    values = await store.db.write(lambda tx: events.step_values(tx, "ftjob-1", 1))
    assert values == {"step": 1, "train_loss": 0.5}


async def test_a_checkpoint_that_is_saved_again_keeps_its_id(store: Store) -> None:
    await add_file(store, "file-1")
    await add_job(store)
    for path in ("runs/a", "runs/b"):
        await store.db.write(
            lambda tx, path=path: checkpoints.publish(
                tx, checkpoint_id=store.ids.checkpoint(), job_id="ftjob-1", now=0, step=5,
                model="ft:x:ckpt-step-5", metrics={"train_loss": 1.0}, path=path, sha256="0",
            )
        )  # fmt: skip
    page = await checkpoints.page(store.db, "ftjob-1", after=None, limit=10)
    assert len(page) == 1
    assert (await checkpoints.resume_points(store.db, "ftjob-1"))[0].path == "runs/b"


async def test_pages_are_newest_first_and_cursors_exact(store: Store) -> None:
    await add_file(store, "file-1")
    for n in range(5):
        await add_job(store, f"ftjob-{n}", metadata={"n": str(n % 2)})
    everything = {"pairs": {}, "null_metadata": False}
    page = await jobs.page(store.db, "p", after=None, limit=2, **everything)  # type: ignore[arg-type]
    assert [job.id for job in page] == ["ftjob-4", "ftjob-3"]
    page = await jobs.page(store.db, "p", after="ftjob-3", limit=9, **everything)  # type: ignore[arg-type]
    assert [job.id for job in page] == ["ftjob-2", "ftjob-1", "ftjob-0"]
    assert await jobs.page(store.db, "p", after="nope", limit=9, **everything) == ()  # type: ignore[arg-type]
    assert await jobs.page(store.db, "other", after=None, limit=9, **everything) == ()  # type: ignore[arg-type]
    odd = await jobs.page(store.db, "p", after=None, limit=9, pairs={"n": "1"}, null_metadata=False)
    assert [job.id for job in odd] == ["ftjob-3", "ftjob-1"]
    assert await jobs.page(store.db, "p", after=None, limit=9, pairs={}, null_metadata=True) == ()


@given(count=st.integers(0, 12), limit=st.integers(1, 5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
async def test_pages_of_events_are_all_of_them_once_newest_first(
    store: Store, count: int, limit: int
) -> None:
    name = f"ftjob-{count}-{limit}"
    if await jobs.get(store.db, name) is None:
        if await files.get(store.db, "p", "file-1") is None:
            await add_file(store, "file-1", None)
        await add_job(store, name)
        await add_job(store, f"{name}-other")
        for step in range(count):
            told_ = events.StepTold(step, store.ids.event(), f"Step {step}", "{}")
            await store.db.write(lambda tx, t=told_: events.tell_steps(tx, name, 0, [t]))
            await store.db.write(lambda tx: store.tell(tx, f"{name}-other", "between"))
    paged: list[str] = []
    after = None
    while page := await events.page(store.db, name, after=after, limit=limit):
        assert len(page) <= limit
        paged += [event.message for event in page]
        after = page[-1].id
    assert paged == (await told(store, name))[::-1]
    assert len(paged) == 2 + count


async def test_the_reasons_of_waiting_jobs_are_kept_together(store: Store) -> None:
    await add_file(store, "file-1")
    for name in ("ftjob-1", "ftjob-2", "ftjob-3"):
        await add_job(store, name)
    await started(store, "ftjob-3")
    reasons = {"ftjob-1": 'cpu runs "x"', "ftjob-3": "it runs", "ftjob-9": "it is nowhere"}
    await store.db.write(lambda tx: jobs.note_waits(tx, reasons))
    found = [await jobs.get(store.db, f"ftjob-{n}") for n in (1, 2, 3)]
    assert [job and job.wait_reason for job in found] == ['cpu runs "x"', None, None]


async def test_a_job_that_is_created_is_the_job_that_is_stored(store: Store) -> None:
    await add_file(store, "file-1")
    await add_file(store, "file-2", None)
    await add_file(store, "file-3", BAD)
    for number, changes in enumerate(
        [
            {"metadata": {"a": "b"}, "suffix": "x", "priority": 3},
            {"metadata": {}, "requested": Requested(n_epochs=2)},
            {"validation_file": "file-2"},
            {"training_file": "file-3"},
        ]
    ):
        job = await add_job(store, f"ftjob-{number}", **changes)
        assert job == await jobs.get(store.db, job.id)
        assert job.state is (State.QUEUED, State.QUEUED, State.VALIDATING, State.FAILED)[number]


async def test_a_snapshot_holds_what_is_not_over(store: Store) -> None:
    await add_file(store, "file-1")
    await add_file(store, "file-2", None)
    await add_job(store, "ftjob-1")
    await add_job(store, "ftjob-2", validation_file="file-2")
    await add_job(store, "ftjob-3")
    await store.cancel("ftjob-3")
    attempt = await started(store, "ftjob-1")
    snapshot = await store.snapshot((CPU,))
    assert {job.id: job.checking for job in snapshot.jobs} == {
        "ftjob-1": (),
        "ftjob-2": ("file-2",),
    }
    assert [live.id for live in snapshot.attempts] == [attempt.id]
    assert snapshot.holders == {"cpu": "ftjob-1"}


async def test_bytes_are_needed_while_an_open_job_names_them(store: Store) -> None:
    await add_file(store, "file-1")
    await add_job(store)
    attempt = await started(store)
    used = lambda tx: jobs.in_use(tx, "training_file", "file-1")  # noqa: E731
    assert await store.db.write(used)
    await store.cancel("ftjob-1")
    assert await store.db.write(used), "the attempt still ends"
    await store.stopped(attempt)
    assert not await store.db.write(used)
