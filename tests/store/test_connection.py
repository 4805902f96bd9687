"""What a failing disk does to a database: refused and mended, or the end."""

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ftd.bell import Bell
from ftd.core.errors import FtdError
from ftd.store.connection import connect, look
from ftd.store.db import Database
from ftd.store.schema import migrate

# Writes one number after the other, each only when the one before is acknowledged.
WRITER = """
import asyncio, sys
from pathlib import Path
from ftd.bell import Bell
from ftd.core.errors import FtdError
from ftd.store.db import Database

async def main():
    database = Database(Path(sys.argv[1]), Bell())
    await database.open()
    await database.write(lambda tx: tx.execute("CREATE TABLE notes (n INTEGER) STRICT") and None)
    for n in range(int(sys.argv[2])):
        try:
            await database.write(lambda tx: tx.execute("INSERT INTO notes VALUES (?)", (n,)) and n)
            print("kept", n, flush=True)
        except FtdError as error:
            print("refused", error.kind.name, flush=True)
    lost = asyncio.ensure_future(database.lost())
    done, _ = await asyncio.wait({lost}, timeout=0.5)
    print("lost" if done else "well", flush=True)
    lost.cancel()
    await database.close()

asyncio.run(main())
"""
COUNT = 40


def said_with(path: Path, calls: str, error: str, nth: int) -> list[str]:
    """What the writer says when each of its threads finds its n-th of these calls to fail."""
    migrate(path)  # not to be counted
    trace = path.with_name("trace")
    inject = [shutil.which("strace") or "strace", "-f", "-o", str(trace), "-e", f"trace={calls}"]
    try:
        subprocess.run([*inject, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as refusal:
        pytest.skip(f"strace may not trace here: {refusal}")
    inject += ["-e", f"inject={calls}:error={error}:when={nth}"]
    done = subprocess.run(
        [*inject, sys.executable, "-c", WRITER, str(path), str(COUNT)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "INJECTED" in trace.read_text()
    return done.stdout.splitlines()


def written(path: Path) -> list[int]:
    connection = connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    rows = [row["n"] for row in connection.execute("SELECT n FROM notes ORDER BY n")]
    connection.close()
    return rows


def test_after_a_failed_fsync_nothing_is_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "ftd.db"
    said = said_with(path, "fsync,fdatasync", "EIO", 20)  # the next would succeed
    kept = [line for line in said if line.startswith("kept")]
    assert 0 < len(kept) < COUNT
    assert said[len(kept) :] == ["refused UNAVAILABLE"] * (COUNT - len(kept)) + ["lost"]
    assert written(path)[: len(kept)] == list(range(len(kept)))


def test_a_write_that_the_disk_refuses_is_undone_and_the_next_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "ftd.db"
    said = said_with(path, "pwrite64", "EDQUOT", 30)
    assert said.count("refused NO_SPACE") == 1
    assert said[-1] == "well"
    kept = [int(line.split()[1]) for line in said if line.startswith("kept")]
    assert written(path) == kept
    assert len(kept) == COUNT - 1


@pytest.mark.parametrize("found_by", ["writing", "reading"])
async def test_a_damaged_page_is_the_end(tmp_path: Path, found_by: str) -> None:
    path = tmp_path / "ftd.db"
    migrate(path)
    connection = connect(path)
    connection.executescript("CREATE TABLE notes (n INTEGER) STRICT")
    question = "SELECT rootpage FROM sqlite_master WHERE name = 'notes'"
    (page,) = connection.execute(question).fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    database = Database(path, Bell())
    await database.open()
    try:
        if found_by == "writing":
            with pytest.raises(FtdError, match="malformed"):
                await database.write(lambda tx: tx.execute("INSERT INTO notes VALUES (1)") and None)
        else:
            with pytest.raises(sqlite3.DatabaseError, match="malformed"):
                await database.rows("SELECT * FROM notes")
        assert "malformed" in await asyncio.wait_for(database.lost(), 5)
        with pytest.raises(FtdError, match="malformed"):
            await database.write(lambda tx: None)
    finally:
        await database.close()


def test_a_look_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ftd.db"
    migrate(path)
    connection = look(path)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("PRAGMA user_version = 1")
    connection.close()
