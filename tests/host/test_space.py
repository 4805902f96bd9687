"""The ballast on a real file system of a few megabytes, and how it is told that a disk is full."""

import errno
import shutil
from pathlib import Path

import pytest

from ftd.bell import Bell
from ftd.core.errors import FtdError, Kind
from ftd.host.space import Space
from ftd.store.db import Database, Transaction
from tests.disks import fill, small_disk

__all__ = ["small_disk"]

MIB = 2**20


def free(disk: Path) -> int:
    return shutil.disk_usage(disk).free


def test_the_ballast_takes_what_it_says(tmp_path: Path) -> None:
    space = Space(tmp_path, 3 * MIB)
    space.look()
    assert not space.full
    status = (tmp_path / "ballast").stat()
    assert status.st_size == 3 * MIB
    assert status.st_blocks * 512 >= 3 * MIB, "no hole"
    assert status.st_mode & 0o777 == 0o600


def test_it_is_given_up_once_and_taken_up_again(tmp_path: Path) -> None:
    space = Space(tmp_path, MIB)
    space.look()
    assert space.relieve()
    assert space.full
    assert not (tmp_path / "ballast").exists()
    assert not space.relieve(), "there is nothing left to give up"
    space.look()
    assert not space.full
    assert (tmp_path / "ballast").exists()


def test_without_a_ballast_a_full_disk_is_noticed_all_the_same(tmp_path: Path) -> None:
    space = Space(tmp_path, 0)
    space.look()
    assert not space.full
    assert not space.relieve()
    assert space.full
    space.look()
    assert not space.full
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_is_full_before_it_is_and_until_there_is_room(
    small_disk: Path,
) -> None:
    space = Space(small_disk, 4 * MIB)
    space.look()
    assert not space.full
    filled = fill(small_disk, leave=MIB // 4)
    space.look()
    assert space.full
    assert free(small_disk) >= 4 * MIB
    space.look()
    assert space.full, "as long as a second ballast would not fit"
    filled.unlink()
    space.look()
    assert not space.full
    assert (small_disk / "ballast").stat().st_size == 4 * MIB


def test_a_disk_that_is_full_already_has_no_ballast_and_says_so(small_disk: Path) -> None:
    fill(small_disk, leave=MIB)
    space = Space(small_disk, 4 * MIB)
    space.look()
    assert space.full
    assert not (small_disk / "ballast").exists()


def test_a_ballast_that_does_not_fit_is_not_left_in_part(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if somebody had filled the disk after we looked."""
    fill(small_disk, leave=MIB)
    usage = shutil.disk_usage(small_disk)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**40))
    space = Space(small_disk, 4 * MIB)
    space.look()
    assert space.full
    assert not (small_disk / "ballast").exists()


def put(tx: Transaction, size: int) -> None:
    tx.execute("CREATE TABLE IF NOT EXISTS sacks (grain BLOB)")
    tx.execute("INSERT INTO sacks VALUES (zeroblob(?))", (size,))


async def test_a_commit_that_finds_the_disk_full_has_the_ballast(small_disk: Path) -> None:
    space = Space(small_disk, 4 * MIB)
    space.look()
    database = Database(small_disk / "ftd.db", Bell(), relieve=space.relieve)
    await database.open()
    try:
        filled = fill(small_disk)
        await database.write(lambda tx: put(tx, MIB))
        assert space.full
        assert not (small_disk / "ballast").exists()
        fill(small_disk, name="more")
        with pytest.raises(FtdError) as caught:
            await database.write(lambda tx: put(tx, MIB))
        assert caught.value.kind is Kind.NO_SPACE
        filled.unlink()
        await database.write(lambda tx: put(tx, MIB))
        space.look()
        assert not space.full
        (row,) = await database.rows("SELECT count(*) AS n, sum(length(grain)) AS b FROM sacks")
        assert (row["n"], row["b"]) == (2, 2 * MIB), "what was refused is not there"
    finally:
        await database.close()


async def test_a_database_opens_on_a_disk_that_was_filled_meanwhile(small_disk: Path) -> None:
    Space(small_disk, 4 * MIB).look()
    for grains in (1, 2):
        space = Space(small_disk, 4 * MIB)
        space.look()
        assert space.full == (grains == 2)
        database = Database(small_disk / "ftd.db", Bell(), relieve=space.relieve)
        await database.open()
        await database.write(lambda tx: put(tx, MIB // 2))
        (row,) = await database.rows("SELECT count(*) AS n FROM sacks")
        assert row["n"] == grains
        await database.close()
        fill(small_disk, name=f"filler-{grains}")


def test_the_test_disk_is_small(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        (small_disk / "large").write_bytes(bytes(64 * MIB))
    assert caught.value.errno == errno.ENOSPC
