"""Creates over gRPC that are sent again because their answers were lost: with the real service."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest_asyncio

from ftd import config
from ftd.api.grpc.server import serve
from ftd.v1 import files_pb2, files_pb2_grpc, jobs_pb2, jobs_pb2_grpc
from tests.api.grpc.serving import refused
from tests.api.rest.face import BASE, KEY, Face, conversations, serving

BEARER = ("authorization", f"Bearer {KEY}")
ONCE = (BEARER, ("idempotency-key", "one"))


@dataclass
class House:
    """Both faces of one service."""

    face: Face
    channel: grpc.aio.Channel

    async def upload(self, data: bytes, *metadata: tuple[str, str]) -> Any:
        header = files_pb2.UploadHeader(filename="a.jsonl", purpose="fine-tune", bytes=len(data))
        parts = [
            files_pb2.UploadFileRequest(header=header),
            files_pb2.UploadFileRequest(chunk=data),
        ]
        stub = files_pb2_grpc.FilesStub(self.channel)
        return await stub.UploadFile(iter(parts), metadata=metadata or (BEARER,))

    def create(self, file: str, *metadata: tuple[str, str], **more: Any) -> Any:
        request = jobs_pb2.CreateJobRequest(model=BASE, training_file=file, **more)
        stub = jobs_pb2_grpc.JobsStub(self.channel)
        return stub.CreateJob(request, metadata=metadata or (BEARER,))


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with serving(config.load(home=tmp_path / "home")) as face:
        path = tmp_path / "s"
        server = await serve(face.door, unix_path=path, tcp=(), observe=lambda *_: None)
        try:
            async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
                yield House(face, channel)
        finally:
            await server.stop(0)


async def test_a_job_is_created_once(house: House) -> None:
    file = await house.upload(conversations(10))
    more = {"metadata": {f"k{n}": "v" for n in range(8)}}
    made = await asyncio.gather(*(house.create(file.id, *ONCE, **more) for _ in range(10)))
    assert len({job.id for job in made}) == 1
    assert (await house.create(file.id)).id != made[0].id


async def test_a_key_of_another_request_is_refused(house: House) -> None:
    file = await house.upload(conversations(10))
    await house.create(file.id, *ONCE)
    code, _, trailers = await refused(house.create(file.id, *ONCE, seed=1))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert trailers["ftd-code"] == "idempotency_key_reused"


async def test_two_keys_and_what_is_none_are_refused(house: House) -> None:
    file = await house.upload(conversations(10))
    for metadata in ((*ONCE, ONCE[1]), (BEARER, ("idempotency-key", ""))):
        code, said, _ = await refused(house.create(file.id, *metadata))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "dempotency-" in said
        code, _, _ = await refused(house.upload(conversations(10), *metadata))
        assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_file_is_stored_once_whichever_face_it_comes_by(house: House) -> None:
    data = conversations(10)
    first, again = await house.upload(data, *ONCE), await house.upload(data, *ONCE)
    assert first.id == again.id
    async with house.face.http(headers={"Authorization": BEARER[1]}) as http:
        answer = await http.post(
            "/v1/files",
            files={"file": ("a.jsonl", data)},
            data={"purpose": "fine-tune"},
            headers={"Idempotency-Key": "one"},
        )
    assert answer.json()["id"] == first.id
    assert house.face.incoming() == []
    code, _, trailers = await refused(house.upload(conversations(11), *ONCE))
    assert (code, trailers["ftd-code"]) == (
        grpc.StatusCode.INVALID_ARGUMENT, "idempotency_key_reused",
    )  # fmt: skip
