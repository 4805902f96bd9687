"""What a manifest says of a model, and what a model is."""

import errno
import hashlib
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftd.host import blobs
from ftd.runner import manifest
from ftd.runner.manifest import Damaged, Listed

FILES = {
    "adapter/adapter_config.json": b"{}",
    "adapter/adapter_model.safetensors": b"weights",
    "state.safetensors": b"moments",
}


def sealed(checkpoint: Path, content: Any) -> str:
    """Write the manifest; returns its hash."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    (checkpoint / "MANIFEST.json").write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def listing(files: dict[str, bytes]) -> dict[str, Any]:
    return {
        "version": 1,
        "files": [
            {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
        ],
    }


def published(root: Path, files: dict[str, bytes] = FILES) -> tuple[Path, str]:
    checkpoint = root / "step-1"
    for name, data in files.items():
        (checkpoint / name).parent.mkdir(parents=True, exist_ok=True)
        (checkpoint / name).write_bytes(data)
    return checkpoint, sealed(checkpoint, listing(files))


def test_a_model_is_what_is_listed_of_it(tmp_path: Path) -> None:
    checkpoint, sha256 = published(tmp_path)
    model = manifest.listed(checkpoint, sha256)
    assert model == Listed("adapter", blobs.tree_sha256(checkpoint / "adapter"))
    manifest.verify(checkpoint / "adapter", model)


def test_the_state_of_the_optimizer_is_not_the_models(tmp_path: Path) -> None:
    checkpoint, sha256 = published(tmp_path, {"model/deep/w": b"w", "state.safetensors": b"s"})
    (checkpoint / "state.safetensors").unlink()
    model = manifest.listed(checkpoint, sha256)
    assert model.form == "model"
    manifest.verify(checkpoint / "model", model)


@pytest.mark.parametrize(
    "damage",
    [
        lambda model: (model / "adapter_model.safetensors").write_bytes(b"weightz"),
        lambda model: (model / "adapter_model.safetensors").unlink(),
        lambda model: (model / "another").touch(),
        lambda model: model.rename(model.with_name("moved")),
    ],
    ids=["changed", "missing", "more", "all missing"],
)
def test_a_model_that_is_not_as_listed_is_damaged(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    checkpoint, sha256 = published(tmp_path)
    model = manifest.listed(checkpoint, sha256)
    damage(checkpoint / "adapter")
    with pytest.raises(Damaged, match="its model is not what its manifest says"):
        manifest.verify(checkpoint / "adapter", model)


def test_another_manifest_is_damage(tmp_path: Path) -> None:
    checkpoint, sha256 = published(tmp_path)
    with pytest.raises(Damaged, match="its manifest"):
        manifest.listed(checkpoint, "0" * 64)
    (checkpoint / "MANIFEST.json").unlink()
    with pytest.raises(Damaged, match="its manifest"):
        manifest.listed(checkpoint, sha256)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"[" * 100_000, {}, {"files": [{"name": 1}]}, {"files": []}],
    ids=["empty", "no text", "deep", "no files", "no name", "none"],
)
def test_a_manifest_that_tells_of_no_model_makes_no_sense(tmp_path: Path, content: Any) -> None:
    sha256 = sealed(tmp_path, content)
    with pytest.raises(ValueError, match="its manifest"):
        manifest.listed(tmp_path, sha256)


def test_a_model_that_the_disk_has_lost_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(path: Path) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    checkpoint, sha256 = published(tmp_path)
    model = manifest.listed(checkpoint, sha256)
    monkeypatch.setattr(blobs, "file_sha256", unreadable)
    with pytest.raises(Damaged, match="cannot be read"):
        manifest.verify(checkpoint / "adapter", model)


def test_that_no_descriptor_is_left_says_nothing_of_a_checkpoint(tmp_path: Path) -> None:
    checkpoint, sha256 = published(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            manifest.manifest_sha256(checkpoint)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert manifest.manifest_sha256(checkpoint) == sha256


def test_what_leads_elsewhere_is_no_model(tmp_path: Path) -> None:
    checkpoint, sha256 = published(tmp_path)
    model = manifest.listed(checkpoint, sha256)
    (checkpoint / "link").symlink_to("adapter")
    with pytest.raises(ValueError, match="a symbolic link"):
        manifest.verify(checkpoint / "link", model)
    os.mkfifo(checkpoint / "adapter" / "pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        manifest.verify(checkpoint / "adapter", model)
