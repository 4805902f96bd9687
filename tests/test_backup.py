"""A home is backed up while it is in use, and made again from what came of it."""

import hashlib
import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftd.backup import IN_USE, INCOMPLETE, MANIFEST, back_up, backup, make_again, restore
from ftd.core.errors import FtdError
from ftd.host import blobs, lock
from ftd.host.home import Home
from ftd.store.connection import Unusable, connect
from ftd.store.schema import migrate

JOB = (
    "INSERT INTO jobs (id, finished_at, minted, training_file, state, project, created_at, model, "
    "base, seed, method, requested) VALUES (?, ?, ?, ?, ?, 'p', 0, 'm', 'm', 1, 'supervised', '{}')"
)


class Lived:
    """A home with a past, made of the rows and the bytes that a daemon would have left."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.home.make()
        migrate(self.home.database)
        self.db = connect(self.home.database)

    def file(self, file_id: str, content: bytes) -> None:
        self.home.file(file_id).write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        self.db.execute(
            "INSERT INTO files (id, project, purpose, filename, bytes, sha256, created_at, status) "
            "VALUES (?, 'p', 'fine-tune', 'a.jsonl', ?, ?, 0, 'processed')",
            (file_id, len(content), sha256),
        )

    def model(self, name: str, kind: str, path: str, sha256: str | None = None) -> None:
        tree = self.home.root / path
        tree.mkdir(parents=True, exist_ok=True)
        (tree / "config.json").write_text(json.dumps({"name": name}))
        self.db.execute(
            "INSERT INTO models (name, project, kind, base, path, sha256, created_at) "
            "VALUES (?, 'p', ?, 'm', ?, ?, 0)",
            (name, kind, path, sha256 or blobs.tree_sha256(tree)),
        )

    def job(self, job_id: str, state: str, file_id: str) -> None:
        over = 1 if state == "cancelled" else None
        self.db.execute(JOB, (job_id, over, f"ft:m::{job_id}", file_id, state))

    def checkpoint(self, job_id: str, launch: str, step: int) -> Path:
        """A resume point; returns its directory."""
        path = f"runs/{launch}/out/checkpoints/step-{step}"
        tree = self.home.root / path
        (tree / "adapter").mkdir(parents=True)
        weights = b"weights %d" % step
        (tree / "adapter" / "adapter_model.safetensors").write_bytes(weights)
        listed = {"name": "adapter/adapter_model.safetensors", "size": len(weights), "sha256": ""}
        manifest = json.dumps({"step": step, "files": [listed]}).encode()
        (tree / MANIFEST).write_bytes(manifest)
        self.db.execute(
            "INSERT INTO checkpoints (id, job, created_at, step, metrics, path, sha256) "
            "VALUES (?, ?, 0, ?, '{}', ?, ?)",
            (f"{job_id}-{step}", job_id, step, path, hashlib.sha256(manifest).hexdigest()),
        )
        return tree


@pytest.fixture
def lived(tmp_path: Path) -> Iterator[Lived]:
    lived = Lived(tmp_path / "home")
    lived.file("file-1", b"training" * 1000)
    lived.model("m", "base", "models/m")
    lived.model("ft:m::1", "tuned", "adapters/11111111")
    lived.job("over", "cancelled", "file-1")
    lived.job("open", "running", "file-1")
    lived.checkpoint("open", "run-1", 10)
    lived.checkpoint("open", "run-1", 20)
    lived.model(
        "ft:m::2:ckpt-step-20", "checkpoint", "runs/run-1/out/checkpoints/step-20/adapter", "other"
    )
    lived.model(
        "ft:m::3:ckpt-step-5", "checkpoint", "runs/run-0/out/checkpoints/step-5/adapter", "other"
    )
    (lived.home.root / "admin.key").write_text("a secret")
    (lived.home.runs / "run-1" / "worker.log").write_text("noise")
    yield lived
    lived.db.close()


def files_below(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


NAMED = {
    "files/file-1",
    "models/m/config.json",
    "adapters/11111111/config.json",
    "runs/run-0/out/checkpoints/step-5/adapter/config.json",
    *(
        f"runs/run-1/out/checkpoints/step-{step}/{name}"
        for step in (10, 20)
        for name in ("adapter/adapter_model.safetensors", MANIFEST)
    ),
    "runs/run-1/out/checkpoints/step-20/adapter/config.json",
}


def test_a_backup_holds_what_the_rows_name_and_no_secret(lived: Lived, tmp_path: Path) -> None:
    destination = tmp_path / "backup"
    manifest = back_up(lived.home, destination)
    found = files_below(destination)
    assert found.keys() == NAMED | {"ftd.db", MANIFEST}
    assert manifest.files.keys() == NAMED | {"ftd.db"}
    assert manifest.faults == ()
    assert all(found[name] == (lived.home.root / name).read_bytes() for name in NAMED)
    for name, entry in manifest.files.items():
        assert (entry.bytes, entry.sha256) == (
            len(found[name]),
            hashlib.sha256(found[name]).hexdigest(),
        )
    assert b"a secret" not in b"".join(found.values())
    assert {path.name for path in tmp_path.iterdir()} == {"home", "backup"}, "nothing else is left"


def test_what_no_row_names_is_in_no_backup_and_in_nobodys_way(lived: Lived, tmp_path: Path) -> None:
    aside = lived.home.unknown / "files" / "file-9"
    aside.parent.mkdir()
    aside.write_text("lost")
    assert not [name for name in back_up(lived.home, tmp_path / "backup").files if "file-9" in name]
    again = Home(tmp_path / "again")
    again.make()
    aside.parent.rename(again.unknown / "files")
    make_again(tmp_path / "backup", again)
    assert (again.unknown / "files" / "file-9").read_text() == "lost"


def test_a_home_made_again_holds_the_same(lived: Lived, tmp_path: Path) -> None:
    back_up(lived.home, tmp_path / "backup")
    again = Home(tmp_path / "again")
    make_again(tmp_path / "backup", again)
    found = files_below(again.root)
    assert found.keys() - {"daemon.lock"} == NAMED | {"ftd.db"}
    assert all(found[name] == (lived.home.root / name).read_bytes() for name in NAMED)
    connection = connect(again.database)
    assert [row["id"] for row in connection.execute("SELECT id FROM jobs ORDER BY id")] == [
        "open",
        "over",
    ]
    connection.execute("DELETE FROM events")
    connection.execute("UPDATE jobs SET priority = 7")
    connection.close()
    make_again(tmp_path / "backup", Home(tmp_path / "third"))  # untouched by what the second did


def test_a_backup_is_of_one_moment_while_rows_are_written(lived: Lived, tmp_path: Path) -> None:
    """Every job has its file, though new pairs come all the time."""
    stop = threading.Event()

    def write() -> None:
        writer = connect(lived.home.database)
        number = 100
        while not stop.is_set():
            number += 1
            content = b"%d" % number
            lived.home.file(f"file-{number}").write_bytes(content)
            writer.execute("BEGIN IMMEDIATE")
            writer.execute(
                "INSERT INTO files (id, project, purpose, filename, bytes, sha256, created_at, "
                "status) VALUES (?, 'p', 'fine-tune', 'a.jsonl', ?, ?, 0, 'processed')",
                (f"file-{number}", len(content), hashlib.sha256(content).hexdigest()),
            )
            writer.execute(
                JOB, (f"job-{number}", None, f"ft:m::{number}", f"file-{number}", "queued")
            )
            writer.execute("COMMIT")
        writer.close()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(3):
            manifest = back_up(lived.home, tmp_path / f"backup-{number}")
            assert manifest.faults == ()
            copied = sqlite3.connect(tmp_path / f"backup-{number}" / "ftd.db")
            ids = {id_ for (id_,) in copied.execute("SELECT id FROM files")}
            used = {id_ for (id_,) in copied.execute("SELECT training_file FROM jobs")}
            copied.close()
            assert used <= ids
            assert {path.name for path in (tmp_path / f"backup-{number}/files").iterdir()} == ids
    finally:
        stop.set()
        thread.join()


def test_what_is_deleted_meanwhile_is_not_half_in_it(
    lived: Lived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model goes while it is copied: its row is marked first, then its bytes go."""
    real = blobs.link_or_copy
    victim = lived.home.root / "adapters/11111111"

    def link(source: Path, target: Path) -> None:
        if source == victim and victim.exists():
            lived.db.execute(
                "UPDATE models SET deleted_at = 1, purged_at = 1 WHERE path = 'adapters/11111111'"
            )
            (victim / "config.json").rename(victim / "half")
            real(source, target)
            shutil.rmtree(victim)
            return
        real(source, target)

    monkeypatch.setattr(blobs, "link_or_copy", link)
    manifest = back_up(lived.home, tmp_path / "backup")
    assert manifest.faults == ()
    assert not (tmp_path / "backup" / "adapters" / "11111111").exists()
    make_again(tmp_path / "backup", Home(tmp_path / "again"))


def test_a_checkpoint_that_is_not_whole_is_left_out(lived: Lived, tmp_path: Path) -> None:
    weights = lived.home.runs / "run-1/out/checkpoints/step-20/adapter/adapter_model.safetensors"
    weights.write_bytes(b"cut")
    (lived.home.runs / "run-1/out/checkpoints/step-10" / MANIFEST).write_text("{}")
    manifest = back_up(lived.home, tmp_path / "backup")
    points = {name for name in manifest.files if name.startswith("runs/run-1")}
    assert {name.split("/")[4] for name in points} == {"step-20"}
    assert all("step-20/adapter/" in name for name in points), "the model of that step stays"


def test_what_is_missing_or_damaged_is_told(
    lived: Lived, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lived.file("file-2", b"two")
    lived.home.file("file-1").write_bytes(b"something else")
    lived.home.file("file-2").unlink()
    (lived.home.models / "m" / "config.json").write_text("{}")
    assert backup(lived.home, tmp_path / "backup") == INCOMPLETE
    said = capsys.readouterr().out
    assert "files/file-1 is not what was uploaded" in said
    assert "files/file-2 is missing" in said
    assert "models/m is not the model that was stored" in said
    make_again(tmp_path / "backup", Home(tmp_path / "again"))  # with what there is


def test_what_was_deleted_and_nobody_needs_is_missed_by_nobody(
    lived: Lived, tmp_path: Path
) -> None:
    """Its bytes may have gone when an older database is put back, whose row still awaits that."""
    for name in ("file-gone", "file-needed"):
        lived.file(name, name.encode())
        lived.home.file(name).unlink()
    for name in ("gone", "needed"):
        lived.model(name, "base", f"models/{name}")
        shutil.rmtree(lived.home.models / name)
    lived.job("asks", "paused", "file-needed")
    lived.db.execute("UPDATE jobs SET base = 'needed' WHERE id = 'asks'")
    for table, column in (("files", "id"), ("models", "name")):
        lived.db.execute(f"UPDATE {table} SET deleted_at = 1 WHERE {column} GLOB '*gone'")
        lived.db.execute(f"UPDATE {table} SET deleted_at = 1 WHERE {column} GLOB '*needed'")
    manifest = back_up(lived.home, tmp_path / "backup")
    assert manifest.faults == ("files/file-needed is missing", "models/needed is missing")


def test_a_backup_takes_nobodys_place(lived: Lived, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(FtdError, match="there already"):
        back_up(lived.home, tmp_path / "there")
    with pytest.raises(FtdError, match="inside of the home"):
        back_up(lived.home, lived.home.root / "backup")
    with pytest.raises(FtdError, match="No backup was made"):
        backup(lived.home, tmp_path / "nowhere" / "backup")
    with pytest.raises(FtdError, match="nothing to back up"):
        back_up(Home(tmp_path / "there"), tmp_path / "backup")
    lived.db.execute("PRAGMA user_version = 999")
    with pytest.raises(Unusable, match="newer ftd"):
        back_up(lived.home, tmp_path / "backup")
    assert {path.name for path in tmp_path.iterdir()} == {"home", "there"}


def test_a_damaged_database_gives_no_backup(lived: Lived, tmp_path: Path) -> None:
    lived.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with lived.home.database.open("r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xff" * 5 * 4096)
    with pytest.raises(Unusable, match="damaged"):
        back_up(lived.home, tmp_path / "backup")
    assert {path.name for path in tmp_path.iterdir()} == {"home"}


def _flip(backup: Path) -> None:
    path = backup / "models/m/config.json"
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.unlink()  # it may be the home's, too
    path.write_bytes(content)


def _lose(backup: Path) -> None:
    (backup / "files/file-1").unlink()


def _cut(backup: Path) -> None:
    os.truncate(backup / "ftd.db", 4096)


def _link(backup: Path) -> None:
    (backup / "files/file-1").unlink()
    (backup / "files/file-1").symlink_to("/etc/hostname")


def _no_manifest(backup: Path) -> None:
    (backup / MANIFEST).unlink()


def _elsewhere(backup: Path) -> None:
    manifest = json.loads((backup / MANIFEST).read_text())
    manifest["files"]["files/../../evil"] = {"bytes": 0, "sha256": hashlib.sha256().hexdigest()}
    (backup.parent / "evil").touch()
    (backup / MANIFEST).write_text(json.dumps(manifest))


def _of_tomorrow(backup: Path) -> None:
    manifest = json.loads((backup / MANIFEST).read_text())
    (backup / MANIFEST).write_text(json.dumps(manifest | {"version": 2}))


@pytest.mark.parametrize(
    "harm",
    [_flip, _lose, _cut, _link, _no_manifest, _elsewhere, _of_tomorrow],
    ids=lambda harm: harm.__name__,
)
def test_nothing_is_made_of_a_backup_that_is_not_whole(lived: Lived, tmp_path: Path, harm) -> None:  # type: ignore[no-untyped-def]
    back_up(lived.home, tmp_path / "backup")
    harm(tmp_path / "backup")
    with pytest.raises(FtdError, match=r"damaged|no backup"):
        make_again(tmp_path / "backup", Home(tmp_path / "again"))
    assert not (tmp_path / "again").exists()


def test_a_newer_backup_is_refused(lived: Lived, tmp_path: Path) -> None:
    back_up(lived.home, tmp_path / "backup")
    database = tmp_path / "backup" / "ftd.db"
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    manifest = json.loads((tmp_path / "backup" / MANIFEST).read_text())
    manifest["files"]["ftd.db"] = {
        "bytes": database.stat().st_size, "sha256": blobs.file_sha256(database)
    }  # fmt: skip
    (tmp_path / "backup" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(Unusable, match="newer ftd"):
        make_again(tmp_path / "backup", Home(tmp_path / "again"))
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("there", ["ftd.db", "ftd.db-wal", "files/file-9", "runs/run-9"])
def test_a_home_that_holds_something_is_left_alone(
    lived: Lived, tmp_path: Path, there: str
) -> None:
    back_up(lived.home, tmp_path / "backup")
    again = tmp_path / "again"
    (again / there).parent.mkdir(parents=True)
    (again / there).write_text("mine")
    with pytest.raises(FtdError, match="is not empty"):
        make_again(tmp_path / "backup", Home(again))
    assert files_below(again) == {there: b"mine"}


def test_a_home_may_be_there_and_a_restore_may_have_been_killed(
    lived: Lived, tmp_path: Path
) -> None:
    back_up(lived.home, tmp_path / "backup")
    again = Home(tmp_path / "again")
    again.make()
    (again.root / "admin.key").write_text("the old one")
    (again.root / ".restoring" / "files").mkdir(parents=True)
    (again.root / ".restoring" / "files" / "half").touch()
    make_again(tmp_path / "backup", again)
    found = files_below(again.root)
    assert found.keys() - {"daemon.lock"} == NAMED | {"ftd.db", "admin.key"}
    assert found["admin.key"] == b"the old one"


def test_a_home_with_a_daemon_on_it_is_left_alone(
    lived: Lived, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    back_up(lived.home, tmp_path / "backup")
    again = tmp_path / "again"
    again.mkdir()
    with lock.hold(again / "daemon.lock"):
        assert restore(tmp_path / "backup", Home(again)) == IN_USE
    assert "in use" in capsys.readouterr().err
    assert {path.name for path in again.iterdir()} == {"daemon.lock"}
