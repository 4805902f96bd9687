"""Two teams on one daemon, each with a key: made and revoked by ftctl, used by OpenAI's SDK."""

import json
from pathlib import Path

import openai
import pytest

from tests.running import Daemon, small_talk


def make_key(daemon: Daemon, *arguments: str) -> str:
    return daemon.ftctl("keys", "create", *arguments).stdout.strip()


def test_each_team_has_its_own(own_daemon: Daemon, tmp_path: Path) -> None:
    daemon = own_daemon
    red, blue = (
        daemon.client(api_key=make_key(daemon, team, "--project", team)) for team in ("red", "blue")
    )
    data = small_talk(tmp_path / "data.jsonl", 12)
    file = red.files.create(file=data, purpose="fine-tune")
    job = red.fine_tuning.jobs.create(model="tiny", training_file=file.id)
    assert [found.id for found in red.fine_tuning.jobs.list()] == [job.id]
    assert not blue.fine_tuning.jobs.list().data
    assert not blue.files.list().data
    for call in (
        lambda: blue.files.retrieve(file.id),
        lambda: blue.files.delete(file.id),
        lambda: blue.fine_tuning.jobs.retrieve(job.id),
        lambda: blue.fine_tuning.jobs.cancel(job.id),
        lambda: blue.fine_tuning.jobs.list_events(job.id),
    ):
        with pytest.raises(openai.NotFoundError):
            call()
    with pytest.raises(openai.BadRequestError, match="invalid training_file"):
        blue.fine_tuning.jobs.create(model="tiny", training_file=file.id)
    assert [model.id for model in blue.models.list()] == ["tiny"]


def test_a_key_outlives_its_daemon_and_ends_with_its_revocation(own_daemon: Daemon) -> None:
    daemon = own_daemon
    key = make_key(daemon, "ci", "--scopes", "read")
    daemon.kill()
    daemon.start()
    with pytest.raises(openai.PermissionDeniedError, match="Missing scopes: submit"):
        daemon.client(api_key=key).files.create(file=b"{}", purpose="user_data")
    refused = daemon.ftctl("--key", key, "keys", "list", check=False)
    assert (refused.returncode, refused.stdout) == (4, "")
    assert "Missing scopes: admin." in refused.stderr
    (listed,) = json.loads(daemon.ftctl("keys", "list", "-o", "json").stdout)["data"]
    assert (listed["name"], listed["scopes"]) == ("ci", ["read"])
    used = listed["last_used_at"]  # to the minute, and not before it was made
    assert used == listed["created_at"] or used % 60 == 0 < used - listed["created_at"]
    daemon.ftctl("keys", "revoke", listed["id"])
    with pytest.raises(openai.AuthenticationError):
        daemon.client(api_key=key).models.list()
    daemon.kill()
    daemon.start()
    with pytest.raises(openai.AuthenticationError):
        daemon.client(api_key=key).models.list()
    assert key not in daemon.log()
