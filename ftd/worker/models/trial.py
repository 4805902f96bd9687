"""Tries out in a child process what a library does with files that nobody trusts.

A regular expression that never ends, or a size that a file only claims, holds a library where no
signal handler and no exception reaches it. A child can be killed, and its memory is counted.
"""

import faulthandler
import json
import logging
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

from ftd.core.errors import FtdError, invalid
from ftd.worker.models.refusal import unsafe

TOLD = 0.5  # of its time, after which one that has not ended says where it is

_ANSWER_BYTES = 64 * 2**10
_log = logging.getLogger(__name__)


def attempt(what: str, work: Callable[[], None], *, seconds: float, memory_bytes: int) -> None:
    """Run `work` in a copy of this process that has so long, and so much memory more than this.

    Raises the FtdError that `work` raised; unsafe, in the words "the `what` ...", where it did not
    end or was ended. Nothing that `work` changes in memory is kept. Call where no other thread
    holds a lock that `work` needs.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _run(work, writer, seconds, memory_bytes)
    os.close(writer)
    try:
        answer = _read(reader, time.monotonic() + seconds)
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)  # it has answered, or had its time
        _, status = os.waitpid(child, 0)
    if answer is None:
        raise unsafe(f"the {what} did not end within {seconds:g} s.")
    if not answer:
        raise unsafe(f"the {what} ended the process that tried it ({_ended(status)}).")
    told = json.loads(answer)
    if told is not None:
        message, code = told
        raise invalid(message, code=code, param="source")


def _run(work: Callable[[], None], writer: int, seconds: float, memory_bytes: int) -> None:
    """The child: say how it went, and never return."""
    try:
        faulthandler.dump_traceback_later(TOLD * seconds, file=2)  # where it hangs, for the log
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        most = _data_bytes() + memory_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads did not come along
        told = None
        try:
            work()
        except FtdError as error:
            _log.info("not proven", exc_info=True)
            told = error.message, error.code
        except MemoryError:
            refused = unsafe(f"it takes more than {memory_bytes:,} bytes to look at it.")
            told = refused.message, refused.code
        os.write(writer, json.dumps(told).encode())
    except BaseException:  # noqa: BLE001 - also a panic of a library in Rust
        _log.exception("not tried to the end")
    finally:
        os._exit(0)


def _read(reader: int, until: float) -> bytes | None:
    """What the child says until it ends; None when its time is up."""
    answer = b""
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return None
        piece = os.read(reader, _ANSWER_BYTES)
        if not piece:
            return answer
        answer += piece


def _data_bytes() -> int:
    """What RLIMIT_DATA counts: memory of our own that can be written to."""
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    return pages * resource.getpagesize()


def _ended(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return "it gave no answer"
