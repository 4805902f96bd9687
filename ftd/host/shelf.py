"""Token directories that trainers made, kept for the next job on the same file and tokenizer.

    cache/tokens/<sha256 of the file>/<key of the rest>/     whole, verified, never written again
    cache/tokens/.new/                                       on its way in or out; gone at a start

A trainer is not believed: what it made is taken if the names, the sizes and the hashes are those of
its manifest, and the manifest's those of the file. Whether the numbers are the file's tokens only
tokenising could tell; a trainer that takes them checks that it would have made the same.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ftd.core.tokens import COLUMNS, MANIFEST, MANIFEST_BYTES, Manifest, file_of
from ftd.host import blobs

_NAMES = {MANIFEST, *(file_of(column) for column in COLUMNS)}


@dataclass(frozen=True, slots=True)
class Shelf:
    """`limit_bytes` of token directories at the most; those lent longest ago go first."""

    root: Path
    limit_bytes: int

    def place(self, source: str, key: str) -> Path:
        """Where the tokens of the file with this sha256 lie; `key` is of what else decides them."""
        return self.root / source / key

    def find(self, place: Path) -> bool:
        """Whether there are tokens; they are then the last to go."""
        try:
            os.utime(place)
        except FileNotFoundError:
            return False
        return True

    def publish(self, made: Path, place: Path) -> None:
        """Link or copy what a trainer made to its place; what was there before was of no use to it.

        Raises ValueError for what is not whole, not of this file or too large, OSError as the disk
        does; at the place is then what was there, or nothing.
        """
        with self._aside() as aside:
            new = aside / "new"
            new.mkdir()
            if made.is_symlink() or {path.name for path in made.iterdir()} != _NAMES:
                raise ValueError(f"{made} is no token directory")
            for name in _NAMES:
                blobs.link_or_copy(made / name, new / name)
            self._verify(new, place.parent.name)
            place.parent.mkdir(mode=0o700, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                place.rename(aside / "old")
            blobs.publish(new, place)
        self._fit()

    def sweep(self, wanted: Collection[str]) -> None:
        """Remove the tokens of every file whose sha256 is not among `wanted`, and what is too
        much."""
        for source in self.sources():
            if source not in wanted:
                self._drop(self.root / source)
        self._fit()

    def recover(self) -> None:
        """After a start: nothing is on its way any more."""
        shutil.rmtree(self.root / ".new", ignore_errors=True)

    def sources(self) -> tuple[str, ...]:
        """The sha256 of every file that has tokens here."""
        return tuple(path.name for path in _visible(self.root))

    def _verify(self, directory: Path, source: str) -> None:
        with (directory / MANIFEST).open("rb") as file:
            manifest = Manifest.read(file.read(MANIFEST_BYTES + 1))
        if manifest.identity.source != source:
            raise ValueError("these are the tokens of another file")
        sizes, hashes = manifest.counts.sizes(), manifest.sha256.model_dump()
        if (total := sum(sizes.values())) > self.limit_bytes:
            raise ValueError(f"{total:,} bytes are more than the cache may hold")
        for column, size in sizes.items():
            if (directory / file_of(column)).stat().st_size != size:
                raise ValueError(f"the column {column} has not the size that its manifest says")
        for column, hash_ in hashes.items():
            if blobs.file_sha256(directory / file_of(column)) != hash_:
                raise ValueError(f"the column {column} is not the one that its manifest names")

    def _fit(self) -> None:
        """Drop those lent longest ago until the rest fits."""
        kept = []
        for source in _visible(self.root):
            for place in _visible(source):
                with contextlib.suppress(FileNotFoundError):  # somebody else has just dropped it
                    kept.append((place.stat().st_mtime_ns, _bytes(place), place))
        total = sum(size for _, size, _ in kept)
        for _, size, place in sorted(kept):
            if total <= self.limit_bytes:
                break
            self._drop(place)
            with contextlib.suppress(OSError):  # it has others, or is gone
                place.parent.rmdir()
            total -= size

    def _drop(self, path: Path) -> None:
        """Out of sight first: a crash leaves nothing that looks complete."""
        with self._aside() as aside, contextlib.suppress(FileNotFoundError):
            path.rename(aside / "old")

    @contextlib.contextmanager
    def _aside(self) -> Iterator[Path]:
        """A directory on the same disk; it goes with all that is in it."""
        new = self.root / ".new"
        new.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=new) as aside:
            yield Path(aside)


def _visible(directory: Path) -> list[Path]:
    try:
        return [path for path in directory.iterdir() if not path.name.startswith(".")]
    except FileNotFoundError:
        return []


def _bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.iterdir())
