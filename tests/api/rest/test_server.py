"""Our socket, our signals, and an end that comes."""

import asyncio
import signal
import socket
import time

import pytest

from ftd import config
from ftd.api.rest.server import serve
from ftd.core.errors import FtdError, Kind
from tests.api.rest.face import KEY, Face, serving, until


def nothing(*_: object) -> None:
    """Observes nothing."""


async def test_a_taken_port_is_said_so(face: Face) -> None:
    with pytest.raises(
        FtdError, match=r"cannot listen on 127\.0\.0\.1:\d+: Address already in use"
    ) as caught:
        await serve(face.door, "127.0.0.1", face.server.port, nothing)
    assert caught.value.kind is Kind.UNAVAILABLE


async def test_an_address_that_does_not_exist(face: Face) -> None:
    with pytest.raises(FtdError, match="The REST face cannot listen on"):
        await serve(face.door, "no such host", 0, nothing)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
async def test_only_loopback_is_served_in_clear(face: Face, host: str) -> None:
    with pytest.raises(FtdError, match=r"in clear.*\[tls\]") as caught:
        await serve(face.door, host, 0, nothing)
    assert caught.value.kind is Kind.INVALID


async def test_the_port_is_free_again_at_once(settings: config.Settings) -> None:
    async with serving(settings) as face:
        port = face.server.port
        async with face.http() as http:
            assert (await http.get("/healthz")).status_code == 200
    again = await serve(face.door, "127.0.0.1", port, nothing)
    assert again.port == port
    await again.stop()


async def test_signals_stay_the_daemons(face: Face) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    other = await serve(face.door, "127.0.0.1", 0, nothing)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    await other.stop()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


async def test_the_end_comes_though_requests_are_open(settings: config.Settings) -> None:
    async with serving(settings) as face:
        idle = await asyncio.open_connection("127.0.0.1", face.server.port)
        uploading = await asyncio.open_connection("127.0.0.1", face.server.port)
        uploading[1].write(
            f"POST /v1/files HTTP/1.1\r\nHost: ftd\r\nAuthorization: Bearer {KEY}\r\n"
            "Content-Type: multipart/form-data; boundary=m\r\nContent-Length: 100\r\n\r\n".encode()
        )
        await until(face.incoming)
        started = time.monotonic()
        await face.server.stop()
        assert time.monotonic() - started < 3
        assert face.incoming() == []  # the upload has cleaned up behind itself
        for _, writer in (idle, uploading):
            writer.close()
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", face.server.port)


async def test_an_address_of_the_other_family(face: Face) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        server = await serve(face.door, "::1", 0, nothing)
    except FtdError:
        pytest.skip("no IPv6 loopback here")
    reader, writer = await asyncio.open_connection("::1", server.port)
    writer.write(b"GET /metrics HTTP/1.0\r\nHost: [::1]\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    writer.close()
    await server.stop()
