"""The shelf takes whole token directories alone, and gives back the room that it may not have."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from ftd.core.tokens import COLUMNS, MANIFEST, Counts, Hashes, Identity, Manifest, file_of
from ftd.host import blobs
from ftd.host.shelf import Shelf

FILE = sha256(b"a file").hexdigest()
OTHER = sha256(b"another").hexdigest()
ZERO = "0" * 64


def make(directory: Path, tokens: int = 10, source: str = FILE) -> Path:
    """A directory as a trainer leaves it: one example of one row."""
    directory.mkdir(parents=True)
    counts = Counts(tokens=tokens, rows=1, examples=1)
    hashes = {}
    for column, size in counts.sizes().items():
        content = os.urandom(size)
        (directory / file_of(column)).write_bytes(content)
        hashes[column] = sha256(content).hexdigest()
    identity = Identity(source=source, context_tokens=8, tokenizer=ZERO, maker=ZERO)
    manifest = Manifest(identity=identity, counts=counts, sha256=Hashes(**hashes))
    (directory / MANIFEST).write_text(manifest.model_dump_json())
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    root = tmp_path / "cache" / "tokens"
    root.mkdir(parents=True)
    return Shelf(root, 10_000)


def left(shelf: Shelf) -> set[str]:
    """Every file on the shelf, what is on its way included."""
    return {str(path.relative_to(shelf.root)) for path in shelf.root.rglob("*") if path.is_file()}


def test_what_is_whole_is_published_and_found(shelf: Shelf, tmp_path: Path) -> None:
    made, place = make(tmp_path / "made"), shelf.place(FILE, "key")
    assert not shelf.find(place)
    shelf.publish(made, place)
    assert shelf.find(place)
    assert contents(place) == contents(made)
    assert (place / "ids.bin").samefile(made / "ids.bin")
    assert len(left(shelf)) == 5
    assert shelf.sources() == (FILE,)


def test_what_was_there_is_replaced(shelf: Shelf, tmp_path: Path) -> None:
    place = shelf.place(FILE, "key")
    shelf.publish(make(tmp_path / "old"), place)
    new = make(tmp_path / "new", 20)
    shelf.publish(new, place)
    assert contents(place) == contents(new)
    assert len(left(shelf)) == 5


def link_to_secret(made: Path) -> None:
    secret = made.parent / "secret"
    secret.write_bytes(b"secret" * 100)
    (made / "ids.bin").unlink()
    (made / "ids.bin").symlink_to(secret)


def link_to_directory(made: Path) -> None:
    (made / "ids.bin").unlink()
    (made / "ids.bin").symlink_to(made.parent)


def pipe(made: Path) -> None:
    (made / "rows.bin").unlink()
    os.mkfifo(made / "rows.bin")


def flip(made: Path) -> None:
    content = bytearray((made / "weights.bin").read_bytes())
    content[3] ^= 1
    (made / "weights.bin").write_bytes(content)


def say(**changes: object) -> Callable[[Path], object]:
    """A manifest that says something else."""

    def harm(made: Path) -> None:
        manifest = json.loads((made / MANIFEST).read_text())
        (made / MANIFEST).write_text(json.dumps(manifest | changes))

    return harm


@pytest.mark.parametrize(
    "harm",
    [
        link_to_secret,
        link_to_directory,
        pipe,
        flip,
        lambda made: (made / MANIFEST).unlink(),
        lambda made: (made / MANIFEST).rename(made / f"{MANIFEST}.draft"),
        lambda made: (made / "more").touch(),
        lambda made: (made / "examples.bin").unlink(),
        lambda made: os.truncate(made / "ids.bin", 36),
        lambda made: (made / MANIFEST).write_text("[" * 60_000),
        lambda made: (made / MANIFEST).write_bytes(b" " * 100_000),
        lambda made: (made / MANIFEST).write_text("{}"),
        say(counts={"tokens": -10}),
        say(counts={"tokens": "10", "rows": 1, "examples": 1}),
        say(counts={"tokens": 10**30, "rows": 1, "examples": 1}),
        say(sha256=dict.fromkeys(COLUMNS, "../../x")),
        say(more=1),
    ],
)
def test_what_is_not_whole_is_refused(
    shelf: Shelf, tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    place = shelf.place(FILE, "key")
    before = make(tmp_path / "before")
    shelf.publish(before, place)
    made = make(tmp_path / "made")
    harm(made)
    with pytest.raises((ValueError, OSError)):
        shelf.publish(made, place)
    assert contents(place) == contents(before)
    assert len(left(shelf)) == 5


def test_a_link_is_no_token_directory(shelf: Shelf, tmp_path: Path) -> None:
    make(tmp_path / "made")
    (tmp_path / "link").symlink_to(tmp_path / "made")
    with pytest.raises(ValueError, match="no token directory"):
        shelf.publish(tmp_path / "link", shelf.place(FILE, "key"))


def test_the_tokens_of_another_file_are_refused(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another file"):
        shelf.publish(make(tmp_path / "made", source=OTHER), shelf.place(FILE, "key"))
    assert not left(shelf)


def test_more_than_the_limit_is_never_looked_at(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "file_sha256", lambda _: pytest.fail("it was read"))
    with pytest.raises(ValueError, match="more than the cache may hold"):
        shelf.publish(make(tmp_path / "made", 2000), shelf.place(FILE, "key"))


def test_those_lent_longest_ago_go_first(shelf: Shelf, tmp_path: Path) -> None:
    made = [make(tmp_path / f"made-{number}", 300) for number in range(4)]
    each = sum(len(content) for content in contents(made[0]).values())
    shelf = Shelf(shelf.root, 3 * each)
    places = [shelf.place(FILE, f"key-{number}") for number in range(4)]
    for number in range(3):
        shelf.publish(made[number], places[number])
        os.utime(places[number], (number, number))
    assert shelf.find(places[0]), "and lent"
    shelf.publish(made[3], places[3])
    assert [place.exists() for place in places] == [True, False, True, True]
    Shelf(shelf.root, each).sweep({FILE})
    assert [place.exists() for place in places] == [False, False, False, True]
    Shelf(shelf.root, 0).sweep({FILE})
    assert not shelf.sources()


def test_a_sweep_keeps_what_has_its_file(shelf: Shelf, tmp_path: Path) -> None:
    for source in (FILE, OTHER):
        shelf.publish(make(tmp_path / source, source=source), shelf.place(source, "key"))
    shelf.sweep({OTHER, ZERO})
    assert shelf.sources() == (OTHER,)
    assert len(left(shelf)) == 5


@pytest.mark.parametrize("step", ["link_or_copy", "file_sha256", "publish"])
def test_a_crash_on_the_way_leaves_nothing_that_looks_complete(
    shelf: Shelf, tmp_path: Path, step: str
) -> None:
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from ftd.host import blobs\n"
        "from ftd.host.shelf import Shelf\n"
        "root, made, place = map(Path, sys.argv[2:])\n"
        "setattr(blobs, sys.argv[1], lambda *_: os._exit(9))\n"
        "Shelf(root, 10_000).publish(made, place)\n"
    )
    made, place = make(tmp_path / "made"), shelf.place(FILE, "key")
    arguments = [step, str(shelf.root), str(made), str(place)]
    assert subprocess.run([sys.executable, "-c", program, *arguments]).returncode == 9
    assert list((shelf.root / ".new").iterdir()), "it was on its way"
    assert not place.exists()
    shelf.recover()
    assert not left(shelf)
    shelf.publish(made, place)
    assert shelf.find(place)


def test_a_full_disk_leaves_nothing(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(blobs, "link_or_copy", full)
    with pytest.raises(OSError, match="No space left"):
        shelf.publish(make(tmp_path / "made"), shelf.place(FILE, "key"))
    assert not left(shelf)
    assert not shelf.sources()


def test_a_shelf_that_is_gone_is_an_empty_one(shelf: Shelf) -> None:
    shutil.rmtree(shelf.root)
    assert shelf.sources() == ()
