"""One attempt at a job, top to bottom: for every batch forward, backward, clip, step, report.

Nothing calls back into it: between two steps the loop itself looks at what it was asked.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ftd.core.errors import FtdError, invalid
from ftd.core.spec import CHECKPOINTS, TrainSpec
from ftd.core.wire import Done, Fact, Notice, Phase, Saved, Step, Stopped, finite
from ftd.worker import pretrained
from ftd.worker.durable import lacks_space
from ftd.worker.report import Asked
from ftd.worker.train import checkpoint
from ftd.worker.train.compute.tree import Tree
from ftd.worker.train.data import Row, TokenFile
from ftd.worker.train.evaluate import Evaluation, evaluate
from ftd.worker.train.packing import Padded
from ftd.worker.train.prepare import Interrupted, Pulse, Run, choose, prepare
from ftd.worker.train.schedule import cycled

FULL_S = 1.0  # after the first time that the disk was full, then twice as long,
LONGEST_FULL_S = 60.0  # at the most
MAX_BAD_STEPS = 3  # steps in a row without a finite loss and gradient


def attempt(
    spec: TrainSpec,
    root: Path,
    report: Callable[[Fact], None],
    asked: Asked,
    loader: pretrained.Loader = pretrained.load,
) -> Done | Stopped:
    """Do the job whose run directory is `root`; returns its last word, for the caller to tell.

    Raises FtdError for what people can mend, and whatever goes wrong otherwise.
    """
    spec, begun = choose(spec, root, report)
    try:
        return train(prepare(spec, root, report, asked, loader))
    except Interrupted:
        return Stopped(step=begun)
    except torch.OutOfMemoryError as error:
        message = (
            "The device's memory is too small for the model and what training adds to it. "
            "A smaller model would fit, or an adapter (LoRA) where every weight was to be trained."
        )
        raise invalid(message, code="out_of_memory") from error


def train(run: Run) -> Done | Stopped:
    """Take every step that is left, or as many as there are until a stop is asked for."""
    _report_untrained(run)
    run.report(Phase(name="training"))
    for step in range(run.step + 1, run.plan.total_steps + 1):
        if run.asked.stop:
            return _stop(run)
        began = time.monotonic()
        batch = _batch(run.training, run.plan.batch(step))
        rate = _set_rate(run, step)
        outcome = _forward_backward(run, batch)
        _update(run, step, outcome)
        run.step = step
        seconds = time.monotonic() - began
        fact = Step(
            step=step,
            total_steps=run.plan.total_steps,
            train_loss=finite(outcome.loss),
            train_mean_token_accuracy=finite(outcome.accuracy),
            learning_rate=rate,
            grad_norm=finite(outcome.grad_norm),
            tokens=batch.tokens,
            loss_tokens=batch.loss_tokens,
            seconds=seconds,
        )
        run.report(fact.model_copy(update=_validate(run, step)))
        if run.plan.ends_epoch(step) or _due(run):
            _save(run)
            if step < run.plan.total_steps:
                run.report(Phase(name="training"))
    return Done(step=run.step, trained_tokens=run.training.tokens * run.spec.n_epochs)


def _report_untrained(run: Run) -> None:
    """The validation loss that training begins with, told once and in no step's metrics."""
    if run.validation is None or run.step > 0 or run.asked.stop:
        return
    full = _evaluate(run, range(len(run.validation)))
    run.report(
        Notice(
            message=f"Validation before training: full validation loss={full.loss:.2f}",
            data={
                "step": 0,
                "full_valid_loss": finite(full.loss),
                "full_valid_mean_token_accuracy": finite(full.accuracy),
            },
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The rows of one step. `weight` is the sum of their tokens' weights, the loss's divisor."""

    rows: list[Row]
    weight: float
    tokens: int
    loss_tokens: int


def _batch(file: TokenFile, examples: list[int]) -> Batch:
    rows = [row for example in examples for row in file[example]]
    return Batch(
        rows=rows,
        weight=sum(float(row.weights[1:].sum(dtype=np.float64)) for row in rows),
        tokens=sum(len(row.ids) for row in rows),
        loss_tokens=sum(int(np.count_nonzero(row.weights[1:])) for row in rows),
    )


def _set_rate(run: Run, step: int) -> float:
    rate = run.spec.optimizer.learning_rate * run.plan.rate(step)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    return rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Of one step: loss in nats per trained token, accuracy 0..1, gradient norm before clipping."""

    loss: float
    accuracy: float
    grad_norm: float

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def _forward_backward(run: Run, batch: Batch) -> Outcome:
    """Leave the clipped gradient of the batch's loss in the parameters.

    The loss is sum(weight * nll) / sum(weight) over the whole batch, whatever passes it is
    computed in: a mean of the passes' means would favour the tokens of small ones.
    """
    pulse = Pulse("training", run.report)

    def accumulate(passes: list[Tree | Padded]) -> tuple[Tensor, Tensor]:
        run.optimizer.zero_grad(set_to_none=True)
        nll, hits = [], []
        for work in passes:
            pulse()
            score = run.model.scorer.score(work)
            torch.autograd.backward(score.nll / batch.weight)
            nll.append(score.nll.detach())
            hits.append(score.hits)
        return torch.stack(nll).sum(), torch.stack(hits).sum()

    nll, hits = run.budget.fit(batch.rows, accumulate)
    norm = nn.utils.clip_grad_norm_(run.model.trainable().values(), run.spec.optimizer.clip_norm)
    # One transfer from the device a step.
    nll_sum, hit_sum, grad_norm = torch.stack([nll, hits, norm]).tolist()
    return Outcome(
        loss=nll_sum / batch.weight, accuracy=hit_sum / batch.weight, grad_norm=grad_norm
    )


def _update(run: Run, step: int, outcome: Outcome) -> None:
    """Move the weights, but never by what is not a number: such a step is passed over."""
    if outcome.finite:
        run.optimizer.step()
        run.bad_steps = 0
        return
    run.bad_steps += 1
    if run.bad_steps >= MAX_BAD_STEPS:
        raise _diverged(
            f"In {run.bad_steps} steps in a row, up to step {step}, the loss or its gradient was "
            "not a number."
        )
    run.report(
        Notice(
            level="warn",
            message=f"Step {step}: the loss or its gradient is not a number; the weights stay.",
        )
    )


def _validate(run: Run, step: int) -> dict[str, float | None]:
    """A step's validation fields: a small batch each step, the full set where an epoch ends."""
    if run.validation is None:
        return {}
    examples = len(run.validation)
    small = _evaluate(run, cycled(run.spec.seed, step, run.spec.batch_size, examples))
    fields = {"valid_loss": small.loss, "valid_mean_token_accuracy": small.accuracy}
    if run.plan.ends_epoch(step):
        full = _evaluate(run, range(examples))
        fields["full_valid_loss"] = full.loss
        fields["full_valid_mean_token_accuracy"] = full.accuracy
    return {name: finite(value) for name, value in fields.items()}


def _evaluate(run: Run, examples: Sequence[int]) -> Evaluation:
    assert run.validation is not None
    pulse = Pulse("training", run.report)
    return evaluate(run.model, run.validation, examples, run.budget, pulse)


def _due(run: Run) -> bool:
    """Whether it is time for a resume point. The clock decides when one is written, and no bit of
    what is learnt."""
    steps, seconds = run.spec.checkpoint_every_steps, run.spec.checkpoint_every_s
    by_steps = steps > 0 and run.step % steps == 0
    return by_steps or (seconds > 0 and time.monotonic() - run.saved_at >= seconds)


def _save(run: Run) -> None:
    """Publish a checkpoint of the last step taken, unless there is one already."""
    if run.saved == run.step:
        return
    if not all(bool(weights.isfinite().all()) for weights in run.model.trainable().values()):
        raise _diverged(f"After step {run.step} some weights are not numbers.")
    run.report(Phase(name="saving"))
    epoch, position = run.plan.place(run.step)
    progress = checkpoint.Progress(
        step=run.step,
        epoch=epoch,
        position=position,
        micro_batch_tokens=run.budget.tokens,
        bad_steps=run.bad_steps,
    )
    published = _publish(run, progress)
    run.saved, run.saved_at = run.step, time.monotonic()
    run.report(
        Saved(
            step=run.step,
            epoch=epoch,
            path=published.path.relative_to(run.out).as_posix(),
            manifest_sha256=published.manifest_sha256,
            contents=run.model.contents,
            epoch_end=run.step > 0 and position == 0,
        )
    )


def _publish(run: Run, progress: checkpoint.Progress) -> checkpoint.Published:
    """A full disk is waited for, later each time, so that no step is lost for want of space. Raises
    Interrupted when asked to stop meanwhile without a checkpoint."""
    rest_s = FULL_S
    while True:
        try:
            return checkpoint.publish(run.out / CHECKPOINTS, progress, run.model, run.optimizer)
        except Exception as error:
            if not lacks_space(error):
                raise
        if rest_s == FULL_S:
            message = f"The disk is full: the checkpoint of step {progress.step} waits for space."
            run.report(Notice(level="warn", message=message))
        _rest(run, rest_s)
        rest_s = min(2 * rest_s, LONGEST_FULL_S)


def _rest(run: Run, seconds: float) -> None:
    pulse = Pulse("saving", run.report)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if run.asked.stop and not run.asked.save:
            raise Interrupted
        time.sleep(0.1)
        pulse()


def _stop(run: Run) -> Stopped:
    if run.asked.save:
        _save(run)
    return Stopped(step=run.step)


def _diverged(what: str) -> FtdError:
    return invalid(
        f"{what} The training has diverged; a lower learning_rate_multiplier usually helps. "
        "Checkpoints saved before are sound.",
        code="diverged",
    )
