"""Pause and resume: the wish at once, the state when it is true, on a real database."""

from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftd.core.dataset import Report
from ftd.core.file import FileStatus
from ftd.core.job import Attempt, Job, JobError, State, Want
from ftd.store import attempts, files, jobs
from ftd.store.store import Store
from tests.store.test_store import CPU, GOOD, add_file, add_job, started, state, told

GONE = JobError(code="trainer_lost", message="The trainer was killed by signal 9.")
PAUSED = "Fine-tuning job paused"
RESUMED = "Fine-tuning job resumed"


async def queued(store: Store, report: Report | None = GOOD) -> Job:
    await add_file(store, "file-1", report)
    return await add_job(store)


async def at_step(store: Store, step: int) -> None:
    await store.db.write(lambda tx: jobs.note_progress(tx, "ftjob-1", step, None))


def shown(job: Job | None) -> tuple[State, Want]:
    assert job is not None
    return job.state, job.want


async def test_a_queued_job_pauses_and_resumes_at_once(store: Store) -> None:
    await queued(store)
    before = len(await told(store))
    for _ in range(2):
        assert shown(await store.pause("ftjob-1")) == (State.PAUSED, Want.PAUSE)
    assert await store.start("ftjob-1", "run-1", ()) is None, "it does not start"
    for _ in range(2):
        assert shown(await store.resume("ftjob-1")) == (State.QUEUED, Want.RUN)
    assert (await told(store))[before:] == [PAUSED, RESUMED], "each is told once"


async def test_a_job_whose_files_are_checked_pauses_when_they_are(store: Store) -> None:
    await queued(store, None)
    assert shown(await store.pause("ftjob-1")) == (State.VALIDATING, Want.PAUSE)
    await store.db.write(
        lambda tx: files.checked(tx, "file-1", FileStatus.PROCESSED, GOOD.to_json())
    )
    await store.admit("ftjob-1")
    assert await state(store) is State.PAUSED
    resumed = await store.resume("ftjob-1")
    assert resumed is not None
    assert resumed.state is State.QUEUED
    assert resumed.hyperparameters is not None, "it was judged"


async def test_a_running_job_pauses_when_its_trainer_has_stopped(store: Store) -> None:
    await queued(store)
    attempt = await started(store)
    pausing = await store.pause("ftjob-1")
    assert shown(pausing) == (State.RUNNING, Want.PAUSE)
    assert pausing is not None
    assert pausing.doing == "pausing"
    assert PAUSED not in await told(store)
    await at_step(store, 40)
    await store.stopped(attempt)
    assert await state(store) is State.PAUSED
    assert await attempts.holders(store.db) == {}
    assert (await told(store))[-1] == f"{PAUSED} after step 40"


async def test_a_resume_while_the_trainer_still_stops_ends_in_the_queue(store: Store) -> None:
    await queued(store)
    attempt = await started(store)
    await store.pause("ftjob-1")
    assert shown(await store.resume("ftjob-1")) == (State.RUNNING, Want.RUN)
    await store.stopped(attempt)
    assert await state(store) is State.QUEUED
    assert (await told(store))[-2:] == [
        RESUMED,
        "The trainer was stopped after step 0. The job is queued again.",
    ]
    await started(store)


async def test_a_trainer_that_is_killed_before_it_has_saved_leaves_a_paused_job(
    store: Store,
) -> None:
    await queued(store)
    attempt = await started(store)
    await store.pause("ftjob-1")
    await store.lose(attempt, GONE, 1)
    assert await state(store) is State.PAUSED, "though it had one chance alone"
    assert (await told(store))[-1] == (
        f"{GONE.message} The job is paused; it will go on from its last checkpoint."
    )
    await store.resume("ftjob-1")
    await store.lose(await started(store), GONE, 2)
    assert await state(store) is State.QUEUED, "the pause is no chance that it has had"


async def test_an_attempt_that_never_began_lets_its_job_pause(store: Store) -> None:
    await queued(store)
    attempt = await started(store)
    await store.pause("ftjob-1")
    await store.give_back(attempt, "a lock was held")
    job = await jobs.get(store.db, "ftjob-1")
    assert shown(job) == (State.PAUSED, Want.PAUSE)
    assert job is not None
    assert job.wait_reason is None


async def test_stops_from_outside_do_not_count_against_a_job(store: Store) -> None:
    """A machine that shuts down often, before a checkpoint each time."""
    await queued(store)
    for _ in range(5):
        await store.stopped(await started(store))
        assert await state(store) is State.QUEUED
    await store.lose(await started(store), GONE, 2)
    assert await state(store) is State.QUEUED
    await store.lose(await started(store), GONE, 2)
    assert await state(store) is State.FAILED


async def test_a_stop_before_any_checkpoint_is_no_loop(store: Store) -> None:
    await queued(store)
    await store.stopped(await started(store), 5.0)
    (waiting,) = (await store.snapshot((CPU,))).jobs
    assert waiting.retry_at == store.clock.now() + 5
    attempt = await started(store)
    await store.db.write(lambda tx: attempts.note_progress(tx, attempt.id))
    await store.stopped(attempt, 5.0)
    (ready,) = (await store.snapshot((CPU,))).jobs
    assert ready.retry_at is None


@pytest.mark.parametrize("running", [True, False])
async def test_a_job_that_pauses_or_is_paused_can_be_cancelled(store: Store, running: bool) -> None:
    await queued(store)
    attempt = await started(store) if running else None
    await store.pause("ftjob-1")
    assert shown(await store.cancel("ftjob-1")) == (State.CANCELLED, Want.CANCEL)
    if attempt is not None:
        await store.stopped(attempt)
    assert await state(store) is State.CANCELLED
    before = await told(store)
    assert await store.pause("ftjob-1") is None
    assert await store.resume("ftjob-1") is None
    assert await told(store) == before


async def test_a_job_that_fails_before_it_pauses_has_failed(store: Store) -> None:
    await queued(store)
    attempt = await started(store)
    await store.pause("ftjob-1")
    await store.failed(attempt, JobError(code="diverged", message="no numbers"))
    assert await state(store) is State.FAILED
    assert await store.resume("ftjob-1") is None


WISHES = st.sampled_from(["pause", "resume"])
DEEDS = st.sampled_from(["start", "stopped", "lose", "give_back"])
_names = count()


@given(st.lists(WISHES | DEEDS, max_size=30))
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
async def test_whatever_happens_in_whatever_order_the_last_wish_comes_true(
    store: Store, story: list[str]
) -> None:
    if await files.get(store.db, "p", "file-1") is None:
        await add_file(store, "file-1")
    name = f"ftjob-{next(_names):04}"
    await add_job(store, name)
    attempt: Attempt | None = None
    want, before = Want.RUN, State.QUEUED
    resumes = pauses = 0
    for event in story:
        if event == "pause":
            want = Want.PAUSE
            await store.pause(name)
        elif event == "resume":
            resumes += want is Want.PAUSE
            want = Want.RUN
            await store.resume(name)
        elif event == "start" and attempt is None:
            attempt = await _start(store, name, want)
        elif event != "start" and attempt is not None:
            await _end(store, attempt, event)
            attempt = None
        rest = State.PAUSED if want is Want.PAUSE else State.QUEUED
        now = rest if attempt is None else State.RUNNING
        assert shown(await jobs.get(store.db, name)) == (now, want)
        pauses += now is State.PAUSED and before is not State.PAUSED
        before = now
    if attempt is not None:  # the next story's job has a start of its own
        await store.cancel(name)
        await store.stopped(attempt)
    messages = await told(store, name)
    assert messages.count(RESUMED) == resumes
    assert sum(PAUSED in m or "The job is paused" in m for m in messages) == pauses


async def _start(store: Store, name: str, want: Want) -> Attempt | None:
    attempt = await store.start(name, store.ids.launch(), ())
    assert (attempt is None) == (want is Want.PAUSE)
    return attempt


async def _end(store: Store, attempt: Attempt, how: str) -> None:
    match how:
        case "stopped":
            await store.stopped(attempt)
        case "lose":
            await store.lose(attempt, GONE, 1000)
        case _:
            await store.give_back(attempt, "a lock was held")
