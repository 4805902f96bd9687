"""Whatever is changed, by whichever face, the log says who did it; and who tried in vain."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx2
import pytest

from tests.running import Daemon, running, small_talk, until
from tests.security.calls import delete_file, minted

MARK = " ftd.audit call "


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One whose log holds errors alone, and this."""
    home = tmp_path_factory.mktemp("audit") / "home"
    with running(home, config='log_level = "error"\n') as daemon:
        yield daemon


def audited(daemon: Daemon) -> list[dict[str, str]]:
    """The fields of each line, as anybody would read them."""
    lines = [line for line in daemon.log().splitlines() if MARK in line]
    assert all(line.split(" ")[1:3] == ["INFO", "ftd.audit"] for line in lines)
    words = [shlex.split(line.partition(MARK)[2]) for line in lines]
    return [dict(word.split("=", 1) for word in line) for line in words]


def told(daemon: Daemon, **wanted: str) -> dict[str, str]:
    """The newest line with these fields; a call is told of when it has ended, after its answer."""

    def found() -> list[dict[str, str]]:
        return [line for line in audited(daemon) if wanted.items() <= line.items()]

    return until(found, 10, daemon.log)[-1]


def ask(daemon: Daemon, method: str, path: str, *, key: str) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx2.request(method, daemon.url + path, headers=headers, timeout=30)


def uploaded(daemon: Daemon, path: Path) -> str:
    with small_talk(path, 10).open("rb") as data:
        return daemon.client().files.create(file=data, purpose="fine-tune").id


def test_a_change_over_rest(daemon: Daemon, tmp_path: Path) -> None:
    file_id = uploaded(daemon, tmp_path / "a.jsonl")
    assert told(daemon, about=file_id) == {
        "call": "POST /v1/files",
        "about": file_id,
        "outcome": "200",
        "key": "admin.key",
        "by": "admin",
        "project": "default",
        "peer": "127.0.0.1",
    }


def test_a_change_over_grpc_by_a_key_of_ones_own(daemon: Daemon, tmp_path: Path) -> None:
    file_id = uploaded(daemon, tmp_path / "a.jsonl")
    token = minted(daemon, "ann", "submit")
    made = told(daemon, call="ftd.v1.Keys/CreateKey", by="admin", outcome="OK")
    assert delete_file(daemon, file_id, token) is grpc.StatusCode.OK
    last = told(daemon, call="ftd.v1.Files/DeleteFile", about=file_id)
    assert last.pop("peer").startswith("unix:")
    assert last == {
        "call": "ftd.v1.Files/DeleteFile",
        "about": file_id,
        "outcome": "OK",
        "key": made["about"],
        "by": "ann",
        "project": "default",
    }


def test_a_change_that_failed_says_how(daemon: Daemon) -> None:
    assert ask(daemon, "POST", "/fine_tuning/jobs/ftjob-x/cancel", key=daemon.key).is_error
    assert told(daemon, about="ftjob-x")["outcome"] == "404"


def test_who_has_no_key_or_no_leave_is_told_of(daemon: Daemon, tmp_path: Path) -> None:
    file_id = uploaded(daemon, tmp_path / "a.jsonl")
    assert ask(daemon, "GET", f"/files/{file_id}", key="ftd-nobody-has-this").status_code == 401
    last = told(daemon, call=f"GET /v1/files/{file_id}")
    assert (last["outcome"], "key" in last) == ("401", False)

    reader = minted(daemon, "reader", "read")
    assert ask(daemon, "DELETE", f"/files/{file_id}", key=reader).status_code == 403
    assert told(daemon, by="reader", outcome="403")["call"] == f"DELETE /v1/files/{file_id}"
    assert delete_file(daemon, file_id, reader) is grpc.StatusCode.PERMISSION_DENIED
    assert told(daemon, by="reader", outcome="PERMISSION_DENIED")["peer"].startswith("unix:")


@pytest.mark.parametrize(("header", "status"), [("Host", 421), ("Origin", 403)])
def test_a_foreign_page_is_told_of(daemon: Daemon, header: str, status: int) -> None:
    """A read as well, and with a key."""
    headers = {"Authorization": f"Bearer {daemon.key}", header: "http://evil.example"}
    if header == "Host":
        headers[header] = "evil.example"
    assert httpx2.get(daemon.url + "/models", headers=headers).status_code == status
    assert told(daemon, outcome=str(status))["peer"] == "127.0.0.1"


def test_reads_are_not_told_of(daemon: Daemon) -> None:
    assert ask(daemon, "GET", "/files", key=daemon.key).is_success
    assert ask(daemon, "GET", "/models", key=daemon.key).is_success
    assert ask(daemon, "POST", "/fine_tuning/jobs/ftjob-last/pause", key=daemon.key).is_error
    told(daemon, about="ftjob-last")
    reads = [
        line for line in audited(daemon) if line["call"] in ("GET /v1/files", "GET /v1/models")
    ]
    assert all(line["outcome"] in ("401", "403", "421") for line in reads)  # who was not let in


@pytest.mark.parametrize(
    "name", ["x by=root", "x%0ACRITICAL ftd.audit call by=root", "x%0D%1B[2J", "%E2%80%AEx", '"x']
)
def test_nobody_forges_a_line_or_a_field(daemon: Daemon, name: str) -> None:
    before = len(audited(daemon))
    path = f"/fine_tuning/jobs/{name.replace(' ', '%20')}/cancel"
    assert ask(daemon, "POST", path, key=daemon.key).status_code == 404
    after = until(lambda: audited(daemon)[before:])
    assert [(line["by"], line["outcome"]) for line in after] == [("admin", "404")]
    assert daemon.log().replace("\n", "").isprintable()
