"""Bad input: the contract's texts and codes, every bad line reported, nothing left behind."""

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.test_story import ended
from tests.running import Daemon, conversation, small_talk, until

TINY = "tiny"


def upload_bytes(client: openai.OpenAI, content: bytes, name: str = "data.jsonl") -> str:
    return client.files.create(file=(name, content), purpose="fine-tune").id


def lines(*rows: Any) -> bytes:
    return "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows).encode()


def good(count: int) -> list[dict[str, Any]]:
    return [conversation(f"Question {n}?", f"Answer {n}.") for n in range(count)]


def file_of(client: openai.OpenAI, file_id: str) -> tuple[str, str | None]:
    file = client.files.retrieve(file_id)
    return file.status, file.status_details


def failure(client: openai.OpenAI, **request: Any) -> openai.types.fine_tuning.FineTuningJob:
    job = client.fine_tuning.jobs.create(**{"model": TINY} | request)
    job = ended(client, job.id)
    assert job.status == "failed"
    assert job.finished_at is not None
    assert job.error is not None
    return job


@pytest.mark.parametrize(
    "content",
    [b"hello, world\n", b"[1, 2]\n", b'"text"\n', b"a,b\n1,2\n", b'{\n  "messages": []\n}\n', b""],
)
def test_what_is_no_jsonl_is_refused_at_upload_and_not_kept(
    client: openai.OpenAI, daemon: Daemon, content: bytes
) -> None:
    before = {file.id for file in client.files.list()}
    on_disk = sorted(path.name for path in (daemon.home / "files").iterdir())
    with pytest.raises(openai.BadRequestError) as caught:
        upload_bytes(client, content)
    assert caught.value.body is not None
    error = caught.value.body
    assert "Expected file to have JSONL format" in error["message"]  # type: ignore[index]
    assert error["type"] == "invalid_request_error"  # type: ignore[index]
    assert {file.id for file in client.files.list()} == before
    assert sorted(path.name for path in (daemon.home / "files").iterdir()) == on_disk
    assert not list((daemon.home / "files" / "incoming").iterdir())


def test_a_name_that_is_not_jsonl_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"Must be \.jsonl"):
        upload_bytes(client, lines(*good(10)), name="data.csv")


def test_a_purpose_that_nobody_knows_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(file=("a.jsonl", b"{}\n"), purpose="fun")  # type: ignore[arg-type]
    assert caught.value.param == "purpose"


def test_a_broken_line_puts_the_file_in_error_and_fails_its_job(client: openai.OpenAI) -> None:
    broken = '{"messages": [{"role": "user" "content": "x"}]}'
    file_id = upload_bytes(client, lines(*good(11), broken))
    status, details = file_of(client, file_id)
    assert status == "error"
    assert details is not None
    assert details.startswith(
        "Invalid file format. Example 12 cannot be parsed. Error: line contains invalid json: "
        "Expecting ',' delimiter: line 1 column 31"
    )
    assert details.endswith("(line 12)")
    job = failure(client, training_file=file_id)
    assert job.error is not None
    assert "Example 12 cannot be parsed" in job.error.message
    assert job.error.param == "training_file"
    assert job.error.code == "invalid_training_file"


def test_every_bad_line_is_in_the_error_event(client: openai.OpenAI) -> None:
    no_role = {"messages": [{"content": "x"}]}
    bad_role = {"messages": [{"role": "robot", "content": "x"}]}
    no_assistant = {"messages": [{"role": "user", "content": "x"}]}
    file_id = upload_bytes(client, lines(*good(10), no_role, bad_role, *good(3), no_assistant))
    job = failure(client, training_file=file_id)
    assert job.error is not None
    assert job.error.message.startswith(
        "The job failed due to an invalid training file. Invalid file format. "
        "Example 11, message 1 Discriminator 'role' is missing in value"
    )
    event = client.fine_tuning.jobs.list_events(job.id, limit=1).data[0]
    assert event.level == "error"
    faults = event.data["errors"]  # type: ignore[index]
    assert [fault["line"] for fault in faults] == [11, 12, 16]
    assert all(fault["message"] and fault["fix"] and fault["code"] for fault in faults)
    assert faults[0]["path"] == "messages[0].role"


def test_too_few_examples_are_the_jobs_error_not_the_files(client: openai.OpenAI) -> None:
    file_id = upload_bytes(client, lines(*good(7)))
    assert file_of(client, file_id)[0] == "processed"
    job = failure(client, training_file=file_id)
    assert job.error is not None
    assert job.error.code == "invalid_n_examples"
    assert job.error.message == (
        "Training file has 7 example(s), but must have at least 10 examples"
    )
    assert job.error.param == "training_file"


def test_a_bad_validation_file_is_named(client: openai.OpenAI) -> None:
    training = upload_bytes(client, lines(*good(10)))
    validation = upload_bytes(client, lines(*good(2), {"messages": []}))
    job = failure(client, training_file=training, validation_file=validation)
    assert job.error is not None
    assert job.error.param == "validation_file"


@pytest.mark.parametrize(
    ("request_", "param", "words"),
    [
        ({"training_file": "file-nope"}, "training_file", "invalid training_file: file-nope"),
        ({"validation_file": "file-nope"}, "validation_file", "invalid validation_file"),
        ({"model": "gpt-17"}, "model", "Model gpt-17 is not available for fine-tuning"),
        ({"suffix": "x" * 65}, "suffix", "64"),
        ({"suffix": ""}, "suffix", "64"),
        ({"seed": -1}, "seed", "seed"),
        ({"seed": 2**31}, "seed", "seed"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs", "n_epochs"),
        ({"hyperparameters": {"n_epochs": 51}}, "hyperparameters.n_epochs", "n_epochs"),
        ({"hyperparameters": {"batch_size": 257}}, "hyperparameters.batch_size", "batch_size"),
        ({"method": {"type": "dpo"}}, "method.type", "dpo"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "16"),
    ],
)
def test_a_bad_parameter_is_400_and_named(
    client: openai.OpenAI, tmp_path: Path, request_: dict[str, Any], param: str, words: str
) -> None:
    with small_talk(tmp_path / "training.jsonl", 10).open("rb") as file:
        training = client.files.create(file=file, purpose="fine-tune").id
    before = client.fine_tuning.jobs.list(limit=1).data
    request = {"model": TINY, "training_file": training} | request_
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.create(**request)
    assert caught.value.param is not None
    assert param in caught.value.param
    assert words in str(caught.value)
    assert [j.id for j in client.fine_tuning.jobs.list(limit=1).data] == [j.id for j in before]


def test_unknown_ids_are_404_in_openais_words(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.fine_tuning.jobs.retrieve("ftjob-nope")
    assert (caught.value.code, caught.value.param) == ("fine_tune_not_found", "fine_tune_id")
    with pytest.raises(openai.NotFoundError, match="Could not find fine tune: ftjob-nope"):
        client.fine_tuning.jobs.list_events("ftjob-nope")
    with pytest.raises(openai.NotFoundError, match="No such File object: file-nope"):
        client.files.content("file-nope")
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nope")
    assert caught.value.code == "model_not_found"


def test_a_wrong_key_is_401(daemon: Daemon) -> None:
    stranger = daemon.client(api_key="ftd-wrong-wrong-wrong")
    with pytest.raises(openai.AuthenticationError) as caught:
        stranger.models.list()
    assert caught.value.code == "invalid_api_key"


def test_warnings_do_not_stop_a_file(client: openai.OpenAI) -> None:
    rows = good(10)
    rows[0]["note"] = "an extra key"
    rows[1]["messages"][0]["content"] = "Say <|im_end|> and <|fim_suffix|>"
    rows[2] = rows[3]
    doubled = '{"messages": [], "messages": ' + json.dumps(rows[4]["messages"]) + "}"
    content = b"\xef\xbb\xbf" + lines(*rows, doubled).replace(b"\n", b"\r\n") + b"\n\n"
    file_id = upload_bytes(client, content)
    assert file_of(client, file_id) == ("processed", None)


@pytest.mark.parametrize(
    "line",
    [
        '{"messages": [{"role": "assistant", "content": "a\x00b"}]}',
        '{"messages": [{"role": "assistant", "content": "\\ud800"}]}',
        '{"messages": [{"role": "assistant", "content": NaN}]}',
        '{"messages": ' + "[" * 5000 + "]" * 5000 + "}",
        '{"messages": [{"role": "assistant", "content": "x", "weight": 2}]}',
        '{"messages": [{"role": "user", "content": "x", "weight": 1}]}',
        '{"prompt": "a", "completion": "b"}',
    ],
)
def test_strange_lines_get_a_clear_answer(client: openai.OpenAI, line: str) -> None:
    file_id = upload_bytes(client, lines(*good(3), line))
    status, details = file_of(client, file_id)
    assert status == "error"
    assert details is not None
    assert "4" in details
    assert "Traceback" not in details


def test_a_job_on_a_file_in_processing_is_accepted_and_waits(
    daemon_with_slow_checks: Daemon, tmp_path: Path
) -> None:
    client = daemon_with_slow_checks.client()
    with small_talk(tmp_path / "training.jsonl", 20_000).open("rb") as file:
        uploaded = client.files.create(file=file, purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model=TINY, training_file=uploaded.id)
    assert uploaded.status == "uploaded"
    assert job.status == "validating_files"
    until(lambda: client.fine_tuning.jobs.retrieve(job.id).status in {"queued", "running"})
    client.fine_tuning.jobs.cancel(job.id)


def test_overlap_between_the_files_is_a_warning_event(
    client: openai.OpenAI, tmp_path: Path
) -> None:
    rows = good(12)
    training = upload_bytes(client, lines(*rows))
    validation = upload_bytes(client, lines(*rows[:3], *good(20)[15:]))
    job = client.fine_tuning.jobs.create(
        model=TINY, training_file=training, validation_file=validation,
        hyperparameters={"n_epochs": 1},
    )  # fmt: skip
    ended(client, job.id)
    warnings = [
        event.message
        for event in client.fine_tuning.jobs.list_events(job.id, limit=100)
        if event.level == "warn"
    ]
    assert any("3 of 8" in message and "training" in message for message in warnings), warnings
