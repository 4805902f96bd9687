"""Base models on their way in: fetched by one worker, checked and converted by another, published
by us.

The one that has the network looks into nothing; the one that reads what may be hostile has none.
Both write in a directory beside the models that is theirs alone and gone afterwards; one that is
killed leaves it to the next start, under a name that begins with a dot. Only what is whole and
plain, and is what was checked, gets a model's name, by one rename.
"""

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ftd.core.errors import FtdError, Kind, invalid
from ftd.host import blobs
from ftd.host.home import Home
from ftd.launch import fetching
from ftd.launch.sandbox import DEFAULT, Sandbox
from ftd.launch.tool import run_tool

log = logging.getLogger(__name__)

ADD_S = 4 * 3600.0  # of each step: a large model over a slow line
ADD = "ftd.worker.models.add"
WORDS = 2000  # characters of a tool's reason that are told on

_UNFORESEEN = ("internal_error", "input_output")  # of which people are told to see our log

_Word = Annotated[str, StringConstraints(max_length=200)]
_Note = Annotated[str, StringConstraints(max_length=20_000)]
_Count = Annotated[int, Field(ge=0, lt=2**63)]


class Facts(BaseModel):
    """What the worker says of a model. It has read hostile files, so it is not believed either."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    architecture: _Word
    model_type: _Word
    parameters: _Count
    context_tokens: _Count
    hidden_size: _Count
    layers: _Count
    vocabulary: _Count
    dtype: _Word
    has_chat_template: bool
    license: _Word | None
    sha256: _Word
    bytes: _Count
    files: _Count
    notes: list[_Note] = Field(max_length=100)


class Arrivals:
    def __init__(self, home: Home, sandbox: Sandbox = DEFAULT) -> None:
        self._home = home
        self._sandbox = sandbox

    async def bring_in(self, source: str, target: Path) -> Facts:
        """Make the new directory `target` out of the model that `source` names.

        Raises INVALID for a source that is no good, with the reason; INTERNAL.
        """
        place = Path(tempfile.mkdtemp(prefix=".adding-", dir=self._home.models))
        try:
            if fetching.fetches(source):
                await self._run(fetching.FETCH, source, place / fetching.FETCHED)
            answer = await self._run(ADD, source, place / "model")
            facts = Facts.model_validate(answer)
            await _to_its_end(_publish, place / "model", target, facts)
        except ValueError as error:
            log.error("model not added", extra={"source": source}, exc_info=error)
            raise _unreadable() from None
        finally:
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
        return facts

    async def _run(self, module: str, source: str, into: Path) -> dict[str, object]:
        """The answer of a worker that was content. Raises INVALID with its reason else."""
        result = await run_tool(module, source, str(into), timeout_s=ADD_S, sandbox=self._sandbox)
        try:
            answer = result.answer()
        except ValueError:
            log.error("model not added", extra={"source": source, "stderr": result.stderr_tail})
            raise _unreadable() from None
        error = answer.get("error")
        if not isinstance(error, dict):
            return answer
        code = error.get("code")
        if code in _UNFORESEEN:
            log.error("model not added", extra={"source": source, "stderr": result.stderr_tail})
        raise invalid(
            str(error.get("message"))[:WORDS],
            code=code[:WORDS] if isinstance(code, str) else None,
            param="source",
        )


def _publish(model: Path, target: Path, facts: Facts) -> None:
    """Raises ValueError for what holds anything but files, or other bytes than were checked."""
    if model.is_symlink() or not model.is_dir():
        raise ValueError("there is no directory")
    if blobs.tree_sha256(model) != facts.sha256:
        raise ValueError("what is there is not what was checked")
    blobs.publish(model, target)


async def _to_its_end(work: Callable[..., None], *arguments: object) -> None:
    """Work in a thread that goes on when its caller is cancelled is waited for: what it works on
    is then removed."""
    working = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        await asyncio.shield(working)
    finally:
        await asyncio.wait([working])


def _unreadable() -> FtdError:
    return FtdError(Kind.INTERNAL, "The model could not be read; see the daemon's log.")
