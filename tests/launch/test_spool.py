"""Spools: what the shim writes is what the reader finds, and damage is told from a torn tail."""

from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftd.launch import spool
from ftd.launch.base import Frame
from ftd.launch.shim.spool import Spool

LINES = [b'{"kind":"started"}', b"", b"not json", b"x" * 4096, b'{"kind":"step"}']
WHOLE = b"".join(spool.frame(seq, line) for seq, line in enumerate(LINES, 1))
ENDS = accumulate(len(spool.frame(seq, line)) for seq, line in enumerate(LINES, 1))
FRAMES = tuple(
    Frame(seq=seq, line=line, end=end)
    for seq, (line, end) in enumerate(zip(LINES, ENDS, strict=True), 1)
)
LAST = len(spool.frame(5, LINES[-1]))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def test_the_shim_and_the_reader_agree(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    written = Spool()
    for line in LINES:
        written.append(line, now=0.0)
    written.flush(now=0.0)
    assert path.read_bytes() == WHOLE
    found = spool.read(path, 0, 2**20)
    assert found.frames == FRAMES
    assert found.offset == len(WHOLE)
    assert not found.torn
    assert found.corrupt is None


def test_reads_go_on_where_the_last_one_ended(path: Path) -> None:
    lines = [bytes([65 + n % 26]) * 1000 for n in range(300)]
    path.write_bytes(b"".join(spool.frame(n, line) for n, line in enumerate(lines, 1)))
    found: list[Frame] = []
    offset = reads = 0
    while (part := spool.read(path, offset, 1)).frames:
        assert not part.torn
        assert part.corrupt is None
        found += part.frames
        offset = part.offset
        reads += 1
    assert [frame.line for frame in found] == lines
    assert reads > 3, "a read is bounded"


@given(st.integers(1, len(WHOLE) - 1))
def test_a_file_cut_anywhere_gives_its_whole_frames(cut: int) -> None:
    found = spool._parse(WHOLE[:cut], 0, more=False)
    assert found.frames == FRAMES[: len(found.frames)]
    assert found.corrupt is None
    assert found.torn == (found.offset != cut)
    assert WHOLE[found.offset :] == b"".join(
        spool.frame(frame.seq, frame.line) for frame in FRAMES[len(found.frames) :]
    )


@pytest.mark.parametrize("zeros", [1, 15, 16, 17, 5000])
@pytest.mark.parametrize("kept", [0, 7, LAST])
def test_zeros_that_a_power_cut_left_are_a_torn_tail(path: Path, zeros: int, kept: int) -> None:
    path.write_bytes(WHOLE[: len(WHOLE) - LAST + kept] + bytes(zeros))
    found = spool.read(path, 0, 2**20)
    assert found.frames == FRAMES[: 5 if kept == LAST else 4]
    assert found.torn
    assert found.corrupt is None


def test_a_wrong_last_frame_is_a_torn_tail(path: Path) -> None:
    path.write_bytes(WHOLE[:-1] + b"!")
    found = spool.read(path, 0, 2**20)
    assert (len(found.frames), found.torn, found.corrupt) == (4, True, None)
    assert found.offset == len(WHOLE) - LAST


@given(st.integers(0, len(WHOLE) - LAST - 1), st.integers(0, 7))
def test_a_flipped_bit_before_the_last_frame_is_never_believed(at: int, bit: int) -> None:
    damaged = bytearray(WHOLE)
    damaged[at] ^= 1 << bit
    found = spool._parse(bytes(damaged), 0, more=False)
    assert len(found.frames) < 5
    assert found.frames == FRAMES[: len(found.frames)]
    # A length that now reaches past the end looks like a frame that is still being written.
    assert found.torn or found.corrupt is not None


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (spool.frame(1, b"a") + spool.frame(3, b"b"), "the seq 3 at 17 where 2 was due"),
        (spool.frame(2, b"a"), "the seq 2 at 0 where 1 was due"),
        (spool.frame(1, b"a") + spool.frame(1, b"a"), "the seq 1 at 17 where 2 was due"),
        (b"\xff" * 16, "a frame of 4294967295 bytes at 0"),
        (spool.frame(1, b"ab")[:-1] + b"x" + spool.frame(2, b"b"), "a wrong checksum at 0"),
    ],
)
def test_damage_is_named(path: Path, data: bytes, fault: str) -> None:
    path.write_bytes(data)
    assert spool.read(path, 0, 1000).corrupt == fault


def test_a_frame_inside_a_line_is_no_frame(path: Path) -> None:
    forged = spool.frame(2, b'{"kind":"done"}')
    path.write_bytes(spool.frame(1, forged)[:-1] + b"!" + spool.frame(2, b"b"))
    found = spool.read(path, 0, 1000)
    assert found.frames == ()
    assert found.corrupt is not None


def test_a_spool_that_is_missing_or_shorter_than_known_has_no_frames(path: Path) -> None:
    assert spool.read(path, 0, 1000).frames == ()
    path.write_bytes(WHOLE)
    found = spool.read(path, len(WHOLE) + 100, 1000)
    assert (found.frames, found.offset, found.torn) == ((), len(WHOLE) + 100, False)


@given(st.binary(max_size=300))
def test_any_bytes_can_be_read(data: bytes) -> None:
    found = spool._parse(data, 0, more=False)
    assert found.offset <= len(data)
