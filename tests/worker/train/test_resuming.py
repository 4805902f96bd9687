"""Points to go on from between epochs: when they are written, and which one is taken."""

import hashlib
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from ftd.core.errors import FtdError
from ftd.core.spec import Lora
from ftd.core.wire import Done, Notice, Resumed, Saved, Step, Stopped
from ftd.worker.train import checkpoint
from ftd.worker.train.loop import train

NewJob = Callable[..., Any]
Damage = Callable[[Path], object]
LAST = "checkpoints/step-6/adapter/adapter_model.safetensors"


def sha(job: Any) -> str:
    return hashlib.sha256(job.file(LAST)).hexdigest()


def point(job: Any, step: int) -> str:
    return str(job.root / "out" / "checkpoints" / f"step-{step}")


def test_points_by_steps_are_no_models_and_change_no_bit(new_job: NewJob) -> None:
    bare, often = new_job("bare", validation=3), new_job("often", validation=3)
    often.spec = often.spec.model_copy(update={"checkpoint_every_steps": 2})
    bare.run()
    often.run()
    assert [saved.step for saved in bare.told(Saved)] == [3, 6]
    told = [(saved.step, saved.epoch_end) for saved in often.told(Saved)]
    assert told == [(2, False), (3, True), (4, False), (6, True)]
    assert sha(often) == sha(bare)


@pytest.mark.parametrize(("seconds", "steps"), [(1e-9, [1, 2, 3, 4, 5, 6]), (3600.0, [3, 6])])
def test_the_clock_decides_when_and_no_bit(
    new_job: NewJob, seconds: float, steps: list[int]
) -> None:
    bare, timed = new_job("bare"), new_job("timed", checkpoint_every_s=seconds)
    bare.run()
    timed.run()
    assert [saved.step for saved in timed.told(Saved)] == steps
    assert sha(timed) == sha(bare)


@pytest.mark.parametrize("step", [1, 2, 4, 5])
@pytest.mark.parametrize("lora", [Lora(rank=4, alpha=8), Lora(rank=4, alpha=8, dropout=0.2)])
@pytest.mark.parametrize("validation", [0, 3])
def test_whoever_goes_on_from_a_point_ends_where_nobody_stopped(
    new_job: NewJob, step: int, lora: Lora, validation: int
) -> None:
    straight = new_job("straight", lora=lora, validation=validation, checkpoint_every_steps=1)
    straight.run()
    resumed = new_job("resumed", lora=lora, validation=validation, resume=point(straight, step))
    resumed.run()
    assert resumed.told(Resumed) == [Resumed(step=step)]
    assert resumed.told(Step)[0].step == step + 1
    assert sha(resumed) == sha(straight)
    measured = {fact.step: fact.model_copy(update={"seconds": 0}) for fact in straight.told(Step)}
    for fact in resumed.told(Step):
        assert fact.model_copy(update={"seconds": 0}) == measured[fact.step]


def test_steps_that_are_no_number_are_counted_over_a_resume(new_job: NewJob) -> None:
    """Otherwise a job that diverges would go on as often as it is stopped."""
    job = new_job("job", batch_size=1, n_epochs=1)
    run = job.prepared()
    spoil(run, {4, 5})
    job.stop_after = (5, True)
    assert train(run) == Stopped(step=5)
    again = new_job("again", batch_size=1, n_epochs=1, resume=point(job, 5))
    run = again.prepared()
    assert run.bad_steps == 2
    spoil(run, {1})
    with pytest.raises(FtdError, match="In 3 steps in a row, up to step 6"):
        train(run)


def spoil(run: Any, passes: set[int]) -> None:
    """Make some forward passes give what is not a number, counted from 1."""
    decoder = run.model.network.get_base_model().model
    forward, counter = decoder.forward, count(1)

    def spoilt(**inputs: Any) -> Any:
        outputs = forward(**inputs)
        if next(counter) in passes:
            outputs.last_hidden_state = outputs.last_hidden_state * torch.nan
        return outputs

    decoder.forward = spoilt


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def weights(place: Path) -> Path:
    return place / "adapter" / "adapter_model.safetensors"


DAMAGE: dict[str, Damage] = {
    "a flipped bit of the weights": lambda place: flip(weights(place)),
    "a flipped bit of the optimizer": lambda place: flip(place / checkpoint.TENSORS),
    "a flipped bit of the state": lambda place: flip(place / checkpoint.STATE),
    "truncated": lambda place: weights(place).write_bytes(weights(place).read_bytes()[:-100]),
    "empty": lambda place: (place / checkpoint.TENSORS).write_bytes(b""),
    "missing": lambda place: (place / checkpoint.STATE).unlink(),
    "one more": lambda place: (place / "adapter" / "model.safetensors").write_bytes(b"x"),
    "no manifest": lambda place: (place / checkpoint.MANIFEST).unlink(),
    "half a manifest": lambda place: (place / checkpoint.MANIFEST).write_bytes(
        (place / checkpoint.MANIFEST).read_bytes()[:50]
    ),
    "nothing at all": lambda place: [shutil.rmtree(place), place.mkdir()],
}


@pytest.fixture
def straight(new_job: NewJob) -> Any:
    job = new_job("straight", checkpoint_every_steps=1)
    job.run()
    return job


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_checkpoint_is_told_of_and_the_one_before_it_taken(
    new_job: NewJob, straight: Any, damage: Damage
) -> None:
    damage(Path(point(straight, 5)))
    job = new_job("job", resume=point(straight, 5), resume_else=(point(straight, 4),))
    job.run()
    (warning,) = job.warnings()
    assert "step" in warning
    assert "5 is damaged: " in warning
    assert warning.endswith(" It is not used.")
    assert job.told(Resumed) == [Resumed(step=4)]
    assert sha(job) == sha(straight)


def test_with_none_left_it_begins_anew_and_says_so(new_job: NewJob, straight: Any) -> None:
    for step in (5, 4):
        flip(weights(Path(point(straight, step))))
    job = new_job("job", resume=point(straight, 5), resume_else=(point(straight, 4),))
    job.run()
    assert len(job.warnings()) == 2
    assert job.told(Resumed) == [Resumed(step=0)]
    assert [step.step for step in job.told(Step)] == [1, 2, 3, 4, 5, 6]
    assert isinstance(job.facts[-1], Done)
    assert sha(job) == sha(straight)


def test_a_sound_one_is_taken_without_a_word(new_job: NewJob, straight: Any) -> None:
    job = new_job("job", resume=point(straight, 5), resume_else=(point(straight, 4),))
    job.run()
    assert job.told(Resumed) == [Resumed(step=5)]
    assert job.told(Notice) == []
