"""The database lasts: backed up under a running daemon, restored, and never served when unsound."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ftd.backup import back_up
from ftd.host.home import Home
from tests.e2e.conftest import CONFIG
from tests.e2e.test_killed import steps_told
from tests.e2e.test_story import ended, upload
from tests.running import CALM, Daemon, processes_of, running, small_talk, until


def ftd(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ftd", *arguments],
        env=os.environ | CALM, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def serve(home: Path) -> subprocess.CompletedProcess[str]:
    """A daemon that is expected to end by itself."""
    return ftd("serve", "--home", str(home), "--rest", "127.0.0.1:0")


def exit_status(daemon: Daemon) -> int:
    assert daemon._process is not None
    return daemon._process.wait(30)


def test_a_job_goes_on_in_a_restored_home(own_daemon: Daemon, tmp_path: Path) -> None:
    daemon, destination, again = own_daemon, tmp_path / "backup", tmp_path / "again"
    client = daemon.client()
    training = upload(client, small_talk(tmp_path / "training.jsonl", 30))
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=training, hyperparameters={"n_epochs": 8, "batch_size": 1}
    )
    until(lambda: list(client.fine_tuning.jobs.checkpoints.list(job.id)))
    assert back_up(Home(daemon.home), destination).faults == ()
    assert client.fine_tuning.jobs.retrieve(job.id).status == "running", "it was taken in between"

    restored = ftd("restore", str(destination), "--home", str(again))
    assert restored.returncode == 0, restored.stderr
    with running(again, config=CONFIG) as second:
        other = second.client()
        finished = ended(other, job.id)
        assert finished.status == "succeeded"
        assert steps_told(other, job.id) == list(range(1, 241))
        told = [e.message for e in other.fine_tuning.jobs.list_events(job.id, limit=1000)]
        assert any(message.startswith("Resumed from step") for message in told)
        assert other.files.content(training).read() == client.files.content(training).read()
        undisturbed = ended(client, job.id)
        assert undisturbed.fine_tuned_model == finished.fine_tuned_model
        name = str(finished.fine_tuned_model).rsplit(":", 1)[1]
        weights = f"adapters/{name}/adapter_model.safetensors"
        assert (again / weights).read_bytes() == (daemon.home / weights).read_bytes()

    daemon.kill()
    until(lambda: not processes_of(daemon.home))
    for suffix in ("", "-wal", "-shm"):
        (daemon.home / f"ftd.db{suffix}").unlink(missing_ok=True)
    shutil.copy(destination / "ftd.db", daemon.home)  # what came since is in the spools
    daemon.start()
    assert ended(daemon.client(), job.id).fine_tuned_model == finished.fine_tuned_model
    assert steps_told(daemon.client(), job.id) == list(range(1, 241))
    assert (again / weights).read_bytes() == (daemon.home / weights).read_bytes()


def test_what_an_older_database_does_not_know_is_set_aside(
    own_daemon: Daemon, tmp_path: Path
) -> None:
    daemon, backup = own_daemon, tmp_path / "backup"
    older = upload(daemon.client(), small_talk(tmp_path / "older.jsonl", 20))
    assert back_up(Home(daemon.home), backup).faults == ()
    newer = upload(daemon.client(), small_talk(tmp_path / "newer.jsonl", 30))
    daemon.ftctl("models", "add", "later", str(daemon.home / "models" / "tiny"))
    daemon.kill()
    for suffix in ("", "-wal", "-shm"):
        (daemon.home / f"ftd.db{suffix}").unlink(missing_ok=True)
    shutil.copy(backup / "ftd.db", daemon.home)
    daemon.start()
    assert [file.id for file in daemon.client().files.list()] == [older]
    assert daemon.log().count("bytes that no row names are set aside count=1") == 2
    unknown = daemon.home / "unknown"
    lines = (tmp_path / "newer.jsonl").read_bytes()
    assert (unknown / "files" / newer).read_bytes() == lines
    daemon.ftctl("models", "add", "later", str(unknown / "models" / "later"))  # here it is again


def test_only_a_stop_in_order_spares_the_look_at_everything(own_daemon: Daemon) -> None:
    daemon = own_daemon
    told = "reading the whole database"
    assert told not in daemon.log()
    daemon.stop()
    checked = ftd("check", "--home", str(daemon.home))
    assert checked.returncode == 0, checked.stdout
    daemon.start()
    assert told not in daemon.log()
    daemon.kill()
    daemon.start()
    assert daemon.log().count(told) == 1


def test_a_database_that_goes_takes_its_daemon_along(own_daemon: Daemon, tmp_path: Path) -> None:
    daemon, backup, again = own_daemon, tmp_path / "backup", tmp_path / "again"
    made = ftd("backup", str(backup), "--home", str(daemon.home))
    assert made.returncode == 0, made.stderr
    assert "admin.key" in made.stdout
    assert {path.stat().st_mode & 0o077 for path in (backup, backup / "ftd.db")} == {0}
    (daemon.home / "ftd.db").rename(daemon.home / "aside")
    assert exit_status(daemon) == 74
    assert "ftd.db was removed" in daemon.log()
    refused = serve(daemon.home)  # a new one would not know the model, and throw it away
    assert refused.returncode == 65
    assert "There is no database" in refused.stderr
    assert "ftd restore" in refused.stderr
    daemon.home.rename(again)
    restored = ftd("restore", str(backup), "--home", str(daemon.home))
    assert restored.returncode == 0, restored.stderr
    daemon.start()
    assert "tiny" in daemon.ftctl("models", "list", "-o", "name").stdout


@pytest.mark.parametrize("harm", ["damaged", "newer"])
def test_an_unsound_database_is_not_served_and_stays_as_it_is(tmp_path: Path, harm: str) -> None:
    home = tmp_path / "home"
    with running(home) as daemon:
        daemon.stop()
    database = home / "ftd.db"
    with database.open("r+b") as file:
        if harm == "newer":
            file.seek(60)  # PRAGMA user_version
            file.write((999).to_bytes(4, "big"))
        else:
            file.truncate(2 * 4096)
    before = database.read_bytes()
    refused = serve(home)
    assert refused.returncode == 65
    last = refused.stderr.splitlines()[-1]
    assert last.startswith(f"ftd: {database} {'is damaged' if harm == 'damaged' else 'has schema'}")
    assert "Traceback" not in refused.stderr
    assert database.read_bytes() == before
    assert ftd("check", "--home", str(home)).returncode == 1
