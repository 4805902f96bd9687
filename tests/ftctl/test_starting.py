"""A daemon that has just been started is waited for; nobody else is."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ftctl import address, starting
from ftctl.failure import Failure
from tests.ftctl.conftest import Daemon, ended

# As `ftd serve` looks in /proc while it still imports; it says that it runs, and waits.
SERVE = "import sys; print(flush=True); sys.stdin.read()"


@contextmanager
def starts(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    script = directory / "ftd"
    script.write_text(SERVE)
    with subprocess.Popen(
        [sys.executable, str(script), "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def young(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with starts(tmp_path) as process:
        yield process


def test_a_daemon_is_seen_while_it_is_young(
    young: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert young.pid in starting.daemons()
    monkeypatch.setattr(starting, "START_S", 0.0)
    assert starting.daemons() == []


def test_the_wait_ends_with_the_daemon_that_dies(young: subprocess.Popen[bytes]) -> None:
    seen = starting.serving(young.pid)
    young.kill()
    young.wait()
    assert (seen, starting.serving(young.pid)) == (True, False)


def test_other_programs_are_no_daemons() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, "ftd", "check"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert not starting.serving(process.pid)
        process.kill()


async def test_a_command_waits_for_the_daemon_that_starts(
    daemon: Daemon, young: subprocess.Popen[bytes]
) -> None:
    await daemon.stop()
    process = await daemon.begin("models", "list", "-o", "name")
    assert process.stderr is not None
    said = await asyncio.wait_for(process.stderr.readline(), 30)
    assert said == b"a daemon is starting; waiting for it ...\n"
    await daemon.start()
    ran = await ended(process)
    assert (ran.status, ran.out) == (0, "smollm2\n")


async def test_a_daemon_that_dies_as_it_starts_is_not_waited_for(
    daemon: Daemon, young: subprocess.Popen[bytes]
) -> None:
    await daemon.stop()
    process = await daemon.begin("list")
    assert process.stderr is not None
    await asyncio.wait_for(process.stderr.readline(), 30)
    young.kill()
    young.wait()
    assert (await ended(process)).status == 7


def test_daemons_that_are_started_later_are_not_waited_for(
    young: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(_: float) -> None:
        assert young.poll() is None, "waits for the later one"
        young.kill()
        young.wait()

    with starts(tmp_path) as later:
        seen = iter([[young.pid]])
        monkeypatch.setattr(starting, "_ours", lambda: next(seen, [young.pid, later.pid]))
        monkeypatch.setattr(address.time, "sleep", sleep)
        monkeypatch.setattr(address, "SYSTEM_SOCKET", tmp_path / "none")
        monkeypatch.setenv("FTD_HOME", str(tmp_path))
        with pytest.raises(Failure, match="no daemon is running"):
            address.target(None)
    assert young.poll() is not None
