"""Two faces, one service: the same call gives the same answer, and the same error, on both."""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from ftd.core.errors import Kind
from ftd.v1 import files_pb2, files_pb2_grpc, jobs_pb2, jobs_pb2_grpc, models_pb2, models_pb2_grpc
from tests.e2e.test_story import ended, upload
from tests.running import Daemon, small_talk


@dataclass(frozen=True)
class Refusal:
    """An error as its face told it; `kinds` are the kinds that it can be."""

    message: str
    code: str | None
    param: str | None
    kinds: frozenset[Kind]


@dataclass(frozen=True)
class Faces:
    daemon: Daemon
    channel: grpc.Channel

    def rest(self, method: str, path: str, body: Any = None) -> Refusal:
        request = urllib.request.Request(
            f"{self.daemon.url}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self.daemon.key}",
                "Content-Type": "application/json",
            },
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        error = json.load(caught.value)["error"]
        caught.value.close()
        kinds = {
            kind
            for kind in Kind
            if (kind.http_status, kind.openai_type) == (caught.value.code, error["type"])
        }
        return Refusal(error["message"], error["code"], error["param"], frozenset(kinds))

    def grpc(self, call: Callable[..., Any], request: Any) -> Refusal:
        with pytest.raises(grpc.RpcError) as caught:
            call(request, metadata=(("authorization", f"Bearer {self.daemon.key}"),))
        error: Any = caught.value
        trailers = {key: urllib.parse.unquote(v) for key, v in error.trailing_metadata()}
        kinds = {kind for kind in Kind if kind.grpc_code == error.code().name}
        return Refusal(
            error.details(), trailers.get("ftd-code"), trailers.get("ftd-param"), frozenset(kinds)
        )


@pytest.fixture
def faces(daemon: Daemon) -> Any:
    with grpc.insecure_channel(f"unix:{daemon.endpoint['grpc']['unix']}") as channel:
        yield Faces(daemon, channel)


def same(one: Refusal, other: Refusal) -> None:
    assert (one.message, one.code, one.param) == (other.message, other.code, other.param)
    assert one.kinds & other.kinds, "one row of the table of errors"


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "gpt-17"},
        {"training_file": "file-nope"},
        {"validation_file": "file-nope"},
        {"suffix": "x" * 65},
        {"seed": 2**31},
        {"hyperparameters": {"n_epochs": 51}},
        {"hyperparameters": {"batch_size": 0}},
        {"hyperparameters": {"learning_rate_multiplier": 0.0}},
        {"metadata": {"k" * 65: "v"}},
        {"metadata": {"k": "v" * 513}},
    ],
)
def test_a_bad_create_is_refused_alike(
    faces: Faces, changes: dict[str, Any], tmp_path: Path
) -> None:
    with faces.daemon.client() as client:
        training = upload(client, small_talk(tmp_path / "training.jsonl", 10))
    body = {"model": "tiny", "training_file": training} | changes
    by_rest = faces.rest("POST", "/fine_tuning/jobs", body)
    stub = jobs_pb2_grpc.JobsStub(faces.channel)
    by_grpc = faces.grpc(stub.CreateJob, jobs_pb2.CreateJobRequest(**body))
    same(by_rest, by_grpc)


def test_what_is_not_there_is_missed_alike(faces: Faces) -> None:
    jobs = jobs_pb2_grpc.JobsStub(faces.channel)
    files = files_pb2_grpc.FilesStub(faces.channel)
    models = models_pb2_grpc.ModelsStub(faces.channel)
    for method, path, call, request in (
        ("GET", "/fine_tuning/jobs/x", jobs.GetJob, jobs_pb2.GetJobRequest(id="x")),
        ("POST", "/fine_tuning/jobs/x/cancel", jobs.CancelJob, jobs_pb2.CancelJobRequest(id="x")),
        ("POST", "/fine_tuning/jobs/x/pause", jobs.PauseJob, jobs_pb2.PauseJobRequest(id="x")),
        ("POST", "/fine_tuning/jobs/x/resume", jobs.ResumeJob, jobs_pb2.ResumeJobRequest(id="x")),
        (
            "GET",
            "/fine_tuning/jobs/x/events",
            jobs.ListEvents,
            jobs_pb2.ListEventsRequest(job_id="x"),
        ),
        (
            "GET",
            "/fine_tuning/jobs/x/checkpoints",
            jobs.ListCheckpoints,
            jobs_pb2.ListCheckpointsRequest(job_id="x"),
        ),
        ("GET", "/files/x", files.GetFile, files_pb2.GetFileRequest(id="x")),
        ("DELETE", "/files/x", files.DeleteFile, files_pb2.DeleteFileRequest(id="x")),
        ("GET", "/models/x", models.GetModel, models_pb2.GetModelRequest(id="x")),
        ("DELETE", "/models/x", models.DeleteModel, models_pb2.DeleteModelRequest(id="x")),
    ):
        same(faces.rest(method, path), faces.grpc(call, request))


def test_a_job_tells_the_same_on_both(faces: Faces, tmp_path: Path) -> None:
    daemon = faces.daemon
    with daemon.client() as client:
        training = upload(client, small_talk(tmp_path / "training.jsonl", 12))
        created = client.fine_tuning.jobs.create(
            model="tiny", training_file=training, metadata={"a": "b"}, suffix="parity",
            hyperparameters={"n_epochs": 1},
        )  # fmt: skip
        job = ended(client, created.id)
        pairs = (
            (client.fine_tuning.jobs.with_raw_response.retrieve(job.id), ("show", job.id)),
            (
                client.fine_tuning.jobs.with_raw_response.list_events(job.id, limit=100),
                ("events", job.id),
            ),
            (
                client.fine_tuning.jobs.checkpoints.with_raw_response.list(job.id),
                ("checkpoints", job.id),
            ),
            (client.files.with_raw_response.retrieve(training), ("files", "show", training)),
        )
        for by_rest, command in pairs:
            by_grpc = json.loads(daemon.ftctl(*command, "-o", "json").stdout)
            rest = json.loads(by_rest.text)
            shared = rest.keys() & by_grpc.keys()
            assert {key: rest[key] for key in shared} == {key: by_grpc[key] for key in shared}
            assert not rest.keys() - by_grpc.keys()
        refused = [
            faces.rest("POST", f"/fine_tuning/jobs/{job.id}/{verb}")
            for verb in ("cancel", "pause", "resume")
        ]
    stub = jobs_pb2_grpc.JobsStub(faces.channel)
    for over, call, request in zip(
        refused,
        (stub.CancelJob, stub.PauseJob, stub.ResumeJob),
        (jobs_pb2.CancelJobRequest, jobs_pb2.PauseJobRequest, jobs_pb2.ResumeJobRequest),
        strict=True,
    ):
        same(over, faces.grpc(call, request(id=job.id)))
