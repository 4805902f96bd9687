"""Whoever is at the gRPC face's door with what is no gRPC, or with too much of it."""

import asyncio
import contextlib
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.api.grpc.serving import BEARER, refused, served

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
    async with served(tmp_path, tcp=("127.0.0.1:0",)) as (_, server, channel):
        host, _, port = server.tcp_addresses[0].rpartition(":")
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
