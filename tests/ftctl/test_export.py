"""ftctl models export, as processes."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.ftctl.conftest import Daemon, ended


@pytest.fixture
def files(daemon: Daemon) -> Path:
    """What is exported; large enough to be seen on its way."""
    directory = daemon.root / "files"
    directory.mkdir()
    (directory / "adapter_config.json").write_bytes(b"{}")
    (directory / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 9000)
    (directory / "empty").touch()
    daemon.door.models.exports = directory
    return directory


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


async def test_every_file_arrives_as_it_is(daemon: Daemon, files: Path) -> None:
    to = daemon.root / "deep" / "out"
    ran = await daemon.run("models", "export", "smollm2", "--to", str(to))
    assert (ran.status, ran.out) == (0, "")
    assert ran.err.splitlines()[1:] == ["adapter: 2.2 MiB", f"wrote 3 files to {to}"]
    assert content(to) == content(files)
    assert [path.name for path in to.parent.iterdir()] == ["out"]
    mask = os.umask(0)
    os.umask(mask)
    assert to.stat().st_mode & 0o777 == 0o777 & ~mask
    empty = daemon.root / "empty"
    empty.mkdir()
    ran = await daemon.run("models", "export", "smollm2", "--to", str(empty), "--format", "merged")
    assert (ran.status, content(empty)) == (0, content(files))
    assert "merged: " in ran.err


async def test_a_directory_with_something_in_it_stays_as_it_is(daemon: Daemon, files: Path) -> None:
    before = content(files)
    for to in (files, files / "empty"):
        ran = await daemon.run("models", "export", "smollm2", "--to", str(to))
        assert ran.status == 2
        assert "is there already" in ran.err
    assert content(files) == before
    assert daemon.door.models.exporting == 0


async def test_how_it_fails_leaves_nothing(daemon: Daemon, files: Path) -> None:
    to = str(daemon.root / "out")
    ran = await daemon.run("models", "export", "gpt-9", "--to", to)
    assert ran.status == 3
    ran = await daemon.run("models", "export", "smollm2", "--to", to, "--format", "gguf")
    assert (ran.status, ran.err.splitlines()[1]) == (
        1,
        "ftctl: 'OddForCausalLM' cannot be converted to GGUF.",
    )
    ran = await daemon.run("models", "export", "smollm2", "--to", to, "--format", "onnx")
    assert ran.status == 2
    ran = await daemon.run("models", "export", "smollm2", "--to", "/proc/none/out")
    assert ran.status == 1
    assert "cannot be written" in ran.err
    assert {path.name for path in daemon.root.iterdir()} == {"home", "files", "s"}


async def test_an_interrupt_leaves_nothing(daemon: Daemon, files: Path) -> None:
    with (files / "large").open("wb") as large:
        large.truncate(2**30)  # a hole, on both sides: it costs no disk before it is written
    process = await daemon.begin("models", "export", "smollm2", "--to", str(daemon.root / "out"))
    async with asyncio.timeout(30):
        while not list(daemon.root.glob(".out.*/large")):  # noqa: ASYNC110  # no event
            await asyncio.sleep(0.005)
    process.send_signal(signal.SIGINT)
    ran = await ended(process)
    assert ran.status == 130
    assert ran.err.endswith("nothing was written\n")
    assert {path.name for path in daemon.root.iterdir()} == {"home", "files", "s"}
    async with asyncio.timeout(30):
        while daemon.door.models.exporting:  # noqa: ASYNC110  # no event
            await asyncio.sleep(0.005)
