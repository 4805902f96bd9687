import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftd.worker.lines import Lines


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lines") / "data.jsonl"


@given(data=st.lists(st.sampled_from([b"a", b"\n", b"\r\n", b"xyz" * 5])).map(b"".join))
def test_lines_cover_the_file_and_can_be_read_again(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with Lines(path, 10) as lines:
        offset = 0
        for number, line in enumerate(lines, start=1):
            assert (line.number, line.offset) == (number, offset)
            whole = data[offset : offset + line.length]
            assert whole.endswith(b"\n") or offset + line.length == len(data)
            assert whole.count(b"\n") <= 1
            too_long = len(whole.removesuffix(b"\n")) > 10
            assert line.data == (whole[:10] if too_long else whole)
            if not too_long:
                assert lines.at(offset) == whole
            offset += line.length
        assert offset == len(data)


def test_a_pipe_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        Lines(tmp_path / "pipe", 10)
