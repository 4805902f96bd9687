"""A home's backup, taken while it lives, and a home that is made of one.

    ftd.db                       the rows as they were at one moment
    files/ models/ adapters/     what those rows name
    runs/                        of it the checkpoints alone: models, and where open jobs go on
    MANIFEST.json                size and sha256 of every other file; written last

What was set aside in unknown/ is not in it: no row names it, and none of a home that is made of the
backup would.

Rows first, then the bytes that they name: they never change, so a link is a copy. Only a delete
could cut one short, and that marks its row before it takes the bytes: when all rows are unmarked
afterwards, nothing was missed, else what changed is done again.
"""

import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ftd import __version__
from ftd.core.errors import FtdError, Kind, invalid
from ftd.host import blobs, lock
from ftd.host.home import Home
from ftd.store import kept
from ftd.store.kept import Kept

MANIFEST = "MANIFEST.json"
DATABASE = "ftd.db"
TREES = ("files", "models", "adapters", "runs")
ROUNDS = 8  # of deletes that come between
INCOMPLETE = 3  # the exit status of a backup in which something is missing
IN_USE = 75


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Entry(_Record):
    bytes: int
    sha256: str


class Manifest(_Record):
    """`files` are all of a backup's but this, by path. `faults` is what rows name and is not
    there, or not as it was when its row was written."""

    version: Literal[1] = 1
    ftd: str
    made_at: int  # Unix seconds
    faults: tuple[str, ...]
    files: dict[str, Entry]


def backup(home: Home, destination: Path) -> int:
    """Make a backup and say what it holds. The exit status: 0, or INCOMPLETE.

    Raises FtdError, with nothing left, when none can be made.
    """
    destination = destination.absolute()
    try:
        manifest = back_up(home, destination)
    except OSError as error:
        raise FtdError(Kind.UNAVAILABLE, f"No backup was made: {error}.") from error
    for fault in manifest.faults:
        print(f"fault         {fault}")
    print(f"backup        {destination}, {_size(manifest)}")
    print("not in it     admin.key and the configuration (secrets), logs, the cache, and unknown/")
    return INCOMPLETE if manifest.faults else 0


def restore(source: Path, home: Home) -> int:
    """Make a home of a backup and say so. The exit status: 0, or IN_USE.

    Raises FtdError when the backup is not whole or the home is not empty; nothing is made then.
    """
    try:
        manifest = make_again(source.absolute(), home)
    except lock.Held as held:
        print(f"ftd: {held}", file=sys.stderr)
        return IN_USE
    except OSError as error:
        raise FtdError(Kind.UNAVAILABLE, f"The home is not restored: {error}.") from error
    print(f"restored      {home.root}, {_size(manifest)}")
    print("next          ftd serve: jobs that ran go on from their last checkpoint in the backup")
    if not (home.root / "admin.key").exists():
        print("key           a new admin.key is made then, unless yours is put there before")
    return 0


def back_up(home: Home, destination: Path) -> Manifest:
    """The same without a word; raises OSError too, as the disk does."""
    if os.path.lexists(destination):
        raise invalid(f"{destination} is there already.")
    if destination.parent.resolve().is_relative_to(home.root.resolve()):
        raise invalid("A backup inside of the home would be lost with it.")
    if not home.database.exists():
        raise invalid(f"There is nothing to back up: {home.database} does not exist.")
    with tempfile.TemporaryDirectory(
        dir=destination.parent, prefix=f".{destination.name}."
    ) as scratch:
        draft = _Draft(home, Path(scratch) / "draft")
        draft.root.mkdir()
        manifest = _manifest(draft.root, draft.gather())
        (draft.root / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")
        blobs.publish(draft.root, destination)
    return manifest


def make_again(source: Path, home: Home) -> Manifest:
    """The same without a word; raises OSError too, and Held when a daemon is on the home."""
    _refuse_used(home)
    manifest = _verified(source)
    home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with lock.hold(home.root / "daemon.lock"):
        _refuse_used(home)
        _rebuild(source, manifest, home)
    return manifest


@dataclass(slots=True)
class _Draft:
    """A backup in the making."""

    home: Home
    root: Path
    _taken: set[str] = field(default_factory=set)
    _refused: set[str] = field(default_factory=set)  # checkpoints that are not whole

    def gather(self) -> Kept:
        """Take the rows and what they name; returns what they name."""
        database = self.root / DATABASE
        for left in reversed(range(ROUNDS)):
            database.unlink(missing_ok=True)
            rows = kept.snapshot(self.home.database, database)
            self._fill(rows)
            now = kept.now(self.home.database)
            gone = (rows.files.keys() - now.files.keys()) | (rows.models.keys() - now.models.keys())
            # A job that makes checkpoints all the time loses those in between from the backup.
            if not gone and (not left or rows.checkpoints.keys() <= now.checkpoints.keys()):
                return rows
        raise FtdError(Kind.UNAVAILABLE, "Too much is being deleted; please try again.")

    def _fill(self, rows: Kept) -> None:
        named = {f"files/{file_id}" for file_id in rows.files} | rows.models.keys()
        for path in self._taken - named - rows.checkpoints.keys():
            self._drop(path)
        points = {path for path, sha256 in rows.checkpoints.items() if self._point(path, sha256)}
        for path in named:
            if not points.intersection(str(parent) for parent in PurePosixPath(path).parents):
                self._take(path)

    def _point(self, path: str, manifest_sha256: str) -> bool:
        if path in self._refused or not self._take(path):
            return False
        whole = _is_whole(self.root / path, manifest_sha256)
        if not whole:
            self._drop(path)
            self._refused.add(path)
        return whole

    def _take(self, path: str) -> bool:
        """Whether it is there; what is gone, or is no data, is a fault of the home."""
        if path in self._taken:
            return True
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            blobs.link_or_copy(self.home.root / path, target)
        except (FileNotFoundError, ValueError):
            shutil.rmtree(target, ignore_errors=True)
            return False
        self._taken.add(path)
        return True

    def _drop(self, path: str) -> None:
        self._taken.discard(path)
        target = self.root / path
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink()


def _manifest(draft: Path, rows: Kept) -> Manifest:
    """Hash everything, and compare it with what the rows say of it."""
    entries = {
        file.relative_to(draft).as_posix(): Entry(
            bytes=file.stat().st_size, sha256=blobs.file_sha256(file)
        )
        for file in _files(draft)
    }
    return Manifest(
        ftd=__version__,
        made_at=int(time.time()),
        faults=tuple(_faults(entries, rows)),
        files=entries,
    )


def _faults(entries: dict[str, Entry], rows: Kept) -> Iterator[str]:
    for file_id, sha256 in rows.files.items():
        entry = entries.get(f"files/{file_id}")
        if entry is None:
            yield f"files/{file_id} is missing"
        elif entry.sha256 != sha256:
            yield f"files/{file_id} is not what was uploaded"
    for path, tree in rows.models.items():
        below = {
            name.removeprefix(f"{path}/"): entry.sha256
            for name, entry in entries.items()
            if name.startswith(f"{path}/")
        }
        if not below:
            yield f"{path} is missing"
        elif tree is not None and blobs.listed_sha256(below) != tree:
            yield f"{path} is not the model that was stored"


def _is_whole(checkpoint: Path, manifest_sha256: str) -> bool:
    """Whether it is the one that was recorded and lacks no file; its trainer hashes them."""
    manifest = checkpoint / MANIFEST
    if not manifest.is_file() or blobs.file_sha256(manifest) != manifest_sha256:
        return False
    listed = _Listing.model_validate_json(manifest.read_bytes()).files
    return all(
        (checkpoint / file.name).is_file() and (checkpoint / file.name).stat().st_size == file.size
        for file in listed
    )


class _ListedFile(_Record):
    name: str
    size: int


class _Listing(_Record):
    """Of a checkpoint's manifest what tells whether it is all there."""

    files: tuple[_ListedFile, ...] = ()


def _verified(source: Path) -> Manifest:
    """The manifest of a backup that is whole. Reads every byte of it."""
    try:
        manifest = Manifest.model_validate_json((source / MANIFEST).read_bytes())
    except OSError as error:
        raise invalid(f"{source} is no backup: {error}.") from error
    except ValidationError as error:
        raise invalid(f"{source} is no backup that this ftd can read: {error}") from error
    for name, entry in manifest.files.items():
        parts = PurePosixPath(name).parts
        if name != DATABASE and (not set(parts[:1]) & set(TREES) or ".." in parts):
            raise invalid(f"{source} is no backup: it names {name!r}.")
        fault = _fault(source / name, entry)
        if fault is not None:
            raise invalid(f"{source} is damaged: {name} {fault}. Nothing was restored.")
    if DATABASE not in manifest.files:
        raise invalid(f"{source} is no backup: it has no {DATABASE}.")
    kept.prove(source / DATABASE)
    return manifest


def _fault(path: Path, entry: Entry) -> str | None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return "is missing"
    if not stat.S_ISREG(status.st_mode) or status.st_size != entry.bytes:
        return "is not the file that was backed up"
    return None if blobs.file_sha256(path) == entry.sha256 else "is not what was backed up"


def _refuse_used(home: Home) -> None:
    found = next(home.root.glob(f"{DATABASE}*"), None) or home.leftover()
    if found is not None:
        raise invalid(f"{home.root} is not empty: {found} is there. Nothing was restored.")


def _rebuild(source: Path, manifest: Manifest, home: Home) -> None:
    """All of it aside first; the database comes last, and until then no daemon starts here."""
    draft = home.root / ".restoring"
    if draft.exists():
        shutil.rmtree(draft)  # of a restore that was killed: we have the lock
    for tree in TREES:
        (draft / tree).mkdir(parents=True)
    for name in manifest.files:
        target = draft / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name == DATABASE:
            blobs.copy_file(source / name, target)  # it is going to be written
        else:
            blobs.link_or_copy(source / name, target)
    blobs.sync_tree(draft)
    home.make()
    for tree in TREES:
        for child in (draft / tree).iterdir():
            child.rename(home.root / tree / child.name)
        blobs.sync(home.root / tree)
    blobs.publish(draft / DATABASE, home.database)
    shutil.rmtree(draft)


def _files(directory: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(directory):
        for name in sorted(names):
            yield Path(parent, name)


def _size(manifest: Manifest) -> str:
    total = sum(entry.bytes for entry in manifest.files.values())
    return f"{len(manifest.files):,} files, {total / 1e6:,.1f} MB"
