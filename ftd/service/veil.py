"""What one project reads of sentences that name jobs and models of others.

Why something waits is one sentence for everybody, and says whom it waits for. Whose that is, is the
concern of its project alone.
"""

import re
from collections.abc import Callable, Sequence

from ftd.core.errors import FtdError, Kind
from ftd.store import jobs, models
from ftd.store.db import Database

JOB, MODEL = "another project's job", "another project's model"

_JOB = re.compile(r"ftjob-[A-Za-z0-9]+")
_MODEL = re.compile(r"\bft:[\w.-]+:[\w.-]*:[A-Za-z0-9]+(?::ckpt-step-\d+)?")


async def veiled(db: Database, project: str, sentences: Sequence[str | None]) -> list[str | None]:
    """The sentences, with stand-ins for what is not the project's."""
    told = "\n".join(filter(None, sentences))
    own: frozenset[str] = frozenset()
    if named := _JOB.findall(told):
        own |= await jobs.of_project(db, project, named)
    if named := _MODEL.findall(told):
        own |= await models.of_project(db, project, named)

    def unless_own(stand_in: str) -> Callable[[re.Match[str]], str]:
        return lambda found: found[0] if found[0] in own else stand_in

    def veil(sentence: str) -> str:
        return _MODEL.sub(unless_own(MODEL), _JOB.sub(unless_own(JOB), sentence))

    return [sentence and veil(sentence) for sentence in sentences]


async def veiled_error(db: Database, project: str, error: FtdError) -> FtdError:
    """The same of an error that says what somebody waits for; others speak of the request."""
    if error.kind is not Kind.UNAVAILABLE:
        return error
    (message,) = await veiled(db, project, [error.message])
    return FtdError(
        error.kind, message or "", code=error.code, param=error.param, retry_s=error.retry_s
    )
