"""What a key has begun, when the key is revoked or expires: it ends over either face."""

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx2
import pytest
import pytest_asyncio

from ftd import config
from ftd.api.grpc.server import serve
from ftd.core import chat
from ftd.core.errors import FtdError
from ftd.core.file import FINE_TUNE
from ftd.core.keys import Scope
from ftd.service import tenure
from ftd.service.actor import Actor
from ftd.service.jobs import CreateJob
from ftd.service.keys import CreateKey
from ftd.v1 import chat_pb2, chat_pb2_grpc, jobs_pb2, jobs_pb2_grpc, keys_pb2, keys_pb2_grpc
from tests.api.grpc.serving import drained
from tests.api.rest import scripted
from tests.api.rest.face import BASE, Face, HandClock, conversations, serving, until

OURS = Actor(project="default", name="admin")
EXPIRES_S = 3600


async def endless(request: chat.Generate) -> AsyncIterator[chat.Answer | FtdError]:
    yield chat.Began(id=request.id, prompt_tokens=1, cached_tokens=0)
    yield scripted.piece(request, "And")
    await asyncio.Event().wait()


@pytest_asyncio.fixture
async def face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Face]:
    monkeypatch.setattr(tenure, "LOOK_S", 0.02)
    async with serving(config.load(home=tmp_path / "home")) as face:
        face.pool.script = endless
        yield face


@pytest_asyncio.fixture
async def channel(face: Face, tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    server = await serve(face.door, unix_path=tmp_path / "s", tcp=(), observe=lambda *_: None)
    async with grpc.aio.insecure_channel(f"unix:{tmp_path / 's'}") as channel:
        yield channel
    await server.stop(0)


@pytest_asyncio.fixture
async def key(face: Face) -> str:
    request = CreateKey(name="a", scopes=tuple(Scope), expires_after_s=EXPIRES_S)
    return (await face.door.keys.create(OURS, request)).token


async def revoke(face: Face, key: str) -> None:
    await face.door.keys.revoke(OURS, key.split("_")[1])


async def expire(face: Face, key: str) -> None:
    clock = face.store.clock
    assert isinstance(clock, HandClock)
    clock.time += EXPIRES_S


ENDS = pytest.mark.parametrize("end", [revoke, expire])


def shown(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


async def a_job(face: Face) -> str:
    """One that is not over, and has told of its creation."""
    form = {"file": ("a.jsonl", conversations(10)), "purpose": (None, FINE_TUNE)}
    async with face.http() as http:
        file = (await http.post("/v1/files", files=form)).json()["id"]
    return (await face.door.jobs.create(OURS, CreateJob(model=BASE, training_file=file))).id


async def code_of(call: AsyncIterable[object]) -> grpc.StatusCode:
    """With which the call ends."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(drained(call), 5)
    return caught.value.code()


@ENDS
async def test_an_answer_over_rest_breaks_off(
    face: Face, key: str, end: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    body = {"model": BASE, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    async with (
        face.http(headers={"Authorization": f"Bearer {key}"}) as http,
        http.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        parts = answer.aiter_bytes()
        assert b"chat.completion.chunk" in await anext(parts)
        await end(face, key)
        with pytest.raises(httpx2.RemoteProtocolError):
            await asyncio.wait_for(drained(parts), 5)
    await until(lambda: face.pool.open == 0)  # nobody goes on with it
    ours, *others = [record for record in caplog.records if record.name.startswith(("ftd", "uvi"))]
    assert (ours.message, others) == ("answer broken off", [])
    assert vars(ours)["why"] == "UNAUTHENTICATED"


@ENDS
async def test_an_upload_over_rest_is_refused(face: Face, key: str, end: Any) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", face.server.port)
    writer.write(
        f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
        "Content-Type: multipart/form-data; boundary=m\r\nContent-Length: 1000\r\n\r\n".encode()
    )
    await until(face.incoming)
    await end(face, key)
    assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 401 ")
    await until(lambda: face.incoming() == [])
    writer.close()


@ENDS
async def test_events_that_nobody_writes_end(
    face: Face, channel: grpc.aio.Channel, key: str, end: Any
) -> None:
    """Though nothing happens to the job in which the key would be looked at."""
    request = jobs_pb2.WatchEventsRequest(job_id=await a_job(face))
    stub: Any = jobs_pb2_grpc.JobsStub(channel)
    call = stub.WatchEvents(request, metadata=shown(key))
    messages = aiter(call)
    assert (await anext(messages)).message.startswith("Created fine-tuning job")
    await end(face, key)
    assert await code_of(messages) is grpc.StatusCode.UNAUTHENTICATED


@ENDS
async def test_an_answer_over_grpc_ends(
    face: Face, channel: grpc.aio.Channel, key: str, end: Any
) -> None:
    request = chat_pb2.CompleteRequest(model=BASE)
    request.chat.messages.add(role="user", content="hi")
    stub: Any = chat_pb2_grpc.ChatStub(channel)
    call = stub.Complete(request, metadata=shown(key))
    messages = aiter(call)
    assert (await anext(messages)).HasField("began")
    await end(face, key)
    assert await code_of(messages) is grpc.StatusCode.UNAUTHENTICATED
    await until(lambda: face.pool.open == 0)


async def test_a_key_that_revokes_itself_hears_of_it(
    channel: grpc.aio.Channel, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenure, "LOOK_S", 1.0)
    stub: Any = keys_pb2_grpc.KeysStub(channel)
    request = keys_pb2.RevokeKeyRequest(id=key.split("_")[1])
    assert (await stub.RevokeKey(request, metadata=shown(key))).revoked_at


async def test_streams_of_other_keys_go_on(face: Face, channel: grpc.aio.Channel, key: str) -> None:
    other = (await face.door.keys.create(OURS, CreateKey(name="b"))).token
    job = await a_job(face)
    stub: Any = jobs_pb2_grpc.JobsStub(channel)
    calls = [
        stub.WatchEvents(jobs_pb2.WatchEventsRequest(job_id=job), metadata=shown(one))
        for one in (key, other)
    ]
    theirs, others = map(aiter, calls)
    for messages in (theirs, others):
        await anext(messages)
    await revoke(face, key)
    assert await code_of(theirs) is grpc.StatusCode.UNAUTHENTICATED
    await face.door.jobs.cancel(OURS, job)
    assert await anext(others)
