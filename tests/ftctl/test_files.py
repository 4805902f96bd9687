"""ftctl files, as processes."""

import json

import pytest

from ftd.core.file import FileStatus
from tests.ftctl.conftest import Daemon

BAD = "{}\n" + "not json at all\n" * 7


def write(daemon: Daemon, name: str, text: str) -> str:
    (daemon.root / name).write_text(text)
    return str(daemon.root / name)


async def test_upload_prints_the_id(daemon: Daemon) -> None:
    ran = await daemon.run("files", "upload", write(daemon, "a.jsonl", "{}\n"))
    assert (ran.status, ran.out) == (0, "file-1\n")
    assert daemon.door.files.rows["file-1"].purpose == "fine-tune"


async def test_an_upload_of_many_chunks_arrives_whole(daemon: Daemon) -> None:
    content = ("{}" + " " * 997 + "\n") * 3600
    ran = await daemon.run("files", "upload", write(daemon, "a.jsonl", content))
    assert ran.status == 0
    assert daemon.door.files.contents["file-1"] == content.encode()


async def test_a_faulty_upload_is_kept_and_said(daemon: Daemon) -> None:
    ran = await daemon.run("files", "upload", write(daemon, "a.jsonl", BAD))
    assert (ran.status, ran.out) == (1, "file-1\n")
    assert "a.jsonl has 7 faults" in ran.err
    assert "line 2: Example 2 cannot be parsed. Write JSON." in ran.err
    assert "and 2 more" in ran.err
    assert daemon.door.files.rows["file-1"].status is FileStatus.ERROR


async def test_an_upload_that_is_refused_or_cannot_be_read(daemon: Daemon) -> None:
    ran = await daemon.run("files", "upload", write(daemon, "a.jsonl", "not json"))
    assert ran.status == 1
    assert "Expected file to have JSONL format" in ran.err
    ran = await daemon.run("files", "upload", str(daemon.root / "absent"))
    assert ran.status == 2
    assert "cannot be read: No such file" in ran.err
    daemon.door.files.limit_bytes = 10
    ran = await daemon.run("files", "upload", write(daemon, "a.jsonl", "{}\n" * 10))
    assert ran.status == 1
    assert "too large" in ran.err


@pytest.mark.parametrize(("text", "status"), [("{}\n", 0), (BAD, 1)], ids=["good", "bad"])
async def test_check_of_a_local_file_leaves_nothing(daemon: Daemon, text: str, status: int) -> None:
    data = write(daemon, "a.jsonl", text)
    ran = await daemon.run("files", "check", data)
    assert ran.status == status
    assert "Examples    1" in ran.out
    assert ("line 2: " in ran.out) is (status == 1)
    assert daemon.door.files.rows == {}
    ran = await daemon.run("files", "check", data, "-o", "json")
    assert json.loads(ran.out)["report"]["fault_count"] == 7 * status
    assert ran.status == status


@pytest.mark.parametrize(("examples", "warned"), [(9, True), (10, False)])
async def test_check_of_few_examples_warns(daemon: Daemon, examples: int, warned: bool) -> None:
    ran = await daemon.run("files", "check", write(daemon, "a.jsonl", "{}\n" * examples))
    assert ran.status == 0
    assert ("must have at least 10 examples" in ran.err) is warned


async def test_check_of_an_uploaded_file_keeps_it(daemon: Daemon) -> None:
    await daemon.run("files", "upload", write(daemon, "a.jsonl", BAD))
    ran = await daemon.run("files", "check", "file-1")
    assert ran.status == 1
    assert "file-1" in daemon.door.files.rows
    assert (await daemon.run("files", "check", "file-x")).status == 3


async def test_check_of_what_is_no_training_data(daemon: Daemon) -> None:
    file = daemon.door.files.add_results("ftjob-1", "step\n")
    ran = await daemon.run("files", "check", file.id)
    assert ran.status == 2
    assert "is no training data: it is for fine-tune-results" in ran.err


async def test_list_and_show(daemon: Daemon) -> None:
    await daemon.run("files", "upload", write(daemon, "a.jsonl", "{}\n"))
    table = await daemon.run("files", "list")
    assert table.out.splitlines()[1].split()[:4] == ["file-1", "processed", "3", "B"]
    listed = json.loads((await daemon.run("files", "list", "-o", "json")).out)
    assert (listed["first_id"], listed["last_id"], listed["has_more"]) == (
        "file-1",
        "file-1",
        False,
    )
    shown = json.loads((await daemon.run("files", "show", "file-1", "-o", "json")).out)
    assert shown == listed["data"][0]
    assert shown == {
        "id": "file-1",
        "object": "file",
        "bytes": 3,
        "created_at": daemon.door.files.rows["file-1"].created_at,
        "expires_at": None,
        "filename": "a.jsonl",
        "purpose": "fine-tune",
        "status": "processed",
        "status_details": None,
    }
    page = await daemon.run("files", "show", "file-1")
    assert "Format      chat" in page.out
    none = await daemon.run("files", "list", "--purpose", "fine-tune-results")
    assert none.out == ""


async def test_get_to_stdout_and_to_a_file(daemon: Daemon) -> None:
    daemon.door.files.add("file-1", b"{}\n\x1b[2J")
    ran = await daemon.run("files", "get", "file-1")
    assert ran.out == "{}\n\x1b[2J"  # a pipe gets the bytes
    ran = await daemon.run("files", "get", "file-1", "--output", str(daemon.root / "copy"))
    assert (ran.status, ran.out) == (0, "")
    assert (daemon.root / "copy").read_bytes() == b"{}\n\x1b[2J"


async def test_get_that_fails_leaves_no_half_file(daemon: Daemon) -> None:
    ran = await daemon.run("files", "get", "file-x", "--output", str(daemon.root / "copy"))
    assert ran.status == 3
    ran = await daemon.run("files", "get", "file-x", "--output", str(daemon.root / "no" / "copy"))
    assert ran.status in (1, 3)
    assert [path.name for path in daemon.root.glob("copy*")] == []


async def test_rm(daemon: Daemon) -> None:
    daemon.door.files.add("file-1", b"")
    ran = await daemon.run("files", "rm", "file-1")
    assert (ran.status, ran.out, ran.err) == (0, "", "deleted file-1\n")
    ran = await daemon.run("files", "rm", "file-1")
    assert ran.status == 3
    assert "`ftctl files list`" in ran.err
