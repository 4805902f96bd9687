"""Model names: how a tuned model is called, and which names are allowed."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

MAX_SUFFIX = 64

# A base model's name appears in URLs and in ft: names: no slash, no colon, no surprises.
_BASE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}\Z")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")


class ModelKind(StrEnum):
    BASE = "base"
    TUNED = "tuned"
    CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A row of the truth.

    `path` is relative to the home: a full model for a base, a PEFT adapter (or, after full
    fine-tuning, a full model) otherwise. `base` is the name of the base model at the root.
    """

    name: str
    project: str
    kind: ModelKind
    base: str
    path: str
    sha256: str
    created_at: int
    job: str | None = None
    facts: Mapping[str, object] | None = None  # of a base: what its check found


FULL = "full"  # facts["form"] of a tuned model whose every weight was trained


def is_full(model: Model) -> bool:
    """Whether a model's path holds all weights, and not an adapter to its base."""
    return model.kind is ModelKind.BASE or (model.facts or {}).get("form") == FULL


def unfit(model: Model, *, full: bool) -> str | None:
    """Why training of every weight (`full`), or of an adapter, cannot go on from this model.

    An adapter belongs to its root base: one on top of other weights would answer from the wrong
    ones wherever it is loaded.
    """
    if full and not is_full(model):
        return f"{model.name} is an adapter; training every weight goes on from whole models only."
    if not full and is_full(model) and model.kind is not ModelKind.BASE:
        return (
            f"{model.name} was trained in every weight and an adapter belongs to a base model; "
            f"set `full = true` for {model.base} in the configuration to go on from it."
        )
    return None


def is_base_name(name: str) -> bool:
    return _BASE_NAME.match(name) is not None


def tuned_name(base: str, suffix: str | None, unique: str) -> str:
    """`ft:<base>:<suffix>:<id>`; the suffix is kept verbatim on the job and made safe here."""
    return f"ft:{base}:{_UNSAFE.sub('-', suffix or '')}:{unique}"


def checkpoint_name(tuned: str, step: int) -> str:
    return f"{tuned}:ckpt-step-{step}"


def adapter_id(tuned: str) -> str:
    """The 8-character id at the end of a tuned model's name; it names home/adapters/<id>."""
    return tuned.rsplit(":", 1)[1]
