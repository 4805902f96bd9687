"""Inputs: linked, or copied where that cannot be, and nothing but files and directories."""

import errno
import os
import socket
from pathlib import Path

import pytest

from ftd.launch import inputs


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "a").write_bytes(b"a" * 1000)
    (tmp_path / "model" / "deep" / "b").write_bytes(b"b")
    return tmp_path / "model"


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_a_directory_is_linked_file_by_file(tree: Path, tmp_path: Path) -> None:
    inputs.place(tree, tmp_path / "in")
    assert contents(tmp_path / "in") == contents(tree)
    assert (tmp_path / "in" / "a").samefile(tree / "a")


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_what_cannot_be_linked_is_copied(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    inputs.place(tree, tmp_path / "in")
    assert contents(tmp_path / "in") == contents(tree)
    assert not (tmp_path / "in" / "a").samefile(tree / "a")


def test_a_full_disk_is_said(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match="No space left"):
        inputs.place(tree, tmp_path / "in")


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "socket"])
def test_anything_else_is_refused(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    odd = tree / "odd"
    match kind:
        case "link":
            odd.symlink_to(tree / "a")
        case "dangling":
            odd.symlink_to("nowhere")
        case "pipe":
            os.mkfifo(odd)
        case "socket":
            monkeypatch.chdir(tree)
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind("odd")
    for source in (tree, odd):
        with pytest.raises(ValueError, match="odd is neither a file nor a directory"):
            inputs.place(source, tmp_path / f"in-{source.name}")


def test_what_is_lent_is_whole_or_not_there(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "in"
    with pytest.raises(FileNotFoundError):
        inputs.lend(tree, inside, "adapters/a")
    assert not inside.exists(), "a run that has gone does not come back"
    inside.mkdir()
    with monkeypatch.context() as broken:

        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        broken.setattr(os, "link", refuse)
        with pytest.raises(OSError, match="No space left"):
            inputs.lend(tree, inside, "adapters/a")
    assert contents(inside) == {}
    inputs.lend(tree, inside, "adapters/a")
    assert contents(inside / "adapters" / "a") == contents(tree)
    assert (inside / "adapters" / "a" / "a").samefile(tree / "a")


def test_a_written_file_is_new(tmp_path: Path) -> None:
    inputs.write(tmp_path / "spec.json", b"{}")
    assert (tmp_path / "spec.json").read_bytes() == b"{}"
    with pytest.raises(FileExistsError):
        inputs.write(tmp_path / "spec.json", b"[]")
