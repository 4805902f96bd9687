"""A growing log is read once, in order, over a rotation."""

from pathlib import Path

from ftd.host.tail import Tail


def rotate(path: Path) -> None:
    fresh = path.with_name("fresh")
    fresh.touch()
    path.rename(path.with_name("log.1"))
    fresh.rename(path)


def drain(tail: Tail) -> bytes:
    return b"".join(iter(lambda: tail.read(4), b""))


def test_what_is_appended_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with Tail(path) as tail:
        assert drain(tail) == b""  # it is not there yet
        path.write_bytes(b"one two")
        assert drain(tail) == b"one two"
        with path.open("ab") as log:
            log.write(b" three")
        assert drain(tail) == b" three"
        assert drain(tail) == b""


def test_a_rotated_log_is_read_to_its_end_and_then_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"before ")
    with Tail(path) as tail:
        assert drain(tail) == b"before "
        with path.open("ab") as log:
            log.write(b"late ")
        rotate(path)
        path.write_bytes(b"after, and longer than before")
        assert drain(tail) == b"late after, and longer than before"


def test_a_reader_that_comes_late_reads_the_parts_that_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for name, text in [("log.0", b"how it began "), ("log.1", b"before "), ("log", b"now")]:
        (tmp_path / name).write_bytes(text)
    with Tail(path) as tail:
        assert drain(tail) == b"how it began before now"
        rotate(path)
        path.write_bytes(b" and then")
        assert drain(tail) == b" and then", "an older part is not read again"


def test_a_log_that_is_removed_has_no_more_to_say(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"all")
    with Tail(path) as tail:
        assert drain(tail) == b"all"
        path.unlink()
        assert drain(tail) == b""
