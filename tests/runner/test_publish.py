"""A model that people get is the one that its trainer has published, byte for byte."""

import shutil
from pathlib import Path

import pytest

from ftd.core.job import State
from ftd.host import blobs
from ftd.runner.manifest import Damaged
from ftd.runner.publish import _publish_file, _publish_model
from ftd.store import checkpoints
from ftd.store.checkpoints import ResumePoint
from ftd.store.db import Transaction
from tests.disks import fill, small_disk
from tests.runner.test_manifest import published
from tests.runner.test_resuming import runs, second_spec
from tests.runner.test_runner import World, world
from tests.test_engine import until

__all__ = ["small_disk", "world"]


async def endings(world: World) -> list[tuple[str, str | None]]:
    rows = await world.store.db.rows("SELECT ending, ending_code FROM attempts ORDER BY number")
    return [(row["ending"], row["ending_code"]) for row in rows]


@pytest.mark.parametrize("how", ["changed", "missing"])
async def test_a_final_model_that_is_damaged_is_made_again(world: World, how: str) -> None:
    world.start()
    await world.submit(
        ["steps", 1], ["checkpoint", 1], ["attempt", 1, "gate"],
        ["attempt", 1, "spoil", how, ""], ["done", 1],
    )  # fmt: skip
    await world.until_told("Checkpoint created at step 1")
    (out,) = world.home.runs.glob("*/out")
    (out / "open").touch()
    job = await world.until(State.SUCCEEDED)
    assert await endings(world) == [("lost", "checkpoint_damaged"), ("done", None)]
    (told,) = [words for words in await world.told() if "damaged" in words]
    assert told.startswith("The checkpoint of step 1 is damaged: its ")
    assert told.endswith("The job is queued again.")
    model = world.home.adapter(job.minted)
    assert (model / "adapter_model.safetensors").read_bytes() == b"weights 1"
    assert blobs.tree_sha256(model) == job.fine_tuned_model_sha256


async def test_one_that_is_never_good_fails_in_the_end_and_leaves_nothing(world: World) -> None:
    world.start()
    await world.submit(["steps", 1], ["checkpoint", 1], ["spoil", "changed", ""], ["done", 1])
    job = await world.until(State.FAILED)
    assert job.error is not None
    assert job.error.code == "checkpoint_damaged"
    assert "damaged" in job.error.message
    assert job.error.message.endswith("the last)")
    await world.until_free()
    assert list(world.home.adapters.iterdir()) == []


async def test_a_checkpoint_that_is_damaged_is_never_listed(world: World) -> None:
    world.start()
    await world.submit(
        ["steps", 2], ["checkpoint", 1], ["attempt", 1, "damaged", 2], ["attempt", 1, "hang"],
        ["gate"], ["checkpoint", 2], ["done", 2],
    )  # fmt: skip
    await world.until_told("A checkpoint is damaged that the trainer has just saved")
    listed = await checkpoints.page(world.store.db, "ftjob-1", after=None, limit=9)
    assert [checkpoint.step for checkpoint in listed] == [1]
    await second_spec(world)
    (runs(world)[1] / "out" / "open").touch()
    await world.until(State.SUCCEEDED)
    assert await endings(world) == [("lost", "checkpoint_damaged"), ("done", None)]


async def test_results_that_no_row_could_name_are_not_left(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk is full when the rows are written: settling again makes them again."""

    def trap(tx: Transaction) -> None:
        tx.execute(
            "CREATE TRIGGER trap BEFORE INSERT ON files WHEN NEW.purpose = 'fine-tune-results' "
            "BEGIN SELECT RAISE(ABORT, 'no space'); END"
        )

    await world.store.db.write(trap, about=())
    world.start()
    await world.submit(["steps", 1], ["checkpoint", 1], ["done", 1])
    await until(world, lambda: "runner failed" in caplog.text)
    kept = [path.name for path in world.home.files.iterdir() if path.is_file()]
    assert kept == ["file-ftjob-1"]
    await world.store.db.write(lambda tx: tx.execute("DROP TRIGGER trap") and None, about=())
    job = await world.until(State.SUCCEEDED)
    kept = [path.name for path in world.home.files.iterdir() if path.is_file()]
    assert set(kept) == {"file-ftjob-1", job.result_file}


def test_half_a_file_is_not_left_on_a_full_disk(small_disk: Path) -> None:
    incoming = small_disk / "incoming"
    incoming.mkdir()
    fill(small_disk, leave=4096)
    with pytest.raises(OSError, match="No space"):
        _publish_file(bytes(2**20), small_disk / "file-1", incoming)
    assert list(incoming.iterdir()) == []


def checkpoint(root: Path) -> tuple[Path, ResumePoint]:
    place, sha256 = published(root)
    return place, ResumePoint(step=1, path="p", sha256=sha256)


def test_what_a_daemon_published_before_it_died_is_taken(tmp_path: Path) -> None:
    place, point = checkpoint(tmp_path)
    target = tmp_path / "target"
    model = _publish_model(place, point, target)
    shutil.rmtree(place / "adapter")
    assert _publish_model(place, point, target) == model


def test_and_replaced_where_it_was_damaged_since(tmp_path: Path) -> None:
    place, point = checkpoint(tmp_path)
    target = tmp_path / "target"
    model = _publish_model(place, point, target)
    (target / "adapter_config.json").unlink()
    assert _publish_model(place, point, target) == model
    assert blobs.tree_sha256(target) == model.sha256


def test_nothing_is_left_of_one_that_is_damaged(tmp_path: Path) -> None:
    place, point = checkpoint(tmp_path)
    (place / "adapter" / "more").touch()
    with pytest.raises(Damaged):
        _publish_model(place, point, tmp_path / "target")
    assert {path.name for path in tmp_path.iterdir()} == {"step-1"}
