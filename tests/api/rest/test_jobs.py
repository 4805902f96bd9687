"""Jobs by the OpenAI SDK in strict mode, and what it would not send."""

import json
from collections.abc import Mapping
from typing import Any

import httpx2
import openai
import pytest
import pytest_asyncio

from ftd.core.device import Device
from ftd.core.file import RESULTS, File, FileStatus
from ftd.core.models import Model, ModelKind
from ftd.store import checkpoints, events, jobs
from tests.api.rest.face import BASE, Face, conversations

CPU = Device(id="cpu", kind="cpu", name="CPU", memory_bytes=2**30)
REQUIRED = {
    "id", "object", "created_at", "finished_at", "estimated_finish", "model", "fine_tuned_model",
    "organization_id", "status", "training_file", "validation_file", "result_files",
    "trained_tokens", "hyperparameters", "method", "error", "seed", "integrations", "metadata",
    "user_provided_suffix", "priority", "wait_reason", "phase",
    "fine_tuned_model_sha256",
}  # fmt: skip
AUTO = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}


@pytest_asyncio.fixture
async def training(client: openai.AsyncOpenAI) -> str:
    file = await client.files.create(file=("a.jsonl", conversations(12)), purpose="fine-tune")
    return file.id


async def create(http: httpx2.AsyncClient, training: str, **fields: Any) -> httpx2.Response:
    return await http.post(
        "/v1/fine_tuning/jobs", json={"model": BASE, "training_file": training} | fields
    )


async def test_a_new_job(client: openai.AsyncOpenAI, training: str) -> None:
    job = await client.fine_tuning.jobs.create(
        model="gpt-4o-mini",
        training_file=training,
        suffix="my model",
        seed=7,
        metadata={"team": "a"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
    )
    assert job.id.startswith("ftjob-")
    assert (job.status, job.model, job.seed) == ("queued", BASE, 7)
    assert (job.organization_id, job.result_files, job.integrations) == ("org-local", [], [])
    assert job.metadata == {"team": "a"}
    assert job.user_provided_suffix == "my model"  # type: ignore[attr-defined]
    assert job.error is None
    assert job.hyperparameters.model_dump() == {
        "n_epochs": 2, "batch_size": 1, "learning_rate_multiplier": 1.0
    }  # fmt: skip
    assert job.method is not None
    assert job.method.supervised is not None
    mirrored = job.method.supervised.hyperparameters
    assert mirrored is not None
    assert mirrored.model_dump() == job.hyperparameters.model_dump()
    assert await client.fine_tuning.jobs.retrieve(job.id) == job


async def test_every_key_is_there(http: httpx2.AsyncClient, training: str) -> None:
    job = (await create(http, training)).json()
    assert job.keys() == REQUIRED
    assert job["object"] == "fine_tuning.job"
    assert job["method"] == {
        "type": "supervised", "supervised": {"hyperparameters": job["hyperparameters"]}
    }  # fmt: skip
    for key in ("finished_at", "estimated_finish", "fine_tuned_model", "trained_tokens", "error"):
        assert job[key] is None


async def test_hyperparameters_are_auto_until_the_files_are_checked(
    face: Face, http: httpx2.AsyncClient, training: str
) -> None:
    await face.store.db.write(
        lambda tx: tx.execute("UPDATE files SET report = NULL, status = 'uploaded'")
    )
    job = (await create(http, training, hyperparameters={"batch_size": 4})).json()
    assert job["status"] == "validating_files"
    assert job["hyperparameters"] == AUTO | {"batch_size": 4}


async def test_null_is_the_same_as_absent(http: httpx2.AsyncClient, training: str) -> None:
    nothing = dict.fromkeys(
        (
            "validation_file", "suffix", "seed", "metadata", "integrations", "method",
            "hyperparameters", "priority",
        )
    )  # fmt: skip
    job = (await create(http, training, **nothing)).json()
    assert job["status"] == "queued"
    assert job["metadata"] is None
    nulls = dict.fromkeys(AUTO)
    method = {"type": "supervised", "supervised": {"hyperparameters": nulls}, "dpo": None}
    job = (await create(http, training, method=method, hyperparameters=nulls)).json()
    assert job["hyperparameters"]["n_epochs"] == 8


async def test_what_we_do_not_know_is_ignored(http: httpx2.AsyncClient, training: str) -> None:
    answer = await create(
        http,
        training,
        trainingType=1,
        custom_llm_provider="openai",
        integrations=[],
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {}},
            "dpo": {"hyperparameters": {"beta": 0.1}},
            "reinforcement": {"grader": {"type": "string_check"}},
        },
    )
    assert answer.status_code == 200


async def test_both_places_of_hyperparameters(http: httpx2.AsyncClient, training: str) -> None:
    older = {"hyperparameters": {"n_epochs": 5}}
    for fields, epochs in (
        (older, 5),
        ({"hyperparameters": {"n_epochs": 5.0}}, 5),
        ({"hyperparameters": {"n_epochs": "auto"}}, 8),
        ({"hyperparameters": {}}, 8),
        (older | {"method": {"type": "supervised"}}, 5),
        (older | method(n_epochs=4), 4),
        (older | method(n_epochs="auto"), 8),
    ):
        job = (await create(http, training, **fields)).json()
        assert job["hyperparameters"]["n_epochs"] == epochs, fields


def method(**hyperparameters: object) -> dict[str, Any]:
    nested = {"hyperparameters": hyperparameters}
    return {"method": {"type": "supervised", "supervised": nested}}


EPOCHS = "hyperparameters.n_epochs"
MULTIPLIER = "hyperparameters.learning_rate_multiplier"
MISSING, TYPE = "missing_required_parameter", "invalid_type"
BAD_FIELDS: list[tuple[dict[str, Any], str, str | None, str]] = [
    ({"model": None}, "model", TYPE, "'model'"),
    ({"model": 7}, "model", TYPE, "string"),
    ({"model": "nope"}, "model", "model_not_available", "Model nope is not available"),
    ({"training_file": "x"}, "training_file", "invalid_file", "invalid training_file: x"),
    ({"validation_file": 1}, "validation_file", TYPE, "string"),
    ({"suffix": "x" * 65}, "suffix", None, "64"),
    ({"seed": True}, "seed", TYPE, "integer"),
    ({"seed": "7"}, "seed", TYPE, "integer"),
    ({"seed": 1.5}, "seed", TYPE, "integer"),
    ({"seed": 2**40}, "seed", None, "2147483647"),
    ({"priority": 10**30}, "priority", None, "priority"),
    ({"metadata": {"a": 1}}, "metadata.a", TYPE, "string"),
    ({"metadata": []}, "metadata", TYPE, "dictionary"),
    ({"integrations": [{"type": "wandb"}]}, "integrations", None, "not supported"),
    ({"integrations": {}}, "integrations", TYPE, "list"),
    ({"method": {}}, "method.type", MISSING, "method.type"),
    ({"method": "dpo"}, "method", TYPE, "method"),
    ({"method": {"type": "dpo"}}, "method.type", None, "'dpo' is not supported"),
    ({"method": {"type": "reinforcement"}}, "method.type", None, "not supported"),
    ({"method": {"type": 3}}, "method.type", TYPE, "string"),
    ({"hyperparameters": {"n_epochs": True}}, EPOCHS, TYPE, "'auto' or an integer"),
    ({"hyperparameters": {"n_epochs": "3"}}, EPOCHS, TYPE, "'auto' or an integer"),
    ({"hyperparameters": {"n_epochs": 0}}, EPOCHS, None, "between 1 and 50"),
    ({"hyperparameters": {"learning_rate_multiplier": "x"}}, MULTIPLIER, TYPE, "or a number"),
    ({"hyperparameters": {"learning_rate_multiplier": False}}, MULTIPLIER, TYPE, "or a number"),
    ({"hyperparameters": "auto"}, "hyperparameters", TYPE, "hyperparameters"),
    (method(n_epochs=[]), "method.supervised.hyperparameters.n_epochs", TYPE, "an integer"),
]


async def test_a_bad_field_is_400_and_named(
    http: httpx2.AsyncClient, training: str, subtests: pytest.Subtests
) -> None:
    for fields, param, code, words in BAD_FIELDS:
        with subtests.test(fields=fields):
            answer = await create(http, training, **fields)
            error = answer.json()["error"]
            assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
            assert (error["param"], error["code"]) == (param, code)
            assert words in error["message"]
    assert (await http.get("/v1/fine_tuning/jobs")).json()["data"] == []


async def test_a_number_beyond_all_numbers(http: httpx2.AsyncClient, training: str) -> None:
    body = f'{{"model": "{BASE}", "training_file": "{training}", "hyperparameters": %s}}'
    for name in ("n_epochs", "learning_rate_multiplier"):
        answer = await http.post(
            "/v1/fine_tuning/jobs",
            content=body % f'{{"{name}": 1e999}}',
            headers={"Content-Type": "application/json"},
        )
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "invalid_json")


async def test_pages(client: openai.AsyncOpenAI, http: httpx2.AsyncClient, training: str) -> None:
    ids = [(await create(http, training)).json()["id"] for _ in range(23)][::-1]
    first = await client.fine_tuning.jobs.list()
    assert [job.id for job in first.data] == ids[:20]
    assert first.has_more is True
    assert [job.id async for job in client.fine_tuning.jobs.list(limit=7)] == ids
    assert (await client.fine_tuning.jobs.list(after="ftjob-nobody")).data == []
    for limit, count in ((0, 20), (-1, 20), (10**25, 23)):
        page = (await http.get("/v1/fine_tuning/jobs", params={"limit": limit})).json()
        assert len(page["data"]) == count
        assert page.keys() == {"object", "data", "has_more"}
    last = (await http.get("/v1/fine_tuning/jobs", params={"after": ids[-2], "limit": 1})).json()
    assert ([job["id"] for job in last["data"]], last["has_more"]) == (ids[-1:], False)


async def test_the_metadata_filter(
    client: openai.AsyncOpenAI, http: httpx2.AsyncClient, training: str
) -> None:
    async def made(metadata: Mapping[str, str] | None) -> str:
        return str((await create(http, training, metadata=metadata)).json()["id"])

    async def found(query: str) -> list[str]:
        answer = await http.get(f"/v1/fine_tuning/jobs?{query}")
        return [job["id"] for job in answer.json()["data"]]

    none, one, two = [await made(m) for m in (None, {"k": "v w"}, {"k": "v w", "empty": ""})]
    assert await found("metadata[k]=v+w") == [two, one]
    assert await found("metadata%5Bk%5D=v%20w&metadata[empty]=") == [two]
    assert await found("metadata=null") == [none]
    assert await found("metadata=") == [two, one, none]
    assert await found("metadata[k]=x") == []
    assert [job.id async for job in client.fine_tuning.jobs.list(metadata={"empty": ""})] == [two]
    for query in ("metadata=null&metadata[k]=v", "metadata=v"):
        answer = await http.get(f"/v1/fine_tuning/jobs?{query}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "metadata")


async def test_cancel_once(
    client: openai.AsyncOpenAI, http: httpx2.AsyncClient, training: str
) -> None:
    job = await client.fine_tuning.jobs.create(model=BASE, training_file=training)
    cancelled = await client.fine_tuning.jobs.cancel(job.id)
    assert cancelled.status == "cancelled"
    assert cancelled.finished_at is not None
    assert cancelled.error is None
    with pytest.raises(openai.BadRequestError, match=f"already completed: {job.id}"):
        await client.fine_tuning.jobs.cancel(job.id)
    bare = await http.post(
        "/v1/fine_tuning/jobs/ftjob-nobody/cancel", headers={"Content-Length": "0"}
    )
    assert bare.status_code == 404


async def test_pause_and_resume(face: Face, http: httpx2.AsyncClient, training: str) -> None:
    job_id = (await create(http, training)).json()["id"]

    async def asked(verb: str) -> dict[str, Any]:
        """As the SDK asks: a POST without a body."""
        answer = await http.post(
            f"/v1/fine_tuning/jobs/{job_id}/{verb}", headers={"Content-Length": "0"}
        )
        assert answer.status_code == 200
        return answer.json()  # type: ignore[no-any-return]

    for verb, status in (("resume", "queued"), ("pause", "paused"), ("resume", "queued")):
        for _ in range(2):
            assert (await asked(verb))["status"] == status
    attempt = await face.store.start(job_id, "run-1", [CPU])
    assert attempt is not None
    pausing = await asked("pause")
    assert (pausing["status"], pausing["phase"]) == ("running", "pausing")
    await face.store.stopped(attempt)
    got = (await http.get(f"/v1/fine_tuning/jobs/{job_id}")).json()
    assert (got["status"], got["phase"], got["finished_at"]) == ("paused", None, None)
    events = (await http.get(f"/v1/fine_tuning/jobs/{job_id}/events")).json()["data"]
    assert [event["message"] for event in events[:3]] == [
        "Fine-tuning job paused",
        "Fine-tuning job resumed",
        "Fine-tuning job paused",
    ]
    assert (await asked("cancel"))["status"] == "cancelled"


@pytest.mark.parametrize("verb", ["pause", "resume"])
async def test_what_is_over_or_nowhere_is_neither_paused_nor_resumed(
    client: openai.AsyncOpenAI, training: str, verb: str
) -> None:
    job = await client.fine_tuning.jobs.create(model=BASE, training_file=training)
    await client.fine_tuning.jobs.cancel(job.id)
    call = getattr(client.fine_tuning.jobs, verb)
    with pytest.raises(openai.BadRequestError, match=f"already completed: {job.id}"):
        await call(job.id)
    with pytest.raises(openai.NotFoundError, match="Could not find fine tune"):
        await call("ftjob-nobody")


async def test_a_failed_job_says_why(client: openai.AsyncOpenAI) -> None:
    few = await client.files.create(file=("a.jsonl", conversations(3)), purpose="fine-tune")
    job = await client.fine_tuning.jobs.create(model=BASE, training_file=few.id)
    assert job.status == "failed"
    assert job.error is not None
    assert (job.error.code, job.error.param) == ("invalid_n_examples", "training_file")
    newest = (await client.fine_tuning.jobs.list_events(job.id, limit=1)).data[0]
    assert (newest.level, newest.type) == ("error", "message")


async def test_a_job_that_ran(
    face: Face, client: openai.AsyncOpenAI, http: httpx2.AsyncClient, training: str
) -> None:
    job = await client.fine_tuning.jobs.create(model=BASE, training_file=training)
    metrics = {"step": 1, "train_loss": 2.5, "train_mean_token_accuracy": 0.25}
    tuned = await ran(face, job.id, metrics)

    done = await client.fine_tuning.jobs.retrieve(job.id)
    assert (done.status, done.fine_tuned_model, done.trained_tokens) == ("succeeded", tuned, 480)
    assert done.model_extra is not None
    assert done.model_extra["fine_tuned_model_sha256"] == "0" * 64
    assert done.result_files == ["file-result-1"]
    assert done.finished_at is not None

    told = [event async for event in client.fine_tuning.jobs.list_events(job.id, limit=2)]
    assert [event.message for event in told[::-1]] == [
        f"Created fine-tuning job: {job.id}",
        f"Validating training file: {training}",
        "Files validated, moving job to queued state",
        "Step 1/2: training loss=2.50",
        f"New fine-tuned model created: {tuned}",
        "The job has successfully completed",
    ]
    step = told[2]
    assert (step.type, step.data) == ("metrics", metrics | {"total_steps": 2})
    assert all(event.data is None for event in told if event.type == "message")
    one = (await http.get(f"/v1/fine_tuning/jobs/{job.id}/events?limit=1")).json()
    assert one.keys() == {"object", "data", "has_more"}
    assert one["data"][0].keys() == {
        "id", "object", "created_at", "level", "message", "type", "data"
    }  # fmt: skip

    pages = client.fine_tuning.jobs.checkpoints.list(job.id, limit=1)
    listed = [checkpoint async for checkpoint in pages]
    assert [checkpoint.step_number for checkpoint in listed] == [2, 1]
    assert listed[0].fine_tuned_model_checkpoint == f"{tuned}:ckpt-step-2"
    assert listed[0].fine_tuning_job_id == job.id
    assert listed[0].metrics.train_loss == 2.5
    page = (await http.get(f"/v1/fine_tuning/jobs/{job.id}/checkpoints")).json()
    assert (page["first_id"], page["last_id"]) == (listed[0].id, listed[1].id)
    assert page["has_more"] is False
    assert page["data"][0]["metrics"] == metrics


async def ran(face: Face, job_id: str, metrics: Mapping[str, float]) -> str:
    """Everything that the engine and a trainer would have stored."""
    store, now = face.store, face.store.clock.now()
    attempt = await store.start(job_id, "run-1", [CPU])
    assert attempt is not None
    job = await jobs.get(store.db, job_id)
    assert job is not None

    def train(tx: Any) -> None:
        step_1 = events.StepTold(
            step=1, id=store.ids.event(), message="Step 1/2: training loss=2.50",
            data=json.dumps({**metrics, "total_steps": 2}),
        )  # fmt: skip
        assert events.tell_steps(tx, job_id, now, [step_1]) == 1
        for step in (1, 2):
            checkpoints.publish(
                tx, checkpoint_id=store.ids.checkpoint(), job_id=job_id, now=now, step=step,
                model=f"{job.minted}:ckpt-step-{step}", metrics=metrics, path="-", sha256="0" * 64,
            )  # fmt: skip

    await store.db.write(train)
    model = Model(
        name=job.minted, project=job.project, kind=ModelKind.TUNED, base=BASE, path="-",
        sha256="0" * 64, created_at=now, job=job_id,
    )  # fmt: skip
    result = File(
        seq=0, id="file-result-1", project=job.project, purpose=RESULTS, bytes=0,
        filename="step_metrics.csv", sha256="0" * 64, created_at=now, status=FileStatus.PROCESSED,
    )  # fmt: skip
    await store.succeed(attempt, model=model, result=result, trained_tokens=480)
    return job.minted


@pytest.mark.parametrize("path", ["", "/events", "/checkpoints"])
async def test_an_unknown_job(http: httpx2.AsyncClient, path: str) -> None:
    answer = await http.get(f"/v1/fine_tuning/jobs/ftjob-nobody{path}")
    assert answer.status_code == 404
    assert answer.json() == {
        "error": {
            "message": "Could not find fine tune: ftjob-nobody",
            "type": "invalid_request_error",
            "param": "fine_tune_id",
            "code": "fine_tune_not_found",
        }
    }
