"""One line of JSON on stdout, whatever happens: how the programs of this room answer."""

import errno
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from ftd.core.errors import FULL_DISK, FtdError

_log = logging.getLogger(__name__)
_NO_ROOM = FULL_DISK | {errno.EFBIG}  # the last: a limit of the file system, or of the user


def answer(work: Callable[[], str]) -> int:
    """Print the line that `work` makes, or {"error": {"message", "code"}} for what it raises.

    The exit status is 0 or 1. Progress and the libraries' own words go to stderr.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    with _own_stdout() as out:
        try:
            out.write(work() + "\n")
        except Exception as error:  # noqa: BLE001 - the program answers whatever happens
            _log.exception("not done")
            out.write(json.dumps({"error": _explain(error)}) + "\n")
            return 1
    return 0


def stay_quiet(*, online: bool) -> None:
    """Before the first import of the hub's client, which reads these once."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TQDM_DISABLE"] = "1"
    if not online:
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ["TRANSFORMERS_OFFLINE"] = "1"


@contextmanager
def _own_stdout() -> Iterator[TextIO]:
    """Keep stdout for the answer: whatever else writes to descriptor 1 reaches stderr."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        try:
            yield out
        finally:
            out.flush()
            os.dup2(out.fileno(), 1)


def _explain(error: Exception) -> dict[str, str | None]:
    match error:
        case FtdError():
            return {"message": error.message, "code": error.code}
        case OSError() if error.errno in _NO_ROOM:
            return {
                "message": "there is no space left for the model; nothing was kept.",
                "code": "no_space",
            }
        case OSError() if error.strerror:
            return {"message": f"the disk said: {error.strerror}.", "code": "input_output"}
        case MemoryError():
            return {"message": "the model needs more memory than there is.", "code": "no_memory"}
        case _:
            kind = type(error).__name__
            message = f"an unexpected {kind}; the daemon's log has the whole of it."
            return {"message": message, "code": "internal_error"}
