from collections.abc import Callable
from typing import Any

import pytest
import torch

from ftd.worker.train import evaluate as module
from ftd.worker.train.evaluate import Evaluation, evaluate
from ftd.worker.train.prepare import Run

NewJob = Callable[..., Any]


@pytest.fixture
def run(new_job: NewJob) -> Run:
    return new_job(validation=7).prepared()


def measure(run: Run, examples: range, alive: Callable[[], None] = lambda: None) -> Evaluation:
    assert run.validation is not None
    return evaluate(run.model, run.validation, examples, run.budget, alive)


def test_a_set_counts_by_tokens_not_by_examples(run: Run) -> None:
    assert run.validation is not None
    total_loss = total_accuracy = total = 0.0
    for example in range(7):
        one = measure(run, range(example, example + 1))
        tokens = sum(float(row.weights[1:].sum()) for row in run.validation[example])
        total_loss += one.loss * tokens
        total_accuracy += one.accuracy * tokens
        total += tokens
    whole = measure(run, range(7))
    assert whole.loss == pytest.approx(total_loss / total, rel=1e-5)
    assert whole.accuracy == pytest.approx(total_accuracy / total)


def test_windows_do_not_change_the_measure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure(run, range(7))
    calls: list[None] = []
    monkeypatch.setattr(module, "WINDOW", 2)
    pieces = measure(run, range(7), lambda: calls.append(None))
    assert len(calls) == 4
    assert pieces.loss == pytest.approx(whole.loss, rel=1e-5)
    assert pieces.accuracy == pytest.approx(whole.accuracy)


def test_dropout_is_off_and_comes_back(run: Run) -> None:
    assert run.model.network.training
    assert measure(run, range(7)) == measure(run, range(7))
    assert run.model.network.training


def test_no_gradient_and_no_random_number_is_spent(run: Run) -> None:
    before = torch.get_rng_state()
    measure(run, range(7))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(weights.grad is None for weights in run.model.trainable().values())


def test_training_mode_comes_back_after_a_fault_too(run: Run) -> None:
    def fault() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        measure(run, range(7), fault)
    assert run.model.network.training
    assert torch.is_grad_enabled()
