"""A trainer on a disk that is full: it waits, and what it learns is the same."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftd.core.wire import Done, Fact, Notice, Stop, Stopped
from tests.disks import fill, mounted

MIB = 2**20
WAITS = "The disk is full: the checkpoint of step 3 waits for space."


@pytest.fixture
def cramped(new_job: Callable[..., Any]) -> Iterator[Any]:
    """A job whose checkpoints lie on a small disk, which is full."""
    job = new_job("cramped")
    with mounted(job.root / "out" / "checkpoints", 4 * MIB) as disk:
        fill(disk)
        yield job


def adapter_sha(job: Any) -> str:
    weights = job.file("checkpoints/step-6/adapter/adapter_model.safetensors")
    return hashlib.sha256(weights).hexdigest()


def listen(job: Any, act: Callable[[], object]) -> None:
    """Act when the trainer says that it waits for space."""
    hear = job.hear

    def heard(fact: Fact) -> None:
        hear(fact)
        if isinstance(fact, Notice) and fact.message == WAITS:
            act()

    job.hear = heard


def test_it_waits_for_space_and_learns_the_same(cramped: Any, new_job: Any) -> None:
    listen(cramped, (cramped.root / "out" / "checkpoints" / "filler").unlink)
    cramped.run()
    roomy = new_job("roomy")
    roomy.run()
    assert adapter_sha(cramped) == adapter_sha(roomy)
    assert cramped.warnings() == [WAITS]
    assert isinstance(cramped.facts[-1], Done)
    left = [path.name for path in (cramped.root / "out" / "checkpoints").iterdir()]
    assert sorted(left) == ["step-3", "step-6"], "no draft"


def test_a_cancel_ends_the_wait(cramped: Any) -> None:
    listen(cramped, lambda: cramped.asked.ask(Stop(save=False)))
    cramped.run()
    assert cramped.facts[-1] == Stopped(step=0)
    left = [path.name for path in Path(cramped.root, "out", "checkpoints").iterdir()]
    assert left == ["filler"]
