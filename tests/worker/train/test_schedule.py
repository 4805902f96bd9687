import itertools
import math

import pytest

from ftd.worker.train.schedule import Plan, Stream, cycled, multiplier, order

GOLDEN = [4, 1, 3, 6, 0, 7, 2, 5]


def plan(**changes: object) -> Plan:
    settings = {"examples": 10, "batch_size": 4, "n_epochs": 3, "seed": 42, "warmup_ratio": 0.1}
    return Plan(**(settings | changes))


def test_steps_per_epoch_round_up() -> None:
    assert (plan().steps_per_epoch, plan().total_steps) == (3, 9)
    assert plan(examples=8).steps_per_epoch == 2


@pytest.mark.parametrize(("examples", "batch_size"), [(10, 4), (8, 4), (1, 16), (7, 1)])
def test_every_example_comes_once_an_epoch(examples: int, batch_size: int) -> None:
    this = plan(examples=examples, batch_size=batch_size)
    epochs = []
    for epoch in range(this.n_epochs):
        first = epoch * this.steps_per_epoch + 1
        steps = range(first, first + this.steps_per_epoch)
        taken = list(itertools.chain.from_iterable(this.batch(step) for step in steps))
        assert sorted(taken) == list(range(examples))
        assert [this.ends_epoch(step) for step in steps] == [False] * (len(steps) - 1) + [True]
        assert this.place(steps[-1]) == (epoch + 1, 0)
        epochs.append(tuple(taken))
    assert examples < 5 or len(set(epochs)) == this.n_epochs, "each epoch has its own order"


def test_the_order_is_known_for_ever() -> None:
    """A change here breaks the resuming of jobs that began before it."""
    assert order(42, Stream.TRAINING, 0, 8).tolist() == GOLDEN
    assert order(42, Stream.VALIDATION, 0, 8).tolist() != GOLDEN
    assert order(43, Stream.TRAINING, 0, 8).tolist() != GOLDEN


def test_the_small_validation_batch_goes_round_the_set() -> None:
    taken = [cycled(42, step, 4, 10) for step in range(1, 6)]
    assert all(len(batch) == 4 for batch in taken)
    flat = list(itertools.chain.from_iterable(taken))
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))


def test_a_validation_set_smaller_than_a_batch_is_taken_whole() -> None:
    assert sorted(cycled(42, 3, 4, 2)) == [0, 1]


def test_the_rate_rises_to_one_and_falls_towards_zero() -> None:
    rates = [multiplier(step, 100, 0.1) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([step / 11 for step in range(1, 11)])
    assert rates[10] == max(rates) == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.001


def test_the_rate_is_never_nothing() -> None:
    for total, ratio in itertools.product([1, 2, 3, 10], [0.0, 0.03, 0.5, 1.0]):
        rates = [multiplier(step, total, ratio) for step in range(1, total + 1)]
        assert all(0 < rate <= 1 for rate in rates), (total, ratio)
        assert math.isclose(max(rates), 1.0), (total, ratio)
