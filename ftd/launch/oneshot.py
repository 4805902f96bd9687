"""Runs one worker module as this process's main program, bound to its parent's life and confined.

`python -m ftd.launch.oneshot PARENT_PID MEMORY_BYTES GRANTS MODULE [ARGUMENT ...]`; 0 bytes is no
limit, and empty grants are all that our parent may do.
The module is named, not imported: what it needs is loaded in this process alone.
"""

import contextlib
import ctypes
import os
import resource
import runpy
import signal
import sys

from ftd.launch.shim.sandbox import confine, from_json
from ftd.launch.shim.worker import offer

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    parent, memory_bytes, grants, module, *arguments = sys.argv[1:]
    _die_with(int(parent))
    with contextlib.suppress(OSError):  # /proc is another's
        offer(os.getpid())
    if limit := int(memory_bytes):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if grants:
        confine(from_json(grants))  # we have one thread, and nothing of the tool is loaded yet
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _die_with(parent: int) -> None:
    """Ask the kernel to kill us when our parent ends, then see that it has not ended before."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    main()
