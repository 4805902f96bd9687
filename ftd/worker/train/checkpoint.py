"""Checkpoints: all that it takes to go on, published as a directory that is whole or absent.

    step-40/
      adapter/           what PEFT loads (or model/, what transformers loads)
      state.safetensors  the optimizer's tensors and torch's random state
      state.json         where training stands, and the random state of python and numpy
      MANIFEST.json      size and sha256 of every other file; written last

Nothing in it is a pickle. It is written beside its place, every file and directory is fsynced,
and it is renamed: who sees the name sees all of it, after a power cut too.
"""

import hashlib
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file, save_file
from torch.optim import Optimizer

from ftd.core.errors import FtdError, Kind
from ftd.worker.durable import fsync
from ftd.worker.train.model import Model

MANIFEST = "MANIFEST.json"
STATE = "state.json"
TENSORS = "state.safetensors"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class File(_Record):
    name: str  # relative to the checkpoint, with slashes
    size: int
    sha256: str


class Manifest(_Record):
    version: Literal[1] = 1
    step: int
    epoch: int
    files: tuple[File, ...]


class Progress(_Record):
    """Where training stands: after `step`, with `epoch` epochs complete and `position` batches
    taken of the next one. `micro_batch_tokens` is what was found to fit; `bad_steps` how many in a
    row, up to this one, were no numbers."""

    step: int
    epoch: int
    position: int
    micro_batch_tokens: int
    bad_steps: int = 0


class _State(_Record):
    """The random states as `random.getstate` and `numpy.random.get_state` give them."""

    version: Literal[1] = 1
    progress: Progress
    python_random: tuple[int, tuple[int, ...], float | None]
    numpy_random: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    path: Path
    manifest_sha256: str


def publish(parent: Path, progress: Progress, model: Model, optimizer: Optimizer) -> Published:
    """Write parent/step-N; its name is never used twice. Raises OSError, with nothing left."""
    path = parent / f"step-{progress.step}"
    draft = parent / f".step-{progress.step}.draft"
    parent.mkdir(parents=True, exist_ok=True)
    draft.mkdir()
    try:
        model.save(draft)
        _save_state(draft, progress, model, optimizer)
        manifest = _seal(draft, progress)
        draft.rename(path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    fsync(parent)
    return Published(path=path, manifest_sha256=hashlib.sha256(manifest).hexdigest())


def verify(directory: Path) -> Manifest:
    """The manifest of a checkpoint that holds exactly the bytes that were published.

    Raises FtdError (invalid_checkpoint) for one that does not.
    """
    try:
        manifest = Manifest.model_validate_json((directory / MANIFEST).read_bytes())
        found = {file.name: file for file in _files(directory)}
    except (OSError, ValidationError) as error:
        raise _damaged(directory.name, f"its manifest cannot be read ({error})") from error
    listed = {file.name: file for file in manifest.files}
    which = f"of step {manifest.step}"
    for name in sorted(listed.keys() | found.keys()):
        if name not in found:
            raise _damaged(which, f"{name} is missing")
        if listed.get(name) != found[name]:
            raise _damaged(which, f"{name} is not as it was published")
    return manifest


def restore(directory: Path, model: Model, optimizer: Optimizer) -> Progress:
    """Put the optimizer and all random states back to what they were; the weights were loaded
    with the model. Expects a directory that `verify` accepts."""
    state = _State.model_validate_json((directory / STATE).read_bytes())
    tensors = load_file(directory / TENSORS)
    trainable = model.trainable()
    for key in tensors.keys() - {"random.cpu", "random.cuda"}:
        name, _, quantity = key.removeprefix("optimizer.").rpartition(".")
        parameter = trainable[name]
        optimizer.state[parameter][quantity] = tensors[key].to(parameter.device)
    torch.set_rng_state(tensors["random.cpu"])
    if model.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["random.cuda"], model.device)
    random.setstate(state.python_random)
    np.random.set_state(state.numpy_random)
    return state.progress


def _save_state(draft: Path, progress: Progress, model: Model, optimizer: Optimizer) -> None:
    tensors = {"random.cpu": torch.get_rng_state()}
    if model.device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(model.device)
    for name, parameter in model.trainable().items():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{name}.{key}"] = value.detach().contiguous()
    save_file(tensors, draft / TENSORS)
    numpy_random = np.random.get_state(legacy=False)
    numpy_random["state"]["key"] = numpy_random["state"]["key"].tolist()
    state = _State(progress=progress, python_random=random.getstate(), numpy_random=numpy_random)
    (draft / STATE).write_text(state.model_dump_json(), encoding="utf-8")


def _seal(draft: Path, progress: Progress) -> bytes:
    """Make everything durable, the manifest last; returns the manifest's bytes."""
    files = tuple(sorted(_files(draft), key=lambda file: file.name))
    manifest = Manifest(step=progress.step, epoch=progress.epoch, files=files)
    content = manifest.model_dump_json(indent=1).encode()
    for file in files:
        fsync(draft / file.name)
    (draft / MANIFEST).write_bytes(content)
    fsync(draft / MANIFEST)
    for directory in [*(path for path in draft.rglob("*") if path.is_dir()), draft]:
        fsync(directory)
    return content


def _files(directory: Path) -> Iterator[File]:
    """Every file below but the manifest, hashed."""
    for path in directory.rglob("*"):
        if path == directory / MANIFEST or path.is_dir():
            continue
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        name = path.relative_to(directory).as_posix()
        yield File(name=name, size=path.stat().st_size, sha256=digest)


def _damaged(which: str, fault: str) -> FtdError:
    message = f"The checkpoint {which} is damaged: {fault}."
    return FtdError(Kind.INTERNAL, message, code="invalid_checkpoint")
