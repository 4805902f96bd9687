"""A second job on the same file and model takes the tokens of the first, and trains the same."""

import json
from pathlib import Path

from tests.e2e.test_story import TINY, ended, upload
from tests.running import Daemon, small_talk


def inodes(daemon: Daemon) -> dict[str, int]:
    """Every cached file: one that is made again is another one."""
    tokens = daemon.home / "cache" / "tokens"
    return {
        str(path.relative_to(tokens)): path.stat().st_ino
        for path in tokens.rglob("*")
        if path.is_file()
    }


def losses(daemon: Daemon, training: str, validation: str) -> list[tuple[object, ...]]:
    client = daemon.client()
    job = client.fine_tuning.jobs.create(
        model=TINY,
        training_file=training,
        validation_file=validation,
        seed=5,
        hyperparameters={"n_epochs": 2, "batch_size": 4},
    )
    done = ended(client, job.id)
    assert done.status == "succeeded", done.error
    told = [event.data for event in client.fine_tuning.jobs.list_events(job.id, limit=100).data]
    return [
        tuple(data.get(key) for key in ("step", "train_loss", "valid_loss", "full_valid_loss"))  # type: ignore[attr-defined]
        for data in told
        if data and "train_loss" in data  # type: ignore[operator]
    ]


def test_tokens_are_made_once_and_go_with_their_file(own_daemon: Daemon, tmp_path: Path) -> None:
    daemon, client = own_daemon, own_daemon.client()
    path = small_talk(tmp_path / "training.jsonl", 40)
    training = upload(client, path)
    validation = upload(client, small_talk(tmp_path / "validation.jsonl", 5, start=100))
    first = losses(daemon, training, validation)
    made = inodes(daemon)
    assert len(made) == 2 * 5, "of both files"
    assert len(first) == 20

    again = upload(client, path)  # the same bytes are the same file
    assert losses(daemon, again, validation) == first
    assert inodes(daemon) == made, "a trainer that makes its own replaces what it was lent"

    # Tokens that are not those that were made are noticed, and made again.
    ids = next(path for path in (daemon.home / "cache").rglob("ids.bin"))
    content = bytearray(ids.read_bytes())
    content[0] ^= 1
    ids.write_bytes(content)
    assert losses(daemon, training, validation) == first
    changed = {name for name, inode in inodes(daemon).items() if inode != made[name]}
    assert {Path(name).parent for name in changed} == {
        ids.relative_to(daemon.home / "cache" / "tokens").parent
    }
    assert not list(daemon.home.glob("runs/*/out/tokens"))

    for file in (training, again):
        client.files.delete(file)
    (left,) = (daemon.home / "cache" / "tokens").glob("[!.]*/*")
    manifest = json.loads((left / "manifest.json").read_text())
    assert manifest["counts"]["examples"] == 5, "the validation file's"
