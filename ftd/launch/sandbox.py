"""Who may do what: the one table of what workers and tools may reach. launch/shim applies it.

                  trainer, inference worker    validate      models.export
    reads         its in/                      its file      the models named
    writes        its out/                     notes         where it exports
    network       nothing                      nothing       nothing

                  models.fetch                 models.add
    reads         the network's names, pip's   its source, if that is here
    writes        where one model arrives      where one model arrives
    network       whatever there is            nothing

All of them read and run the system, this Python and ftd, and read /proc and /sys; a tool has a
directory of its own for notes (TMPDIR). Of other processes they see the names, and reach none. All
is denied that is not here: the home with its keys, its database and other jobs' runs, the network,
the sockets of others, and calls by which one could go around it (launch/shim/seccomp.py).

What a path grants, it grants for all below it: nothing here may contain the home.
"""

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ftd
from ftd.launch import fetching
from ftd.launch.shim import sandbox as kernel
from ftd.launch.shim.bounds import Bounds
from ftd.launch.shim.sandbox import Grants

log = logging.getLogger(__name__)

# The system: programs, libraries, and what C libraries look up.
_SYSTEM = {
    "run": (
        "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store",
        "/run/opengl-driver", "/opt/cuda",
    ),
    "read": (
        "/proc", "/sys", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d",
        "/etc/ld.so.preload", "/etc/localtime", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf",
        "/etc/mime.types", "/etc/alternatives",
    ),
    "use": ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"),
}  # fmt: skip
_MOST_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 9 // 10
# A card is spoken to through its devices; its driver shares memory under names.
_CARDS = "nvidia*"
_OF_CARDS = {"read": ("/etc/nvidia", "/etc/vulkan"), "write": ("/dev/shm",)}  # noqa: S108


class Lacking(Exception):
    """The kernel lacks what the configuration requires of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """How the workers of this installation are confined. `read` is what they may read and load
    beside what the table says; `require` says to start none where the kernel lacks a wall;
    `memory_bytes` and `processes` are of one worker, with all that it starts (0 bytes: nine tenths
    of the host's)."""

    read: tuple[Path, ...] = ()
    require: bool = False
    memory_bytes: int = 0
    processes: int = 512

    def worker(self, run: Path) -> Grants:
        """For what a run directory's shim starts. Raises Lacking."""
        return self._grants(reads=[run / "in"], writes={"write": [run / "out"]})

    def tool(
        self, module: str, arguments: Sequence[str], environment: Mapping[str, str], notes: Path
    ) -> Grants:
        """For a tool that is told so, which writes its notes there. Raises Lacking."""
        match module, [*arguments]:
            case "ftd.worker.validate", [file, *_]:
                return self._grants(reads=[Path(file)], writes={"write": [notes]})
            case fetching.FETCH, [_, into, *_]:
                places = fetching.places(environment)
                arriving = {"write": [notes, Path(into).parent]}
                return self._grants(reads=places, writes=arriving, network="online")
            case "ftd.worker.models.add", [source, destination, *_]:
                # What was fetched lies where it writes; a conversion names a file by a link.
                found = [] if fetching.fetches(source) else [Path(source).expanduser()]
                return self._grants(reads=found, writes={"link": [notes, Path(destination).parent]})
            case "ftd.worker.models.export", [_, model, into, "--adapter", adapter, *_]:
                named = [Path(model), Path(adapter)]
                return self._grants(reads=named, writes={"write": [notes, Path(into).parent]})
            case "ftd.worker.models.export", [_, model, into, *_]:
                return self._grants(
                    reads=[Path(model)], writes={"write": [notes, Path(into).parent]}
                )
            case _:
                return self._grants(reads=[], writes={"write": [notes]})

    def _grants(
        self, *, reads: Sequence[Path], writes: Mapping[str, Sequence[Path]], network: str = "none"
    ) -> Grants:
        if self.require and (missing := kernel.lacks()):
            raise Lacking(f"sandbox.require is set, and this kernel lacks: {'; '.join(missing)}")
        paths: dict[str, list[str]] = {}
        for given in (_SYSTEM, _python(), _cards(), {"run": self.read, "read": reads}, writes):
            for right, places in given.items():
                paths.setdefault(right, []).extend(str(place) for place in places)
        bounds = Bounds(self.memory_bytes or _MOST_BYTES, self.processes)
        return Grants(paths, network, bounds=bounds)


DEFAULT = Sandbox()


def confined(settings: Mapping[str, Any], home: Path) -> Sandbox:
    """The sandbox that is configured; people are told once what of it this kernel lacks."""
    if missing := lacks(home):
        log.warning("workers are confined in part", extra={"lacking": "; ".join(missing)})
    return Sandbox(**settings)


def lacks(home: Path) -> list[str]:
    """What of the sandbox does not hold here, in words for people; empty if all does."""
    missing = kernel.lacks()
    granted = Sandbox().worker(home / "runs" / "any").paths
    around = {path for path in _roots(granted) if home.is_relative_to(path)}
    return [*missing, *(f"workers may read {path}, and the home is in it" for path in around)]


def _roots(granted: Mapping[str, Sequence[str]]) -> set[Path]:
    return {Path(path).resolve() for right in ("run", "read") for path in granted[right]}


def _python() -> dict[str, Sequence[Path | str]]:
    """This interpreter, its packages, and ftd; of a checkout, beside ftd only the names in it."""
    package = Path(ftd.__file__).parent
    return {"run": (sys.prefix, sys.base_prefix, package), "list": (package.parent,)}


def _cards() -> dict[str, Sequence[Path | str]]:
    devices = sorted(Path("/dev").glob(_CARDS))
    return {"use": devices, **_OF_CARDS} if devices else {}
