"""What a worker's process may do once it is its own: the grants that it is started with, applied.

Three walls, each where the kernel has it: no new privileges, Landlock for files (and signals), and
seccomp for calls. They bind a process, its threads and all that it starts, for ever; so they must
stand before its program begins. launch/sandbox.py has the table of who may do what.
"""

import ctypes
import json
import os
import platform
import resource
import struct
from typing import Any, NamedTuple

from . import landlock, seccomp
from .bounds import Bounds

_NO_NEW_PRIVS = 38  # linux/prctl.h
_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h


class Grants(NamedTuple):
    """`paths` by the names of landlock.RIGHTS; `network` as in seccomp.program. Whoever starts the
    process keeps the bounds."""

    paths: dict[str, list[str]]
    network: str = "none"
    open_files: int = 4096
    bounds: Bounds = Bounds()

    def to_json(self) -> str:
        return json.dumps(self._asdict())


def from_json(text: str) -> Grants:
    """Raises ValueError for what are no grants."""
    value: Any = json.loads(text)
    match value:
        case {
            "paths": dict(paths),
            "network": str(network),
            "open_files": int(open_files),
            "bounds": [int(memory_bytes), int(processes)],
        }:
            return Grants(paths, network, open_files, Bounds(memory_bytes, processes))
        case _:
            raise ValueError("no grants")


def lacks() -> list[str]:
    """Which walls this kernel does not have, in words for people."""
    missing = landlock.lacks(landlock.abi())
    if not seccomp.available():
        missing.append("no seccomp: the network is not guarded")
    return missing


def confine(grants: Grants) -> None:
    """Confine this process, as far as the kernel can. It must have one thread. Raises OSError."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = grants.open_files if most < 0 else min(most, grants.open_files)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    drop_privileges()
    if version := landlock.abi():
        landlock.restrict(grants.paths, version, net=grants.network != "none")
    if seccomp.available():
        seccomp.install(grants.network)


def drop_privileges() -> None:
    """Give up what root may, and that any program that is started gains it. Raises OSError.

    With CAP_PERFMON or CAP_SYS_PTRACE a confined process could look into one that is not.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
    number = _CAPSET.get(platform.machine())
    if number is None or not privileged():
        return
    head, none = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24)
    if libc.syscall(number, head, none) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"capset: {os.strerror(error)}")


def privileged() -> bool:
    """Whether this process may do anything that others of its user may not."""
    with open("/proc/self/status") as file:
        return any(int(line.split()[1], 16) for line in file if line.startswith("CapPrm:"))
