"""Models on their way out: their files for other programs, in a directory that is gone afterwards.

The files are linked, so a model that is deleted meanwhile is exported to its end. What has to be
made first, a worker makes: one at a time, for it takes as much memory as the model has bytes.
"""

import asyncio
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ftd.core.errors import FtdError, Kind, invalid, no_such_model
from ftd.core.models import Model, ModelKind, is_full
from ftd.host.home import Home
from ftd.launch.inputs import place
from ftd.launch.sandbox import DEFAULT, Sandbox
from ftd.launch.tool import run_tool

log = logging.getLogger(__name__)

EXPORT_S = 3600.0  # to merge and convert
MAKERS = 1  # exports that a worker makes at once


class Form(StrEnum):
    """What a model is exported as."""

    ADAPTER = "adapter"  # the PEFT directory as it is
    MERGED = "merged"  # safetensors that plain transformers loads
    GGUF = "gguf"  # one file for llama.cpp


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """Plain files, by name; they lie there as long as the export is entered."""

    form: Form
    files: tuple[Path, ...]
    bytes: int


class Exports:
    def __init__(self, home: Home, sandbox: Sandbox = DEFAULT) -> None:
        self._sandbox = sandbox
        self._home = home
        self._place = home.root / "cache" / "exports"
        self._makers = asyncio.Semaphore(MAKERS)

    async def recover(self) -> None:
        """After a start: remove what a daemon that was killed left."""
        await asyncio.to_thread(shutil.rmtree, self._place, ignore_errors=True)

    @asynccontextmanager
    async def export(self, model: Model, base: Model, form: str | None) -> AsyncIterator[Exported]:
        """The model's files; `base` is the model itself where it is whole.

        Raises INVALID for a form that the model does not have, with the reason; NO_SPACE.
        """
        chosen = _form(model, form)
        self._place.mkdir(mode=0o700, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=self._place))
        try:
            ready = await self._make(model, base, chosen, staging)
            files = tuple(sorted(path for path in ready.iterdir() if path.is_file()))
            yield Exported(
                form=chosen, files=files, bytes=sum(file.stat().st_size for file in files)
            )
        finally:
            await asyncio.to_thread(shutil.rmtree, staging, ignore_errors=True)

    async def _make(self, model: Model, base: Model, form: Form, staging: Path) -> Path:
        """The directory with what is exported, somewhere below `staging`."""
        own = await self._link(model, staging / "model")
        whole = is_full(model)
        if form is Form.ADAPTER or (form is Form.MERGED and whole):
            return own
        weights = own if whole else await self._link(base, staging / "base")
        adapter = () if whole else ("--adapter", str(own))
        license_ = (base.facts or {}).get("license")
        licensed = ("--license", str(license_)) if license_ else ()
        made = staging / "made"  # all that the worker may write: the models are linked beside it
        made.mkdir()
        into = made / "out"
        async with self._makers:
            result = await run_tool(
                "ftd.worker.models.export",
                form.value,
                str(weights),
                str(into),
                *adapter,
                "--name",
                model.name,
                *licensed,
                timeout_s=EXPORT_S,
                sandbox=self._sandbox,
            )
        try:
            error = result.answer().get("error")
        except ValueError:
            error = {"message": "the daemon's log says more.", "code": "internal_error"}
        if isinstance(error, dict):
            log.error(
                "model not exported",
                extra={"model": model.name, "form": form, "stderr": result.stderr_tail},
            )
            raise _refused(model, form, error)
        return into

    async def _link(self, model: Model, target: Path) -> Path:
        try:
            await asyncio.to_thread(place, self._home.root / model.path, target)
        except FileNotFoundError:
            raise no_such_model(model.name) from None
        return target


def _form(model: Model, form: str | None) -> Form:
    """Raises INVALID for a form that there is not, or not of this model."""
    whole = is_full(model)
    if not form:
        return Form.MERGED if whole else Form.ADAPTER
    try:
        chosen = Form(form)
    except ValueError:
        known = ", ".join(Form)
        raise invalid(
            f"There is no format {form!r}; these are known: {known}.", param="format"
        ) from None
    if chosen is Form.ADAPTER and whole:
        why = "is a base model" if model.kind is ModelKind.BASE else "was trained in every weight"
        raise invalid(
            f"{model.name} {why}: there is no adapter to export. Export it as merged or gguf.",
            param="format",
        )
    return chosen


def _refused(model: Model, form: Form, error: dict[str, object]) -> FtdError:
    message = f"{model.name} cannot be exported as {form}: {error.get('message')}"
    match error.get("code"):
        case "no_space":
            return FtdError(Kind.NO_SPACE, message)
        case "internal_error" | "input_output" | "no_memory":
            return FtdError(Kind.INTERNAL, message)
        case code:
            return invalid(message, code=str(code), param="format")
