"""A worker's ear under everything that is no command: what comes after is still heard."""

import random
import socket
import threading

from ftd.core import wire
from ftd.worker.report import Inbox
from tests.fuzz import mutated, seeded, seeds

COMMANDS = [
    wire.encode(wire.Stop(save=True)).replace(b"stop", b"rest"),
    wire.encode(wire.Assign(job="j", attempt=1)).replace(b"assign", b"resign"),
    b'{"kind":"stop","save":"perhaps"}\n',
    b'{"kind":"assign","job":7,"attempt":1}\n',
    b'{"kind":"assign","job":"j","attempt":1e400}\n',
]
SPLICES = [*COMMANDS, b"\n", b"\xff\xfe", b"[" * 3000, b'{"kind":', b"9" * 5000, b"\0" * 64]
ASSIGN = wire.Assign(job="ftjob-1", attempt=3)


def junk(chance: random.Random) -> bytes:
    """Lines, none of which is a command."""
    said = b"".join(chance.choice(COMMANDS) for _ in range(chance.randrange(1, 5)))
    for _ in range(chance.randrange(4)):
        said = mutated(said, chance, SPLICES)
    return b"".join(line + b"\n" for line in said.split(b"\n") if not is_command(line))


def is_command(line: bytes) -> bool:
    try:
        wire.decode_command(line)
    except wire.WireError:
        return False
    return True


def test_a_command_after_any_junk_is_heard() -> None:
    for seed in seeds(200):
        with seeded(seed) as chance:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                inbox = Inbox(theirs)
                for _ in range(chance.randrange(1, 4)):
                    ours.sendall(junk(chance))
                ours.sendall(wire.encode(ASSIGN) + wire.encode(wire.Stop(save=True)))
                assert inbox.assignment() == ASSIGN
                assert inbox.assignment() is None
                assert (inbox.asked.stop, inbox.asked.save) == (True, True)
                ours.close()
                ended()


def test_a_line_of_a_megabyte_is_passed_over() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        inbox = Inbox(theirs)
        ours.sendall(b"x" * 2**20 + b"\n" + wire.encode(ASSIGN))
        assert inbox.assignment() == ASSIGN
        ours.close()
        ended()


def ended() -> None:
    for thread in threading.enumerate():
        if thread.name == "inbox":
            thread.join(timeout=10)
            assert not thread.is_alive()
