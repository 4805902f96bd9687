import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftd.core.wire import (
    LINE_BYTES,
    Assign,
    Failed,
    Notice,
    Phase,
    Prepared,
    Stop,
    decode_fact,
    encode,
)
from ftd.worker.report import Asked, Inbox, Report, line


@pytest.fixture
def channel() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs
        ours.close()
        for thread in threading.enumerate():
            if thread.name == "inbox":
                thread.join(timeout=5)


def test_a_fact_is_one_line_on_the_pipe() -> None:
    reader, writer = os.pipe()
    facts = [
        Phase(name="loading"),
        Prepared(examples=3, epoch_tokens=9, steps_per_epoch=1, total_steps=1),
    ]
    for fact in facts:
        Report(writer)(fact)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert [decode_fact(text) for text in pipe] == facts


@pytest.mark.parametrize("letter", ["a", "\u00e9", "\U0001f600", "\n", "\x00", '"'])
def test_a_long_message_is_shortened_until_its_line_fits(letter: str) -> None:
    told = decode_fact(line(Failed(code="trainer_error", message=letter * 5000)))
    assert isinstance(told, Failed)
    assert told.message.endswith("...")
    assert len(line(told)) <= LINE_BYTES
    assert told.code == "trainer_error"


def test_a_message_that_fits_is_told_whole() -> None:
    fact = Notice(message="x" * 3900, data={"step": 0})
    assert decode_fact(line(fact)) == fact


def test_a_file_name_that_is_no_utf8_can_be_told() -> None:
    told = json.loads(line(Failed(code="c", message="no such file: \udcff")))
    assert told["message"] == "no such file: ?"


def test_a_stop_without_saving_outweighs_one_with_it() -> None:
    asked = Asked()
    assert (asked.stop, asked.save) == (False, False)
    asked.ask(Stop(save=True))
    assert (asked.stop, asked.save) == (True, True)
    asked.ask(Stop(save=False))
    asked.ask(Stop(save=True))
    assert (asked.stop, asked.save) == (True, False)


def test_the_assignment_brings_the_locks(
    channel: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    ours, theirs = channel
    inbox = Inbox(theirs)
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    assign = Assign(job="ftjob-1", attempt=1)
    socket.send_fds(ours, [encode(assign)], [lock])
    assert inbox.assignment() == assign
    assert [os.fstat(got).st_ino for got in inbox.locks] == [os.fstat(lock).st_ino]
    assert not os.get_inheritable(inbox.locks[0])
    for descriptor in [lock, *inbox.locks]:
        os.close(descriptor)


def test_commands_may_arrive_in_pieces_and_together(
    channel: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = channel
    inbox = Inbox(theirs)
    both = encode(Assign(job="ftjob-1", attempt=2)) + encode(Stop(save=True))
    for start in range(0, len(both), 7):
        ours.sendall(both[start : start + 7])
    assert inbox.assignment() == Assign(job="ftjob-1", attempt=2)
    assert inbox.assignment() is None
    assert inbox.asked.save


def test_an_unknown_command_is_refused_and_the_next_is_heard(
    channel: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = channel
    inbox = Inbox(theirs)
    ours.sendall(b'{"kind": "dance"}\n' + encode(Assign(job="ftjob-1", attempt=1)))
    assert inbox.assignment() is not None
    assert "refused a command" in caplog.text


def test_a_closed_channel_ends_the_wait(channel: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = channel
    inbox = Inbox(theirs)
    ours.close()
    assert inbox.assignment() is None
    assert not inbox.asked.stop
