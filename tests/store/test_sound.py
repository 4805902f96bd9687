"""What is known of a database before it is opened: clean, to be read, damaged, or lost."""

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ftd.core.errors import FtdError
from ftd.store import sound
from ftd.store.connection import Unusable, connect
from ftd.store.schema import migrate

# As a daemon that is killed: some of its rows are in the log alone.
KILLED = """
import os, signal, sys
from pathlib import Path
from ftd.store.connection import connect
from ftd.store.schema import migrate
migrate(Path(sys.argv[1]))
connection = connect(Path(sys.argv[1]))
connection.executemany(sys.argv[2], [(f"file-{n}",) for n in range(300)])
os.kill(os.getpid(), signal.SIGKILL)
"""
FILE = (
    "INSERT INTO files (id, project, purpose, filename, bytes, sha256, created_at, status) "
    "VALUES (?, 'p', 'fine-tune', 'a.jsonl', 1, '0', 0, 'processed')"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with rows that a daemon has left in order."""
    path = tmp_path / "ftd.db"
    migrate(path)
    connection = connect(path)
    connection.executemany(FILE, [(f"file-{n}",) for n in range(300)])
    connection.close()
    sound.end(path)
    return path


def test_a_clean_stop_is_known_until_the_next_start(path: Path) -> None:
    assert not sound.blank(path)
    assert sound.stopped_cleanly(path)
    sound.begin(path)
    assert not sound.stopped_cleanly(path)
    sound.begin(path)
    sound.end(path)
    assert sound.stopped_cleanly(path)


def test_a_database_that_was_touched_meanwhile_is_not_what_was_left(path: Path) -> None:
    connection = connect(path)
    connection.execute("DELETE FROM files")
    assert not sound.stopped_cleanly(path), "it lies in the log"
    connection.close()
    assert not sound.stopped_cleanly(path)
    sound.end(path)
    copy = path.with_name("copy")
    shutil.copy2(path, copy)
    copy.rename(path)
    assert not sound.stopped_cleanly(path), "it is another file with the same bytes"
    sound.end(path)
    path.with_name("ftd.db.clean").write_text('{"bytes": ')
    assert not sound.stopped_cleanly(path), "the note was cut short"


def test_a_stop_beside_another_reader_is_noted_only_if_all_is_in_the_file(path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    writer = connect(path)
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM files").fetchone()
    writer.execute("DELETE FROM files")
    writer.close()
    sound.begin(path)
    sound.end(path)
    assert not sound.stopped_cleanly(path)
    other.close()
    sound.end(path)
    assert sound.stopped_cleanly(path)


def test_what_a_killed_daemon_left_is_whole_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ftd.db"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), FILE])
    assert killed.returncode == -9
    log = path.with_name("ftd.db-wal")
    before = (path.read_bytes(), log.read_bytes())
    assert len(before[1]) > 0
    assert not sound.stopped_cleanly(path)
    assert not sound.blank(path)
    sound.read_whole(path)
    assert (path.read_bytes(), log.read_bytes()) == before
    connection = connect(path)
    assert connection.execute("SELECT count(*) FROM files").fetchone()[0] == 300
    connection.close()


def _flip(path: Path) -> None:
    with path.open("r+b") as file:  # of some page in the middle
        file.seek(path.stat().st_size // 2 // 4096 * 4096)
        file.write(b"\xff" * 200)


def _zero(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(2 * 4096)
        file.write(bytes(4096))


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 3)


def _no_database(path: Path) -> None:
    path.write_text("to be or not to be " * 1000)


def _cut_in_the_first_page(path: Path) -> None:
    os.truncate(path, 50)


@pytest.mark.parametrize(
    "harm",
    [_flip, _zero, _truncate, _no_database, _cut_in_the_first_page],
    ids=lambda f: f.__name__,
)
def test_damage_is_found_and_nothing_is_touched(path: Path, harm) -> None:  # type: ignore[no-untyped-def]
    harm(path)
    before = path.read_bytes()
    assert not sound.stopped_cleanly(path)
    with pytest.raises(Unusable, match=r"is damaged .* was left as it is.*ftd restore BACKUP"):
        sound.read_whole(path)
    assert path.read_bytes() == before
    assert {entry.name for entry in path.parent.iterdir()} <= {
        "ftd.db", "ftd.db.clean", "ftd.db-wal", "ftd.db-shm"
    }  # fmt: skip


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ftd.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE songs (name TEXT)")
    connection.close()
    with pytest.raises(Unusable, match="another program"):
        sound.read_whole(path)


def test_no_database_and_an_empty_one_are_blank(tmp_path: Path) -> None:
    path = tmp_path / "ftd.db"
    assert sound.blank(path)
    path.touch()
    assert sound.blank(path)
    connect(path).close()
    assert sound.blank(path)
    migrate(path)
    assert not sound.blank(path)


def test_what_is_no_database_is_not_blank(tmp_path: Path) -> None:
    path = tmp_path / "ftd.db"
    path.write_text("to be or not to be " * 1000)
    with pytest.raises(FtdError, match="damaged"):
        sound.blank(path)
