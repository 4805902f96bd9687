"""What trainers and inference workers have in common as programs: started idle, assigned, gone.

    stdin                an AF_UNIX stream: commands come as JSON lines, the first with the locks
    FTD_FACTS_FD         the number of the pipe that takes facts
    FTD_SHIM_PID         the parent that this process may not outlive
    current directory    the run directory, with in/ and out/
    stdout, stderr       the log; SIGUSR1 writes every thread's stack there

It exits 0 whenever it has said how its work ended, failures included; any other end is a loss.

An error that nobody foresaw may quote what it was about: a row, a prompt. What is said of it is its
type and its place. Its words are for the log alone, and only for that of a trainer, which is its
job's; an inference worker answers many, and its log is nobody's.
"""

import ctypes
import faulthandler
import importlib.metadata
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ftd.core.errors import FtdError
from ftd.core.wire import Assign, Failed, Started, Stop
from ftd.worker.durable import lacks_space
from ftd.worker.report import Inbox, Report

PR_SET_PDEATHSIG = 1
_LOG_FORMAT = "%(asctime)s %(name)s %(message)s"
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # nothing is ever looked up on the network
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # who asks for CUDA while importing does not begin it
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",  # lengths vary: fragment less
    "TOKENIZERS_PARALLELISM": "false",
    # oneDNN makes a kernel for each shape, and lengths vary: by default a thousand are kept twice,
    # a gigabyte after some dozens of steps. So many are one step's.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "LRU_CACHE_CAPACITY": "1",  # torch's own cache before it
}

_log = logging.getLogger(__name__)

# Torch's words for want of memory where its own OutOfMemoryError does not come.
_HOST_SHORT = ("DefaultCPUAllocator: can't allocate memory",)
_DEVICE_SHORT = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")

# Does what was assigned, to its end.
Work = Callable[[Assign, Report, Inbox], None]


def run(
    name: str, libraries: Sequence[str], load: Callable[[], Work], *, words: bool = False
) -> int:
    """Be the program that people know as `name`: `load` everything, wait for an assignment, work.

    `load` imports; the versions of `libraries` are told when it has. `words`: those of unforeseen
    errors go into the log. Returns the exit status.
    """
    die_with(int(os.environ["FTD_SHIM_PID"]), name)
    settle(words=words)
    facts = int(os.environ["FTD_FACTS_FD"])
    os.set_inheritable(facts, False)  # a helper that outlives us must not hold the pipe open
    report = Report(facts)
    inbox = Inbox(socket.socket(fileno=sys.stdin.fileno()))
    signal.signal(signal.SIGTERM, lambda *_: inbox.ask(Stop(save=True)))
    try:
        # Seconds of imports: that is why a worker is started before it is needed.
        work = load()
        versions = {library: importlib.metadata.version(library) for library in libraries}
        report(Started(pid=os.getpid(), libraries=versions))
        assignment = inbox.assignment()
        if assignment is not None:
            see(assignment.gpus)
            work(assignment, report, inbox)
    except Exception as error:  # noqa: BLE001 - the one place where any fault becomes a fact
        _log.error("the work has failed", exc_info=error)
        report(failure(error, name))
    return 0


def settle(*, words: bool = True) -> None:
    """Arrange what every worker wants of its process, before the libraries are imported."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    handler = logging.StreamHandler()
    handler.setFormatter((logging.Formatter if words else _Wordless)(_LOG_FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)


def see(gpus: Sequence[str] | None) -> None:
    """Let this process see these GPUs and no others; None is what its environment says.

    CUDA reads the variable once, at its first call in a process. A worker is started before
    anybody knows its devices, so until now there must have been none.
    """
    if gpus is None:
        return
    import torch  # long there: `load` has brought it

    called = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    assert not called, "CUDA was called before a device was lent"
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)


def die_with(parent: int, name: str) -> None:
    """Have the kernel kill this process when its parent ends; exit if it has already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit(f"the {name}'s parent is {os.getppid()}, not its shim {parent}")


def failure(error: Exception, name: str) -> Failed:
    """What went wrong, in words for people; the traceback is in the log."""
    match error:
        case FtdError():
            return Failed(code=error.code or "invalid", message=error.message, param=error.param)
        case MemoryError():
            return Failed(code="out_of_memory", message="The host has no memory left.")
        case RuntimeError() if any(words in str(error) for words in _HOST_SHORT):
            return Failed(code="out_of_memory", message="The host has no memory left.")
        case RuntimeError() if any(words in str(error) for words in _DEVICE_SHORT):
            message = "The device has no memory left. Another program may have it."
            return Failed(code="out_of_memory", message=message)
        case OSError() if lacks_space(error):
            why = os.strerror(error.errno or 0)
            return Failed(code="no_space", message=f"The disk is full: {why}.")
        case _ if lacks_space(error):
            return Failed(code="no_space", message="The disk is full.")
    what = f"{type(error).__name__}{_place(error)}"
    message = f"The {name} met an unexpected {what}; the log of its run says more."
    return Failed(code=f"{name.replace(' ', '_')}_error", message=message)


def _place(error: BaseException) -> str:
    """Where in our own code it was raised, or came through."""
    frames = [
        (str(frame.f_globals.get("__name__")), line)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    ours = [f" at {module}:{line}" for module, line in frames if module.startswith("ftd.")]
    return ours[-1] if ours else ""


class _Wordless(logging.Formatter):
    """Of an error that is logged: where it was raised and its type, and the same of those that
    led to it."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return "\nwhich led to:\n".join(
            "Traceback (most recent call last):\n"
            + "".join(traceback.format_tb(error.__traceback__))
            + type(error).__qualname__
            for error in reversed([*_chain(ei[1])])
        )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
