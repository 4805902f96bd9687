"""Before the first step: load the model, tokenise the files, plan, and stand where a resumed
attempt stood.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim import AdamW, Optimizer

from ftd.core.errors import FtdError, invalid
from ftd.core.memory import fit
from ftd.core.spec import TOKENS, TrainSpec
from ftd.core.wire import Fact, Notice, Phase, Prepared, Resumed
from ftd.worker import pretrained
from ftd.worker.report import Asked
from ftd.worker.train import checkpoint
from ftd.worker.train.budget import Budget
from ftd.worker.train.compute.proof import compiled
from ftd.worker.train.data import Source, TokenFile, Tokenized, tokenize
from ftd.worker.train.model import Model, load
from ftd.worker.train.overlap import overlap
from ftd.worker.train.schedule import Plan

IN = "in"
OUT = "out"
COMPILED_TOKENS = 2_000_000  # of a job on a GPU: minutes, beside the seconds that compiling takes
HEARTBEAT_S = 10.0  # long work says at least this often that it goes on


@dataclass(slots=True, kw_only=True)
class Run:
    """An attempt under way. `step` is the last one taken; `saved` the last one published, and
    `saved_at` when that was on the monotonic clock."""

    spec: TrainSpec
    plan: Plan
    model: Model
    optimizer: Optimizer
    budget: Budget
    training: TokenFile
    validation: TokenFile | None
    out: Path
    report: Callable[[Fact], None]
    asked: Asked
    step: int = 0
    saved: int | None = None
    saved_at: float = field(default_factory=time.monotonic)
    bad_steps: int = 0


class Interrupted(Exception):
    """A stop was asked for in the middle of work that leaves nothing to save."""


def choose(spec: TrainSpec, root: Path, report: Callable[[Fact], None]) -> tuple[TrainSpec, int]:
    """The spec that resumes from the newest of its checkpoints that is as it was published, or
    from none, and that one's step. People are told of each that is damaged."""
    places = [spec.resume, *spec.resume_else] if spec.resume is not None else []
    for place in places:
        try:
            step = checkpoint.verify(root / place).step
        except FtdError as error:
            report(Notice(level="warn", message=f"{error.message} It is not used."))
        else:
            return spec.model_copy(update={"resume": place}), step
    if places:
        report(Resumed(step=0))  # all of them are of no use, and it begins anew
    return spec.model_copy(update={"resume": None}), 0


def prepare(
    spec: TrainSpec,
    root: Path,
    report: Callable[[Fact], None],
    asked: Asked,
    loader: pretrained.Loader = pretrained.load,
) -> Run:
    """Load, tokenise and plan. With `spec.resume`, stand where that checkpoint stood, which the
    caller has verified. Raises FtdError, and Interrupted when asked to stop meanwhile."""
    report(Phase(name="loading"))
    _make_deterministic(spec)
    model = load(spec, root, loader)
    report(Phase(name="tokenizing"))
    reader = Reader(spec=spec, root=root, tokenizer=model.tokenizer, report=report, asked=asked)
    training = reader.read("training", spec.training_file)
    validation = reader.read("validation", spec.validation_file) if spec.validation_file else None
    if spec.resume is None and validation is not None:
        reader.warn_of_overlap(validation, training)
    plan = Plan(
        examples=training.examples,
        batch_size=spec.batch_size,
        n_epochs=spec.n_epochs,
        seed=spec.seed,
        warmup_ratio=spec.optimizer.warmup_ratio,
    )
    trainable = model.trainable().values()
    report(
        Prepared(
            examples=training.examples,
            validation_examples=validation.examples if validation else 0,
            truncated=training.truncated,
            skipped=training.skipped,
            epoch_tokens=training.file.tokens,
            steps_per_epoch=plan.steps_per_epoch,
            total_steps=plan.total_steps,
            trainable_parameters=sum(parameter.numel() for parameter in trainable),
        )
    )
    if model.device.type == "cuda" and training.file.tokens * spec.n_epochs >= COMPILED_TOKENS:
        model = replace(model, scorer=compiled(model.scorer))
    run = Run(
        spec=spec,
        plan=plan,
        model=model,
        optimizer=_optimizer(spec, model),
        budget=_budget(spec, model, training.file, report),
        training=training.file,
        validation=validation.file if validation else None,
        out=root / OUT,
        report=report,
        asked=asked,
    )
    if spec.resume is not None:
        _resume(run, root / spec.resume)
    return run


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Tokenises the job's files and tells people what was lost on the way."""

    spec: TrainSpec
    root: Path
    tokenizer: Any
    report: Callable[[Fact], None]
    asked: Asked

    def read(self, use: str, name: str) -> Tokenized:
        """Raises FtdError when nothing is left to train on, Interrupted when asked to stop."""
        source = Source(
            path=self.root / name,
            tokenizer=self.tokenizer,
            context_tokens=self.spec.context_tokens,
            threads=self.spec.threads,
        )
        out, lent = (self.root / place / TOKENS / use for place in (OUT, IN))
        tokenized = tokenize(source, out, lent, self._progress())
        if tokenized.warnings:
            message = f"{use.capitalize()} file: {' '.join(tokenized.warnings)}"
            data = {"truncated": tokenized.truncated, "skipped": tokenized.skipped}
            self.report(Notice(level="warn", message=message, data=data))
        if not tokenized.examples:
            raise invalid(
                f"No example of the {use} file has anything to train on: none has a word of the "
                f"assistant within the first {self.spec.context_tokens:,} tokens.",
                code=f"invalid_{use}_file",
                param=f"{use}_file",
            )
        return tokenized

    def warn_of_overlap(self, validation: Tokenized, training: Tokenized) -> None:
        """Say how many examples to validate on are trained on: their loss tells little."""
        known = overlap(validation.file, training.file, self._progress())
        if known:
            message = (
                f"{known:,} of {validation.examples:,} validation examples are in the "
                "training file too; the validation loss tells less than it seems to."
            )
            data = {"overlap": known, "validation_examples": validation.examples}
            self.report(Notice(level="warn", message=message, data=data))

    def _progress(self) -> Callable[[], None]:
        pulse = Pulse("tokenizing", self.report)

        def progress() -> None:
            if self.asked.stop:
                raise Interrupted
            pulse()

        return progress


class Pulse:
    """Says during long work, when called, that it goes on: every HEARTBEAT_S at the most."""

    def __init__(self, phase: str, report: Callable[[Fact], None]) -> None:
        self._phase = Phase(name=phase)
        self._report = report
        self._told = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._told >= HEARTBEAT_S:
            self._report(self._phase)
            self._told = time.monotonic()


def _make_deterministic(spec: TrainSpec) -> None:
    """The same seed and threads give the same bits on a CPU; on CUDA, what costs no speed."""
    torch.set_num_threads(spec.threads)
    torch.use_deterministic_algorithms(spec.device == "cpu")
    # Filling fresh memory with NaN would find bugs of torch, and costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    random.seed(spec.seed)
    np.random.seed(spec.seed)
    torch.manual_seed(spec.seed)


def _budget(
    spec: TrainSpec, model: Model, training: TokenFile, report: Callable[[Fact], None]
) -> Budget:
    """What fits by estimate: of the spec and the data alone, so that every attempt begins alike."""
    tokens = spec.micro_batch_tokens
    if spec.memory_bytes is not None:
        found = fit(
            model.shape(),
            memory_bytes=spec.memory_bytes,
            wanted=tokens,
            longest=training.longest,
            cuda=model.device.type == "cuda",
        )
        tokens = found.tokens
        recomputes = found.recompute and model.scorer.recompute()
        if recomputes or tokens != spec.micro_batch_tokens:
            report(Notice(message=f"Memory: {found.reason}"))
    return Budget(
        model.scorer, tokens, lambda message: report(Notice(level="warn", message=message))
    )


def _optimizer(spec: TrainSpec, model: Model) -> AdamW:
    """AdamW (Loshchilov and Hutter 2019); vectors, which are norms and biases, do not decay."""
    settings = spec.optimizer
    parameters = model.trainable().values()
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    return AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        fused=True,
    )


def _resume(run: Run, directory: Path) -> None:
    """Go on after the checkpoint's step, if it is a step of this very plan."""
    progress = checkpoint.restore(directory, run.model, run.optimizer)
    if (progress.epoch, progress.position) != run.plan.place(progress.step):
        raise invalid(
            "The checkpoint to resume from is of another plan: the training file, the batch size "
            "or the model's tokenizer has changed since.",
            code="invalid_checkpoint",
        )
    run.step = run.saved = progress.step
    # The smaller one, where memory has become short since.
    run.budget.tokens = min(run.budget.tokens, progress.micro_batch_tokens)
    run.bad_steps = progress.bad_steps
    run.report(Resumed(step=progress.step))
