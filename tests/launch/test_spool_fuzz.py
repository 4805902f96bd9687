"""Every damage that a small spool can have: what is read is what was written, or less of it."""

import random
from itertools import accumulate

import pytest

from ftd.launch import spool
from ftd.launch.base import Frame, Spooled
from tests.fuzz import mutated, seeded, seeds

LINES = [b'{"kind":"started"}', b"", b'{"kind":"step"}', b"x" * 40, b'{"kind":"done"}']
PIECES = [spool.frame(seq, line) for seq, line in enumerate(LINES, 1)]
WHOLE = b"".join(PIECES)
ENDS = list(accumulate(map(len, PIECES)))
FRAMES = [
    Frame(seq=seq, line=line, end=end)
    for seq, (line, end) in enumerate(zip(LINES, ENDS, strict=True), 1)
]
STARTS = [0, *ENDS[:-1]]


def read(data: bytes, offset: int = 0) -> Spooled:
    return spool._parse(data[offset:], offset, more=False)


def honest(found: Spooled, data: bytes, frames: list[Frame] = FRAMES) -> None:
    """What was found is a beginning of what was written; the rest is said to be bad, or awaited."""
    assert list(found.frames) == frames[: len(found.frames)]
    assert found.offset == ([0] + [frame.end for frame in frames])[len(found.frames)]
    if found.offset < len(data):
        assert found.torn or found.corrupt is not None
    assert not (found.torn and found.corrupt is not None), "it is one or the other"


def test_every_truncation() -> None:
    for cut in range(len(WHOLE) + 1):
        found = read(WHOLE[:cut])
        honest(found, WHOLE[:cut])
        assert len(found.frames) == sum(end <= cut for end in ENDS)
        assert found.corrupt is None, "what is only short is never damage"


def test_every_single_bit() -> None:
    for at in range(len(WHOLE)):
        for bit in range(8):
            data = bytearray(WHOLE)
            data[at] ^= 1 << bit
            found = read(bytes(data))
            honest(found, bytes(data))
            assert len(found.frames) == sum(end <= at for end in ENDS), "it begins where it is bad"


@pytest.mark.parametrize("byte", [0x00, 0x20, 0xFF])
@pytest.mark.parametrize("count", [1, 2, 16, 17, 33])
def test_bytes_put_in_anywhere(byte: int, count: int) -> None:
    for at in range(len(WHOLE)):
        data = WHOLE[:at] + bytes([byte]) * count + WHOLE[at:]
        honest(read(data), data)


def test_bytes_lost_anywhere() -> None:
    for at in range(len(WHOLE)):
        for to in range(at + 1, min(at + 60, len(WHOLE))):
            data = WHOLE[:at] + WHOLE[to:]
            found = read(data)
            assert list(found.frames) == FRAMES[: len(found.frames)]


@pytest.mark.parametrize("length", [0, 1, 17, 2**16, 2**16 + 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("which", range(len(LINES)))
def test_a_length_that_is_not_the_lines(length: int, which: int) -> None:
    if length == len(LINES[which]):
        return
    start = STARTS[which]
    data = WHOLE[:start] + length.to_bytes(4, "little") + WHOLE[start + 4 :]
    found = read(data)
    honest(found, data)
    assert len(found.frames) == which
    if length > spool.LINE_BYTES:
        assert found.corrupt == f"a frame of {length} bytes at {start}"


def test_every_order_but_the_right_one_is_damage() -> None:
    for first in range(len(PIECES)):
        for second in range(len(PIECES)):
            pieces = PIECES.copy()
            pieces[first], pieces[second] = pieces[second], pieces[first]
            found = read(b"".join(pieces))
            assert list(found.frames) == FRAMES[: len(found.frames)]
            assert (found.corrupt is None) == (first == second)


@pytest.mark.parametrize("which", range(len(LINES)))
def test_a_frame_that_is_missing_or_there_twice_is_damage(which: int) -> None:
    twice = b"".join([*PIECES[: which + 1], *PIECES[which:]])
    assert read(twice).corrupt is not None
    assert list(read(twice).frames) == FRAMES[: which + 1]
    missing = b"".join(PIECES[:which] + PIECES[which + 1 :])
    assert list(read(missing).frames) == FRAMES[:which]
    assert (read(missing).corrupt is None) == (which == len(LINES) - 1)


def test_a_reader_that_comes_again_and_again_reads_what_a_late_one_reads() -> None:
    """The file grows byte by byte under a reader that looks after each."""
    found: list[Frame] = []
    offset = 0
    for size in range(len(WHOLE) + 1):
        part = read(WHOLE[:size], offset)
        assert part.corrupt is None
        found += part.frames
        offset = part.offset
    assert found == FRAMES


def test_damage_of_every_kind_at_once() -> None:
    for seed in seeds(3000):
        with seeded(seed) as chance:
            data = WHOLE
            for _ in range(chance.randrange(1, 4)):
                data = mutated(data, chance, PIECES)
            found = read(data)
            believed(found)
            again(found, data, chance)


def believed(found: Spooled) -> None:
    """Whole frames moved to where they are due are believed: the seq and the sum say no more."""
    for place, frame in enumerate(found.frames):
        assert (frame.seq, frame.line) == (place + 1, LINES[place])


def again(found: Spooled, data: bytes, chance: random.Random) -> None:
    """From any frame's end the same is read again. After the last, a read cannot know which seq
    is due: its reader does."""
    if found.frames:
        start = chance.choice(found.frames)
        known = found.frames[start.seq :]
        assert read(data, start.end).frames[: len(known)] == known
