"""A daemon is killed between a create and its answer: sent again with its key, it creates nothing
more."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest

from ftd.v1 import files_pb2, files_pb2_grpc, jobs_pb2, jobs_pb2_grpc
from tests.running import CALM, Daemon, small_talk, until

# `ftd serve` that is killed as soon as the row of a file, or of a job, is committed.
DOOMED = """
import os, signal, sys
from pathlib import Path
import ftd.daemon
from ftd.config import load
from ftd.service import files, jobs

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

created = jobs.Jobs.create

async def create(*given):
    await created(*given)
    die()

if sys.argv[2] == "file":
    files.Files._spawn = die
else:
    jobs.Jobs.create = create
ftd.daemon.serve(load(home=Path(sys.argv[1]), rest="127.0.0.1:0"))
"""


@contextmanager
def doomed(daemon: Daemon, by: str) -> Iterator[None]:
    """In its place the daemon that dies by a create; it has died when this ends."""
    endpoint = daemon.home / "endpoint.json"
    program = [sys.executable, "-c", DOOMED, str(daemon.home), by]
    endpoint.unlink(missing_ok=True)  # of one that was killed
    with subprocess.Popen(program, env=os.environ | CALM) as process:
        try:
            until(endpoint.exists, 30)
            yield
            assert process.wait(30) == -signal.SIGKILL
        finally:
            process.kill()


class Rest:
    """What is asked over REST; None where no answer came."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def _post(self, path: str, **options: Any) -> str | None:
        headers = {"Authorization": f"Bearer {self._daemon.key}", "Idempotency-Key": path}
        try:
            answer = httpx2.post(self._daemon.url + path, headers=headers, timeout=30, **options)
        except httpx2.TransportError:
            return None
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def upload(self, path: Path) -> str | None:
        files = {"file": ("a.jsonl", path.read_bytes())}
        return self._post("/files", files=files, data={"purpose": "fine-tune"})

    def create(self, file: str) -> str | None:
        return self._post("/fine_tuning/jobs", json={"model": "tiny", "training_file": file})


class Grpc:
    """The same over gRPC."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def _call(self, stub: type, name: str, request: object) -> str | None:
        metadata = (
            ("authorization", f"Bearer {self._daemon.key}"),
            ("idempotency-key", name),
        )
        with grpc.insecure_channel(f"unix:{self._daemon.endpoint['grpc']['unix']}") as channel:
            try:
                answer = getattr(stub(channel), name)(request, metadata=metadata, timeout=30)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                return None
            return str(answer.id)

    def upload(self, path: Path) -> str | None:
        data = path.read_bytes()
        header = files_pb2.UploadHeader(filename="a.jsonl", purpose="fine-tune", bytes=len(data))
        parts = [
            files_pb2.UploadFileRequest(header=header),
            files_pb2.UploadFileRequest(chunk=data),
        ]
        return self._call(files_pb2_grpc.FilesStub, "UploadFile", iter(parts))

    def create(self, file: str) -> str | None:
        request = jobs_pb2.CreateJobRequest(model="tiny", training_file=file)
        return self._call(jobs_pb2_grpc.JobsStub, "CreateJob", request)


@pytest.mark.parametrize("face", [Rest, Grpc])
def test_what_was_created_without_an_answer_is_answered(
    own_daemon: Daemon, tmp_path: Path, face: type[Rest] | type[Grpc]
) -> None:
    daemon, ask = own_daemon, face(own_daemon)
    data = small_talk(tmp_path / "a.jsonl", 20)
    daemon.stop()
    with doomed(daemon, "file"):
        assert ask.upload(data) is None
    with doomed(daemon, "job"):
        file = ask.upload(data)
        assert file is not None
        assert ask.create(file) is None
    daemon.start()
    client = daemon.client()
    assert [one.id for one in client.files.list()] == [file]
    (job,) = client.fine_tuning.jobs.list()
    assert (ask.upload(data), ask.create(file)) == (file, job.id)
    assert [one.id for one in client.files.list(purpose="fine-tune")] == [file]
    assert [one.id for one in client.fine_tuning.jobs.list()] == [job.id]
