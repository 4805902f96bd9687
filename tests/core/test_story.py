"""Facts are held against each other: what contradicts is refused, what goes on is taken."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftd.core import wire
from ftd.core.story import Story


def story(*, furthest: int = 0, resumable: tuple[int, ...] = ()) -> Story:
    return Story(job="ftjob-1", attempt=2, furthest=furthest, resumable=frozenset(resumable))


def step(number: int, total: int = 10) -> wire.Step:
    return wire.Step(
        step=number, total_steps=total, train_loss=1.0, learning_rate=0.1, tokens=1, loss_tokens=1,
        seconds=0.1,
    )  # fmt: skip


def prepared(total: int) -> wire.Prepared:
    return wire.Prepared(examples=10, epoch_tokens=100, steps_per_epoch=5, total_steps=total)


def saved(number: int) -> wire.Saved:
    return wire.Saved(step=number, epoch=1, path="p", manifest_sha256="0")


ACCEPTED = wire.Accepted(job="ftjob-1", attempt=2)
WHOLE = [
    wire.Started(pid=1), ACCEPTED, prepared(10), wire.Phase(name="training"),
    *(step(number) for number in range(1, 6)), saved(5), saved(5),
    *(step(number) for number in range(6, 11)), saved(10), wire.Done(step=10, trained_tokens=1),
]  # fmt: skip


def test_a_whole_attempt_is_taken() -> None:
    told = story()
    for fact in WHOLE:
        told.take(fact)
    assert (told.furthest, told.total_steps) == (10, 10)


def test_a_resumed_attempt_takes_again_what_an_earlier_one_took() -> None:
    told = story(furthest=7, resumable=(5,))
    for fact in (ACCEPTED, prepared(10), wire.Resumed(step=5), saved(5), step(6), saved(6)):
        told.take(fact)
    assert told.furthest == 7


def test_an_attempt_that_is_taken_up_in_its_middle_goes_on() -> None:
    told = story(furthest=7)
    for fact in (saved(7), step(8), step(9), saved(9)):
        told.take(fact)


@pytest.mark.parametrize(
    ("before", "lie", "words"),
    [
        ([], wire.Accepted(job="ftjob-2", attempt=2), "another job"),
        ([], wire.Accepted(job="ftjob-1", attempt=1), "another attempt"),
        ([step(7)], step(3), "step 3 came after step 7"),
        ([step(7)], step(7), "step 7 came after step 7"),
        ([], step(11), "step 11 of 10"),
        ([prepared(10)], step(1, total=20), "20 steps, after 10"),
        ([step(1)], step(2, total=5), "5 steps, after 10"),
        ([step(1)], prepared(5), "5 steps, after 10"),
        ([step(1)], saved(2), "saved step 2 before it had taken it"),
        ([], saved(1), "saved step 1"),
        ([], wire.Resumed(step=4), "from step 4, which was never saved"),
    ],
)
def test_a_lie_is_refused(before: list[wire.Fact], lie: wire.Fact, words: str) -> None:
    told = story()
    for fact in before:
        told.take(fact)
    with pytest.raises(wire.WireError, match=words):
        told.take(lie)


@given(st.lists(st.sampled_from(WHOLE), max_size=30))
def test_whatever_is_taken_ends_within_its_plan(facts: list[wire.Fact]) -> None:
    told = story()
    for fact in facts:
        before = replace(told)
        try:
            told.take(fact)
        except wire.WireError:
            break
        assert told.furthest >= before.furthest
        assert told.step <= (told.total_steps or 0)
        if isinstance(fact, wire.Saved):
            assert fact.step <= told.furthest
