"""The main job, as a client that we did not write sees it: the OpenAI SDK, strict."""

import base64
import csv
import io
import time
from pathlib import Path

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from tests.running import Daemon, small_talk, until

TINY = "tiny"
OVER = {"succeeded", "failed", "cancelled"}


def ended(client: openai.OpenAI, job_id: str, timeout_s: float = 120) -> FineTuningJob:
    def over() -> FineTuningJob | None:
        job = client.fine_tuning.jobs.retrieve(job_id)
        return job if job.status in OVER else None

    job = until(over, timeout_s)
    assert job is not None
    return job


def upload(client: openai.OpenAI, path: Path) -> str:
    with path.open("rb") as file:
        return client.files.create(file=file, purpose="fine-tune").id


def test_from_a_file_to_a_model(client: openai.OpenAI, tmp_path: Path) -> None:
    training = upload(client, small_talk(tmp_path / "training.jsonl", 20))
    validation = upload(client, small_talk(tmp_path / "validation.jsonl", 6, start=100))
    assert client.files.retrieve(training).status == "processed"

    created = client.fine_tuning.jobs.create(
        model=TINY,
        training_file=training,
        validation_file=validation,
        suffix="small talk!",
        seed=7,
        metadata={"team": "blue"},
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 8}},
        },
    )
    assert created.status in {"queued", "running"}
    assert created.seed == 7
    assert created.error is None
    assert created.fine_tuned_model is None

    job = ended(client, created.id)
    assert job.status == "succeeded", job.error
    assert job.fine_tuned_model is not None
    assert job.fine_tuned_model.startswith(f"ft:{TINY}:small-talk-:")
    assert job.finished_at is not None
    assert job.finished_at >= job.created_at
    assert job.trained_tokens is not None
    assert job.trained_tokens > 0
    assert job.hyperparameters.n_epochs == 2
    assert job.hyperparameters.batch_size == 8
    assert job.hyperparameters.learning_rate_multiplier == 1.0
    assert job.metadata == {"team": "blue"}
    assert job.method is not None
    assert job.method.type == "supervised"

    _events_tell_the_story(client, job, training, validation)
    _checkpoints_are_the_epochs(client, job)
    _results_are_a_csv(client, job)
    names = {model.id for model in client.models.list()}
    assert {TINY, job.fine_tuned_model, f"{job.fine_tuned_model}:ckpt-step-3"} <= names
    assert client.models.retrieve(job.fine_tuned_model).owned_by


def _events_tell_the_story(
    client: openai.OpenAI, job: FineTuningJob, training: str, validation: str
) -> None:
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=4))  # pages by itself
    assert len({event.id for event in events}) == len(events)
    told = [event.message for event in reversed(events)]
    name = job.fine_tuned_model
    assert told[:4] == [
        f"Created fine-tuning job: {job.id}",
        f"Validating training file: {training} and validation file: {validation}",
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
    ]
    assert told[-2:] == [
        f"New fine-tuned model created: {name}",
        "The job has successfully completed",
    ]
    steps = [event for event in reversed(events) if event.type == "metrics"]
    assert [event.data["step"] for event in steps] == [1, 2, 3, 4, 5, 6]  # type: ignore[index]
    assert all(isinstance(event.data["valid_loss"], float) for event in steps)  # type: ignore[index]
    assert ["full_valid_loss" in event.data for event in steps] == [  # type: ignore[operator]
        False, False, True, False, False, True,
    ]  # fmt: skip
    assert steps[2].message.startswith("Step 3/6: training loss=")
    assert ", full validation loss=" in steps[2].message
    for step in (3, 6):
        assert (
            f"Checkpoint created at step {step} with Snapshot ID: {name}:ckpt-step-{step}" in told
        )
    before = next(event for event in events if (event.data or {}).get("step") == 0)  # type: ignore[attr-defined]
    assert before.type == "message"


def _checkpoints_are_the_epochs(client: openai.OpenAI, job: FineTuningJob) -> None:
    page = client.fine_tuning.jobs.checkpoints.list(job.id)
    assert [c.step_number for c in page.data] == [6, 3]
    assert page.data[0].fine_tuned_model_checkpoint == f"{job.fine_tuned_model}:ckpt-step-6"
    assert page.data[0].metrics.full_valid_loss is not None
    assert page.data[0].metrics.step == 6


def _results_are_a_csv(client: openai.OpenAI, job: FineTuningJob) -> None:
    assert len(job.result_files) == 1
    encoded = client.files.content(job.result_files[0]).text
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(encoded).decode())))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert rows[-1]["train_token_accuracy"] == rows[-1]["train_accuracy"]
    assert rows[0]["full_valid_loss"] == ""
    assert rows[-1]["full_valid_loss"] != ""
    assert client.files.retrieve(job.result_files[0]).purpose == "fine-tune-results"


def test_a_tuned_model_and_a_checkpoint_can_be_tuned_again(
    client: openai.OpenAI, tmp_path: Path
) -> None:
    training = upload(client, small_talk(tmp_path / "training.jsonl", 12))
    first = client.fine_tuning.jobs.create(
        model=TINY, training_file=training, hyperparameters={"n_epochs": 1, "batch_size": 6}
    )
    name = ended(client, first.id).fine_tuned_model
    assert name is not None
    for base in (name, f"{name}:ckpt-step-2"):
        again = client.fine_tuning.jobs.create(
            model=base, training_file=training, hyperparameters={"n_epochs": 1}
        )
        job = ended(client, again.id)
        assert job.status == "succeeded", job.error
        assert job.model == base
        assert job.fine_tuned_model is not None
        assert job.fine_tuned_model.startswith(f"ft:{TINY}::")


def test_the_same_seed_gives_the_same_weights(daemon: Daemon, tmp_path: Path) -> None:
    client = daemon.client()
    training = upload(client, small_talk(tmp_path / "training.jsonl", 12))
    adapters = []
    for _ in range(2):
        job = client.fine_tuning.jobs.create(
            model=TINY, training_file=training, seed=5, hyperparameters={"n_epochs": 1}
        )
        name = ended(client, job.id).fine_tuned_model
        assert name is not None
        adapter = daemon.home / "adapters" / name.rsplit(":", 1)[1] / "adapter_model.safetensors"
        adapters.append(adapter.read_bytes())
    assert adapters[0] == adapters[1]


def test_lists_page_newest_first(client: openai.OpenAI, tmp_path: Path) -> None:
    upload(client, small_talk(tmp_path / "another.jsonl", 10))
    training = upload(client, small_talk(tmp_path / "training.jsonl", 10))
    created = [
        client.fine_tuning.jobs.create(
            model=TINY, training_file=training, metadata={"page": tmp_path.name}
        ).id
        for _ in range(5)
    ]
    for job_id in created:
        client.fine_tuning.jobs.cancel(job_id)
    listed = list(
        client.fine_tuning.jobs.list(
            limit=2, extra_query={"metadata[page]": tmp_path.name}
        )
    )  # fmt: skip
    assert [job.id for job in listed] == created[::-1]
    first = client.fine_tuning.jobs.list(limit=2)
    assert len(first.data) == 2
    assert first.has_more
    files = client.files.list(limit=1, order="asc")
    assert len(files.data) == 1
    assert files.has_more


def test_cancel_answers_at_once_and_frees_the_device(
    daemon: Daemon, client: openai.OpenAI, tmp_path: Path
) -> None:
    training = upload(client, small_talk(tmp_path / "training.jsonl", 200))
    job = client.fine_tuning.jobs.create(
        model=TINY, training_file=training, hyperparameters={"n_epochs": 50, "batch_size": 1}
    )
    until(lambda: len(client.fine_tuning.jobs.list_events(job.id, limit=10).data) > 8)
    started = time.monotonic()
    cancelled = client.fine_tuning.jobs.cancel(job.id)
    assert time.monotonic() - started < 2
    assert cancelled.status == "cancelled"
    assert cancelled.finished_at is not None
    until(lambda: " 0 " not in daemon.ftctl("devices").stdout and not _holder(daemon))
    events = client.fine_tuning.jobs.list_events(job.id, limit=1).data
    assert events[0].message == "Fine tuning process stopping due to job cancellation"
    assert events[0].level == "warn"
    with pytest.raises(openai.BadRequestError, match="already completed"):
        client.fine_tuning.jobs.cancel(job.id)
    assert client.fine_tuning.jobs.retrieve(job.id).status == "cancelled"


def _holder(daemon: Daemon) -> str | None:
    import json

    devices = json.loads(daemon.ftctl("devices", "-o", "json").stdout)
    holder: str | None = devices["data"][0].get("job_id")
    return holder


def test_deleting(client: openai.OpenAI, tmp_path: Path) -> None:
    training = upload(client, small_talk(tmp_path / "training.jsonl", 10))
    job = client.fine_tuning.jobs.create(model=TINY, training_file=training)
    deleted = client.files.delete(training)  # the job that was accepted keeps its bytes
    assert deleted.deleted
    with pytest.raises(openai.NotFoundError, match="No such File object"):
        client.files.retrieve(training)
    name = ended(client, job.id).fine_tuned_model
    assert name is not None
    assert client.models.delete(name).deleted
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(name)
    with pytest.raises(openai.PermissionDeniedError):
        client.models.delete(TINY)
