"""Every message goes to a real datagram socket, as systemd would read it."""

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftd.host import systemd


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(tmp_path / "notify"))
        line.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield line


def test_assignments_travel_in_one_datagram(listener: socket.socket) -> None:
    systemd.notify("READY=1", "STATUS=serving")
    assert listener.recv(4096) == b"READY=1\nSTATUS=serving"


def test_an_abstract_socket_is_heard_too(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"ftd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(f"\0{name}")
        line.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        systemd.notify("STOPPING=1")
        assert line.recv(4096) == b"STOPPING=1"


@pytest.mark.parametrize("address", [None, ""])
def test_nobody_listens(
    address: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    systemd.notify("READY=1")
    assert caplog.records == []


def test_a_message_that_is_lost_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    systemd.notify("READY=1")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.__dict__["state"] == ("READY=1",)


def test_a_listener_that_never_reads_does_not_hold_us(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(systemd, "SEND_S", 0.01)
    limit = 100_000
    for sent in range(limit):
        systemd.notify(f"STATUS={sent}" + "x" * 1024)
        if caplog.records:
            break
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_the_watchdog_wants_word_twice_in_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert systemd.watchdog_interval_s() == 15.0
    monkeypatch.delenv("WATCHDOG_PID")
    assert systemd.watchdog_interval_s() == 15.0


@pytest.mark.parametrize("timeout_us", [None, "", "soon"])
def test_no_watchdog(timeout_us: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    if timeout_us is not None:
        monkeypatch.setenv("WATCHDOG_USEC", timeout_us)
    assert systemd.watchdog_interval_s() is None


def test_a_parents_watchdog_is_not_ours(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    systemd.watchdog()
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    systemd.watchdog()
    assert listener.recv(4096) == b"WATCHDOG=1"
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.recv(4096)
