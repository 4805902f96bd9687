"""Heads of HTTP/2 that once ended a gRPC server, or cost it its memory and time: by hand."""

import asyncio
import contextlib
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.api.grpc.serving import served

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, ACKNOWLEDGED = (
    b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    b"\x00\x00\x00\x04\x01\x00\x00\x00\x00",
)
HEADERS, CONTINUATION = 1, 9
END_STREAM, END_HEADERS = 1, 4
STREAM = b"\x00\x00\x00\x01"
FRAME_BYTES = 16_000  # less than what a peer must take


def number(value: int) -> bytes:
    """An integer of HPACK, in a byte that has seven bits for it and as many more as it takes."""
    if value < 127:
        return bytes([value])
    rest, said = value - 127, b"\x7f"
    while rest > 127:
        said, rest = said + bytes([rest & 127 | 128]), rest >> 7
    return said + bytes([rest])


def text(value: bytes) -> bytes:
    return number(len(value)) + value


def header(name: bytes, value: bytes) -> bytes:
    """One that goes into no table."""
    return b"\x00" + text(name) + text(value)


def frames(block: bytes, *, ends: bool = True) -> bytes:
    """A block of headers on stream 1, in as many frames as it takes; with `ends` no data follow."""
    pieces = [block[at : at + FRAME_BYTES] for at in range(0, len(block), FRAME_BYTES)] or [b""]
    said = b""
    for at, piece in enumerate(pieces):
        flags = END_HEADERS if at == len(pieces) - 1 else 0
        flags |= END_STREAM if at == 0 and ends else 0
        kind = CONTINUATION if at else HEADERS
        said += len(piece).to_bytes(3, "big") + bytes([kind, flags]) + STREAM + piece
    return said


CALL = (
    header(b":method", b"POST") + header(b":path", b"/ftd.v1.Node/ListDevices")
    + header(b":authority", b"localhost") + header(b"content-type", b"application/grpc")
)  # fmt: skip
SCHEME, TE = header(b":scheme", b"http"), header(b"te", b"trailers")
LONG = header(b"x-long", b"y" * 10_000)
BLOCKS = {
    # CVE-2023-1428: each of these, and then more than 8 KiB.
    "te": CALL + SCHEME + header(b"te", b"x") + LONG,
    "scheme": CALL + TE + header(b":scheme", b"x") + LONG,
    "grpclb_client_stats": CALL + SCHEME + TE + header(b"grpclb_client_stats", b"x") + LONG,
    # CVE-2023-33953: what is buffered before it is found too long, and numbers of endless zeros.
    "a value of 4 GiB": CALL + SCHEME + b"\x00" + text(b"x") + number(2**32 - 1) + b"y" * 100_000,
    "endless zeros": CALL + SCHEME + b"\x00\x7f" + b"\x80" * 200_000 + b"\x00x",
    "one header after the other": CALL + SCHEME + TE + header(b"a", b"b") * 200_000,
    # CVE-2023-32731 and -32732: a table that the two ends do not agree on.
    "a table of 4 GiB": b"\x3f" + b"\xff" * 4 + b"\x0f" + CALL,
    "a place that is not in the table": CALL + SCHEME + b"\xff\xff\xff\xff\x0f",
    "half a code": CALL + SCHEME + b"\x00\x81\xff" + text(b"x"),
    "no path": SCHEME + TE,
    "two paths": CALL + CALL,
    "nothing": b"",
    "bytes": bytes(range(256)) * 20,
}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
async def test_a_head_ends_nobody_but_its_own_connection(tmp_path: Path, block: bytes) -> None:
    async with served(tmp_path, tcp=("127.0.0.1:0",)) as (_, server, channel):
        host, _, port = server.tcp_addresses[0].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        with contextlib.suppress(ConnectionError, TimeoutError):
            writer.write(PREFACE + SETTINGS + ACKNOWLEDGED + frames(block))
            await asyncio.wait_for(reader.read(), 0.3)
        answer = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=5
        )
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        writer.transport.abort()


async def test_a_good_head_is_answered(tmp_path: Path) -> None:
    """Or these tests would prove nothing: the call is refused for its key alone."""
    async with served(tmp_path, tcp=("127.0.0.1:0",)) as (_, server, _channel):
        host, _, port = server.tcp_addresses[0].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        message = b"\x00\x00\x05\x00\x01" + STREAM + bytes(5)
        head = frames(CALL + SCHEME + TE, ends=False)
        writer.write(PREFACE + SETTINGS + ACKNOWLEDGED + head + message)
        answer = b""
        async with asyncio.timeout(5):
            while b"ftd-kind" not in answer:
                answer += await reader.read(4096)
        writer.transport.abort()
    assert b"UNAUTHENTICATED" in answer
