"""Whoever is at the gRPC face's door with what is no gRPC, or with too much of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ftd import config
from ftd.api.grpc import gate, server
from ftd.host import certificates
from ftd.service import tenure
from ftd.v1 import files_pb2, files_pb2_grpc
from tests.api.grpc.fake_door import FakeDoor
from tests.api.grpc.serving import BEARER, Observed, drained, refused, served, until
from tests.api.rest.face import KEY as FACE_KEY
from tests.api.rest.face import serving
from tests.authority import Authority

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
PING = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8)
RESET = b"\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x08"
HEADERS = b"\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82"
CONTINUATION = b"\x00\x00\x01\x09\x00\x00\x00\x00\x01\x82"
JUNK = {
    "http/1.1": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "nulls": bytes(100_000),
    "a preface alone": PREFACE,
    "a frame of 16 MB": PREFACE + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + bytes(1000),
    "settings without end": PREFACE + SETTINGS * 20_000,
    "pings without end": PREFACE + SETTINGS + PING * 20_000,
    "resets of nothing": PREFACE + SETTINGS + RESET * 5000,
    "continuations": PREFACE + SETTINGS + HEADERS + CONTINUATION * 20_000,
}


@pytest.mark.parametrize("junk", JUNK)
async def test_junk_is_hung_up_on_and_others_are_served(tmp_path: Path, junk: str) -> None:
    async with served(tmp_path, tcp=("127.0.0.1:0",)) as (_, faced, channel):
        host, _, port = faced.tcp_addresses[0].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        with contextlib.suppress(ConnectionError, TimeoutError):
            writer.write(JUNK[junk])
            await asyncio.wait_for(reader.read(), 0.5)
        writer.transport.abort()
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    "metadata", [(("x", "y" * 100_000),), tuple((f"x{n}", "y" * 100) for n in range(1000))]
)
async def test_metadata_beyond_the_limit_is_refused(
    tmp_path: Path, metadata: tuple[tuple[str, str], ...]
) -> None:
    async with served(tmp_path) as (_, _, channel):
        call = channel.unary_unary("/ftd.v1.Node/ListDevices")(b"", metadata=BEARER + metadata)
        code, _, _ = await refused(call)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("method", ["/ftd.v1.Jobs/Nothing", "/ftd.v1.Nothing/GetJob", "/x", "/"])
async def test_a_call_that_is_not_there_is_unimplemented(tmp_path: Path, method: str) -> None:
    async with served(tmp_path) as (_, _, channel):
        code, _, _ = await refused(channel.unary_unary(method)(b"", metadata=BEARER))
        assert code is grpc.StatusCode.UNIMPLEMENTED


async def test_calls_begun_and_cancelled_at_once_hold_nothing(tmp_path: Path) -> None:
    """Rapid reset: two thousand on one connection, and then one that is answered."""
    async with served(tmp_path) as (_, _, channel):
        ask = channel.unary_unary("/ftd.v1.Node/ListDevices")
        for _ in range(20):
            calls = [ask(b"", metadata=BEARER) for _ in range(100)]
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(await ask(b"", metadata=BEARER, timeout=10), bytes)


async def test_who_pings_too_often_is_hung_up_on(tmp_path: Path) -> None:
    async with served(tmp_path, tcp=("127.0.0.1:0",)) as (_, faced, channel):
        host, _, port = faced.tcp_addresses[0].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(PREFACE + SETTINGS + PING * 100)
        assert b"too_many_pings" in await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert await works(channel)


# Slow, and many

PLACES = 8


async def nothing() -> AsyncIterator[bytes]:
    """Messages of a client that says that there will be some."""
    await asyncio.Event().wait()
    yield b""


async def works(channel: grpc.aio.Channel) -> bool:
    ask = channel.unary_unary("/ftd.v1.Node/ListDevices")
    return isinstance(await ask(b"", metadata=BEARER, timeout=5), bytes)


@contextlib.asynccontextmanager
async def begun(calls: list[Any]) -> AsyncIterator[list[Any]]:
    """Calls that are waited on, and cancelled at the end."""
    reading = [asyncio.ensure_future(call.read()) for call in calls]
    yield calls
    for call in calls:
        call.cancel()
    await asyncio.gather(*reading, return_exceptions=True)


@pytest.mark.parametrize("method", ["Jobs/GetJob", "Jobs/WatchEvents", "Files/UploadFile"])
async def test_strangers_are_refused_before_a_message_has_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Else what they never send would hold the places of others."""
    monkeypatch.setattr(server, "MAX_CALLS", PLACES)
    async with served(tmp_path) as (_, _, channel):
        call = channel.stream_stream(f"/ftd.v1.{method}")
        async with begun([call(nothing()) for _ in range(PLACES)]) as calls, asyncio.timeout(5):
            for one in calls:
                assert await one.code() is grpc.StatusCode.UNAUTHENTICATED
        assert await works(channel)


@pytest.mark.parametrize("method", ["Jobs/GetJob", "Jobs/WatchEvents", "Files/UploadFile"])
async def test_a_message_that_does_not_come_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(gate, "MESSAGE_S", 0.05)
    async with served(tmp_path) as (_, _, channel):
        call = channel.stream_stream(f"/ftd.v1.{method}")(nothing(), metadata=BEARER)
        async with begun([call]), asyncio.timeout(5):
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_an_upload_that_stalls_is_cut_off_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stalling() -> AsyncIterator[bytes]:
        header = files_pb2.UploadHeader(filename="a.jsonl", purpose="fine-tune", bytes=100)
        yield files_pb2.UploadFileRequest(header=header).SerializeToString()
        yield files_pb2.UploadFileRequest(chunk=b"{").SerializeToString()
        await asyncio.Event().wait()

    monkeypatch.setattr(gate, "MESSAGE_S", 0.2)
    async with served(tmp_path) as (door, _, channel):
        call = channel.stream_stream("/ftd.v1.Files/UploadFile")(stalling(), metadata=BEARER)
        async with begun([call]), asyncio.timeout(5):
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert (door.files.uploads, door.files.open_uploads) == (1, 0)


async def waiting_to_be_read(
    door: FakeDoor, channel: grpc.aio.Channel
) -> "grpc.aio.UnaryStreamCall[Any, Any]":
    """A content of which the client has read the beginning, and the server cannot write more."""
    door.files.add("file-1", bytes(2**24))
    request = files_pb2.GetFileContentRequest(id="file-1")
    call = files_pb2_grpc.FilesStub(channel).GetFileContent(request, metadata=BEARER)
    assert (await anext(aiter(call))).data
    return call


async def test_a_content_that_waits_to_be_read_ends_with_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenure, "LOOK_S", 0.02)
    heard = Observed()
    async with served(tmp_path, observe=heard) as (door, _, channel):
        call = await waiting_to_be_read(door, channel)
        door.keys.held = False
        await until(lambda: door.keys.missed)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(drained(call), 5)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert heard.codes() == [("GetFileContent", "UNAUTHENTICATED")]


async def test_who_leaves_what_waits_to_be_read_has_cancelled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Observed()
    async with served(tmp_path, observe=heard) as (door, _, channel):
        call = await waiting_to_be_read(door, channel)
        call.cancel()
        await until(lambda: heard != [])
        assert await works(channel)
    assert heard.codes()[0] == ("GetFileContent", "CANCELLED")
    assert caplog.text == ""


async def test_one_key_leaves_places_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "KEY_CALLS", 2)
    heard = Observed()
    async with served(tmp_path, observe=heard) as (door, _, channel):
        call = channel.stream_stream("/ftd.v1.Jobs/GetJob")
        door.keys.key_id = "one"
        async with begun([call(nothing(), metadata=BEARER) for _ in range(3)]) as calls:
            await until(lambda: any(call.done() for call in calls))
            (third,) = (call for call in calls if call.done())
            assert await third.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            door.keys.key_id = "another"
            assert await works(channel)
        await until(lambda: sum(method == "GetJob" for method, _ in heard.codes()) == 3)
        door.keys.key_id = "one"
        assert await works(channel)


def header(name: str, value: str) -> bytes:
    """By RFC 7541, 6.2.2: a literal of a new name, not indexed, in plain letters."""
    return b"".join((b"\0", *(bytes([len(text)]) + text.encode() for text in (name, value))))


def unread(path: str, calls: int, **metadata: str) -> bytes:
    """So many calls with an empty message, of a client that lets nobody send it an answer."""
    told = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost"}
    told |= {"content-type": "application/grpc", "te": "trailers"} | metadata
    block = b"".join(header(name, value) for name, value in told.items())
    data = PREFACE + b"\0\0\x06\x04\0" + bytes(4) + b"\0\x04" + bytes(4)  # a window of 0
    for stream in range(1, 2 * calls, 2):
        number = stream.to_bytes(4, "big")
        data += len(block).to_bytes(3, "big") + b"\x01\x04" + number + block
        data += b"\0\0\x05\0\x01" + number + bytes(5)
    return data


async def answered_stream(reader: asyncio.StreamReader) -> int:
    """The stream of the next answer that begins: its head comes, window or not."""
    while True:
        head = await reader.readexactly(9)
        await reader.readexactly(int.from_bytes(head[:3], "big"))
        if head[3] == 1:  # HEADERS
            return int.from_bytes(head[5:], "big")


@pytest.mark.parametrize(
    ("path", "key_id"),
    [("/grpc.health.v1.Health/Check", None), ("/ftd.v1.Node/ListDevices", "one")],
)
async def test_who_reads_no_answer_holds_no_more_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, key_id: str | None
) -> None:
    """An answer is sent when its handler has ended, and only as far as the client lets it."""
    monkeypatch.setattr(server, "MAX_CALLS", PLACES)
    monkeypatch.setattr(gate, "STRANGERS", 2)
    monkeypatch.setattr(gate, "KEY_CALLS", 2)
    async with served(tmp_path) as (door, _, channel):
        door.keys.key_id = key_id
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(unread(path, PLACES, **({} if key_id is None else dict(BEARER))))
        async with asyncio.timeout(5):
            answered = {await answered_stream(reader)}
            while len(answered) < PLACES:
                answered.add(await answered_stream(reader))
        door.keys.key_id = "another"
        assert await works(channel)
        writer.close()


async def test_the_homes_own_key_has_all_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "KEY_CALLS", 0)
    async with served(tmp_path) as (_, _, channel):
        assert await works(channel)


WITHOUT_A_KEY: dict[str, Callable[[], Any]] = {
    "health.v1.Health/Check": nothing,
    "health.v1.Health/Watch": lambda: iter([b""]),
    "reflection.v1alpha.ServerReflection/ServerReflectionInfo": nothing,
}


@pytest.mark.parametrize("method", WITHOUT_A_KEY)
async def test_calls_that_need_no_key_crowd_out_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(server, "MAX_CALLS", PLACES)
    monkeypatch.setattr(gate, "STRANGERS", 2)
    async with served(tmp_path) as (_, _, channel):
        call = channel.stream_stream(f"/grpc.{method}")
        async with begun([call(WITHOUT_A_KEY[method]()) for _ in range(3 * PLACES)]) as calls:
            await until(lambda: sum(call.done() for call in calls) == 3 * PLACES - 2)
            assert await works(channel)


async def test_a_key_that_asks_too_much_is_told_so_by_both_doors(tmp_path: Path) -> None:
    """It has one bucket for them together."""
    strict = config.load(home=tmp_path / "home", limits=config.Limits(requests_per_minute=2))
    async with serving(strict) as face:
        bearer = (("authorization", f"Bearer {FACE_KEY}"),)
        path = tmp_path / "s"
        second = await server.serve(face.door, unix_path=path, tcp=(), observe=Observed())
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel, face.http() as http:
            call = channel.unary_unary("/ftd.v1.Models/ListModels")
            assert (await http.get("/v1/models")).status_code == 200
            assert isinstance(await call(b"", metadata=bearer), bytes)
            assert (await http.get("/v1/models")).status_code == 429
            code, message, said = await refused(call(b"", metadata=bearer))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert message.startswith("Rate limit reached for requests per minute: 2.")
            assert said["ftd-code"] == "rate_limit_exceeded"
            assert said["grpc-retry-pushback-ms"] == "30000"
            code, _, _ = await refused(call(b""))
            assert code is grpc.StatusCode.UNAUTHENTICATED
        await second.stop(0)


@pytest.mark.parametrize("tls", [False, True])
async def test_silent_connections_are_counted_and_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls: bool
) -> None:
    """Before there is TLS, or a word of HTTP/2, with them."""
    monkeypatch.setattr(server, "HANDSHAKE_S", 1)
    authority = Authority(tmp_path / "ca")
    door = FakeDoor(tmp_path)
    door.settings = config.Settings(home=tmp_path, limits=config.Limits(connections=16))
    identity = certificates.read(authority.tls()) if tls else None
    trust = grpc.ssl_channel_credentials(authority.ca.read_bytes())
    faced = await server.serve(
        door, unix_path=tmp_path / "s", tcp=("127.0.0.1:0",), observe=Observed(), identity=identity
    )
    (address,) = faced.tcp_addresses
    host, _, port = address.rpartition(":")
    silent = [await asyncio.open_connection(host, int(port)) for _ in range(16)]
    beyond = await asyncio.open_connection(host, int(port))
    assert await asyncio.wait_for(beyond[0].read(), 5) == b""
    for reader, _ in silent:
        await asyncio.wait_for(reader.read(), 5)
    async with (
        grpc.aio.secure_channel(address, trust) if tls else grpc.aio.insecure_channel(address)
    ) as channel:
        assert await works(channel)
    for _, writer in [*silent, beyond]:
        writer.close()
    await faced.stop(0)
