"""What of the daemon's environment a worker sees: what makes programs run, and no secret."""

import os
from collections.abc import Mapping
from pathlib import Path

# What programs need, and their owner's settings of the CPU.
_INHERITED = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
)
_OF_TOOLS = ("HOME", "PYTHONPATH")
# For one that fetches, the token of a gated model among them.
_OF_FETCHING = (
    "HF_TOKEN", "HF_ENDPOINT", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
)  # fmt: skip
_PIP = "PIP_"


def of_worker(scratch: Path) -> dict[str, str]:
    """A worker's environment; `scratch` takes what libraries compile and cache.

    No card before it is lent one: without this variable CUDA would show it all of them.
    """
    return _taken(os.environ, _INHERITED) | {
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def of_tool(given: Mapping[str, str], notes: Path, *, fetches: bool) -> dict[str, str]:
    """A tool's, out of `given`; its notes, and what libraries cache, lie in `notes`."""
    names = [*_INHERITED, *_OF_TOOLS]
    if fetches:
        names += [*_OF_FETCHING, *(name.lower() for name in _OF_FETCHING)]
        names += [name for name in given if name.startswith(_PIP)]
    own = {"TMPDIR": str(notes), "XDG_CACHE_HOME": str(notes), "HF_HOME": str(notes)}
    return _taken(given, names) | own


def _taken(environment: Mapping[str, str], names: list[str] | tuple[str, ...]) -> dict[str, str]:
    return {name: environment[name] for name in names if name in environment}
