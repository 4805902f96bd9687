"""Which points to go on from are kept, and which are forgotten."""

import pytest

from ftd.store import attempts, checkpoints
from ftd.store.db import Transaction
from ftd.store.store import Store
from tests.store.test_store import add_file, add_job, started


@pytest.fixture
async def running(store: Store) -> Store:
    await add_file(store, "file-1")
    await add_job(store)
    await started(store)
    return store


def publish(tx: Transaction, store: Store, step: int, model: str | None) -> None:
    checkpoints.publish(
        tx, checkpoint_id=store.ids.checkpoint(), job_id="ftjob-1", now=1, step=step, model=model,
        metrics={}, path=f"runs/r/out/checkpoints/step-{step}", sha256="0",
    )  # fmt: skip
    checkpoints.thin(tx, "ftjob-1", step)


async def published(store: Store, *steps: int, named: tuple[int, ...] = ()) -> list[int]:
    """The steps that are left after checkpoints of these were published, in this order."""
    for step in steps:
        name = f"ckpt-{step}" if step in named else None
        await store.db.write(lambda tx, s=step, n=name: publish(tx, store, s, n))  # type: ignore[misc]
    return [point.step for point in await checkpoints.resume_points(store.db, "ftjob-1")]


async def test_the_two_newest_stay(running: Store) -> None:
    assert await published(running, 2) == [2]
    assert await published(running, 4) == [4, 2]
    assert await published(running, 6) == [6, 4]


async def test_a_models_checkpoint_stays_and_counts(running: Store) -> None:
    assert await published(running, 2, 3, 4, 5, 6, 7, named=(3, 6)) == [7, 6, 3]
    listed = await checkpoints.page(running.db, "ftjob-1", after=None, limit=9)
    assert [checkpoint.step for checkpoint in listed] == [6, 3]


async def test_what_was_found_damaged_never_makes_a_sound_one_needless(running: Store) -> None:
    assert await published(running, 4, 6, 8, named=(6,)) == [8, 6]
    await running.db.write(lambda tx: checkpoints.forget_after(tx, "ftjob-1", 0))
    assert await published(running) == [6], "a model's is made again when its step is passed again"
    assert await published(running, 2, 3) == [6, 3, 2]
    assert await published(running, 5) == [6, 5, 3]


async def test_a_lost_point_is_forgotten_and_a_lost_model_stays(running: Store) -> None:
    await published(running, 2, 3, named=(3,))
    for step in (2, 3):
        await running.db.write(lambda tx, s=step: checkpoints.forget(tx, "ftjob-1", s))  # type: ignore[misc]
    assert await published(running) == [3]


async def test_a_job_that_is_over_has_no_points(running: Store) -> None:
    await published(running, 2, 3, 4, named=(3,))
    await running.db.write(checkpoints.forget_over)
    assert await published(running) == [4, 3]
    assert await running.cancel("ftjob-1") is not None
    await running.db.write(checkpoints.forget_over)
    assert await published(running) == [4, 3], "its attempt still lives"
    (attempt,) = await attempts.live(running.db)
    await running.stopped(attempt)
    await running.db.write(checkpoints.forget_over)
    assert await published(running) == [3]
