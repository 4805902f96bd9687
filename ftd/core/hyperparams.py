"""What "auto" means, and why: every chosen value keeps its reason."""

from dataclasses import dataclass

# OpenAI's cookbook, Chat_finetuning_data_prep.ipynb: about three epochs, at least 100 examples
# seen in all, at most 25,000.
TARGET_EPOCHS = 3
MIN_TARGET_EXAMPLES = 100
MAX_TARGET_EXAMPLES = 25_000
MAX_AUTO_EPOCHS = 25

# OpenAI's reference for the older /fine-tunes endpoint: about 0.2 % of the training examples.
MAX_BATCH = 256
BATCH_PER_MILLE = 2

# Bounds of what a request may ask for (OpenAI's request schema).
MAX_EPOCHS = 50

AUTO_MULTIPLIER = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """The hyperparameters as asked for; None is "auto"."""

    n_epochs: int | None = None
    batch_size: int | None = None
    learning_rate_multiplier: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperparameters:
    """The hyperparameters as used, each with the sentence that explains it."""

    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float
    reasons: tuple[str, ...]


def resolve(requested: Requested, examples: int) -> Hyperparameters:
    """Fill in what was left to us. `examples` counts the training file's examples, at least 1."""
    n_epochs, why_epochs = _epochs(requested.n_epochs, examples)
    batch_size, why_batch = _batch(requested.batch_size, examples)
    multiplier, why_multiplier = _multiplier(requested.learning_rate_multiplier)
    return Hyperparameters(
        n_epochs=n_epochs,
        batch_size=batch_size,
        learning_rate_multiplier=multiplier,
        reasons=(
            f"n_epochs {n_epochs} ({why_epochs})",
            f"batch_size {batch_size} ({why_batch})",
            f"learning_rate_multiplier {multiplier:g} ({why_multiplier})",
        ),
    )


def _epochs(asked: int | None, examples: int) -> tuple[int, str]:
    if asked is not None:
        return asked, "as asked"
    if TARGET_EPOCHS * examples < MIN_TARGET_EXAMPLES:
        chosen = min(MAX_AUTO_EPOCHS, MIN_TARGET_EXAMPLES // examples)
        return chosen, f"auto: {examples:,} examples are few, so that about 100 are seen in all"
    if TARGET_EPOCHS * examples > MAX_TARGET_EXAMPLES:
        chosen = max(1, MAX_TARGET_EXAMPLES // examples)
        return chosen, f"auto: {examples:,} examples are many, so that about 25,000 are seen"
    return TARGET_EPOCHS, f"auto: the usual for {examples:,} examples"


def _batch(asked: int | None, examples: int) -> tuple[int, str]:
    if asked is not None:
        return asked, "as asked"
    chosen = max(1, min(MAX_BATCH, examples * BATCH_PER_MILLE // 1000))
    return chosen, f"auto: 0.2% of {examples:,} examples"


def _multiplier(asked: float | None) -> tuple[float, str]:
    if asked is not None:
        return asked, "as asked"
    return AUTO_MULTIPLIER, "auto: the base learning rate"
