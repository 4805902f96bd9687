"""Files and trees get second names, stable hashes, and their final name all at once."""

import os
import subprocess
from pathlib import Path

import pytest

from ftd.host.blobs import copy_file, file_sha256, link_or_copy, publish, tree_sha256


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "a.txt").write_text("one")
    (root / "deep" / "b.txt").write_text("two")
    (root / "deep" / "er" / "Z").write_bytes(b"\x00\xff")
    return root


def other_file_system(tmp_path: Path) -> Path:
    """A fresh directory on another file system than tmp_path's."""
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK) or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is only one file system to write on")
    place = shm / f"ftd-test-{os.getpid()}-{tmp_path.name}"
    place.mkdir()
    return place


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()
    }


def test_a_file_is_hard_linked_and_outlives_its_first_name(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("bytes")
    link_or_copy(source, target)
    assert source.stat().st_ino == target.stat().st_ino
    source.unlink()
    assert target.read_text() == "bytes"


def test_a_tree_is_linked_file_by_file(tree: Path, tmp_path: Path) -> None:
    link_or_copy(tree, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tree)
    again = tmp_path / "again" / "deep" / "b.txt"
    assert again.stat().st_ino == (tree / "deep" / "b.txt").stat().st_ino


def test_across_file_systems_a_tree_is_copied(tree: Path, tmp_path: Path) -> None:
    elsewhere = other_file_system(tmp_path)
    try:
        link_or_copy(tree, elsewhere / "again")
        assert contents(elsewhere / "again") == contents(tree)
        assert tree_sha256(elsewhere / "again") == tree_sha256(tree)
    finally:
        subprocess.run(["rm", "-r", elsewhere], check=True)


def test_an_existing_target_is_kept(tree: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    with pytest.raises(FileExistsError):
        link_or_copy(tree / "a.txt", target)
    with pytest.raises(FileExistsError):
        copy_file(tree / "a.txt", target)
    assert target.read_text() == "mine"


@pytest.mark.parametrize("kind", ["link", "directory link", "pipe"])
def test_what_is_no_file_is_never_given_a_name(tree: Path, tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key")
    odd = tree / "deep" / "odd"
    if kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to(secret if kind == "link" else tmp_path)
    with pytest.raises(ValueError, match="odd is"):
        link_or_copy(tree, tmp_path / "again")
    with pytest.raises(ValueError, match="odd is"):
        tree_sha256(tree)


def test_a_copy_is_a_file_of_its_own(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(3_000_000))
    copy_file(source, target)
    digest = file_sha256(source)
    source.write_text("changed")
    assert file_sha256(target) == digest


def test_the_hash_is_that_of_sha256sums_listing(tree: Path) -> None:
    listing = "find . -type f -printf '%P\\n' | LC_ALL=C sort | xargs sha256sum | sha256sum"
    said = subprocess.run(listing, shell=True, cwd=tree, capture_output=True, check=True).stdout
    assert tree_sha256(tree) == said.split()[0].decode()


@pytest.mark.parametrize("change", ["content", "name", "place"])
def test_the_hash_sees_every_change(tree: Path, change: str) -> None:
    before = tree_sha256(tree)
    if change == "content":
        (tree / "a.txt").write_text("One")
    elif change == "name":
        (tree / "a.txt").rename(tree / "b.txt")
    else:
        (tree / "a.txt").rename(tree / "deep" / "a.txt")
    assert tree_sha256(tree) != before


def test_publish_moves_a_tree_whole(tree: Path, tmp_path: Path) -> None:
    before = contents(tree)
    publish(tree, tmp_path / "final")
    assert contents(tmp_path / "final") == before
    assert not tree.exists()


def test_publish_replaces_a_file_but_not_a_full_directory(tree: Path, tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    new.write_text("new")
    old.write_text("old")
    publish(new, old)
    assert old.read_text() == "new"
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "x").touch()
    with pytest.raises(OSError, match="not empty"):
        publish(tree, taken)
    assert (tree / "a.txt").exists()
    assert (taken / "x").exists()
