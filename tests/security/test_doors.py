"""At the REST face's door without a right to be there: other sites, junk, the slow, crowds."""

import asyncio
import contextlib
import json
import re
import resource
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ftd import config
from ftd.api.rest import ledger, protocol, server
from ftd.api.rest.crowd import REFUSED_AT_ONCE
from tests.api.rest.face import BASE, KEY, Face, serving, until
from tests.security.routes import ROUTES

BEARER = f"Authorization: Bearer {KEY}\r\n"


@pytest.fixture
def settings(tmp_path: Path) -> config.Settings:
    return config.load(
        home=tmp_path / "home",
        hosts=("lab.example",),
        limits=config.Limits(upload_bytes=2**20, connections=64),
    )


@pytest.fixture
async def face(settings: config.Settings) -> AsyncIterator[Face]:
    async with serving(settings) as face:
        yield face


def ask(method: str, path: str, headers: str) -> bytes:
    return f"{method} {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n".encode()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def error(answer: bytes) -> dict[str, str | None]:
    found: dict[str, str | None] = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert found.keys() == {"message", "type", "param", "code"}
    return found


async def healthy(face: Face, within_s: float = 5) -> None:
    async with face.http() as http, asyncio.timeout(within_s):
        assert (await http.get("/healthz")).status_code == 200


# Other hosts, other sites


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_no_route_answers_for_another_host_or_page(
    face: Face, method: str, path: str
) -> None:
    """A page that was rebound to 127.0.0.1 names its own host, and its origin where it posts."""
    for headers, expected in (
        ("Host: evil.example\r\n", 421),
        ("Host: evil.example:8420\r\n", 421),
        ("Host: localhost.evil.example\r\n", 421),
        ("Host: lab.example\r\nOrigin: https://evil.example\r\n", 403),
        ("Host: localhost:8420\r\nOrigin: null\r\n", 403),
        ("Host: localhost\r\nOrigin: http://localhost:3000\r\n", 403),
    ):
        answer = await face.raw(ask(method, path, headers + BEARER))
        assert status(answer) == expected, headers
        assert error(answer)["type"] == "invalid_request_error"


OURS = (
    *("localhost", "LOCALHOST:8420", "localhost.", "127.0.0.1", "127.0.0.1:1", "[::1]"),
    *("[::1]:8420", "lab.example", "lab.example:443", "Lab.Example.:1"),
)


@pytest.mark.parametrize("host", OURS)
async def test_our_own_names_are_answered_with_any_port(face: Face, host: str) -> None:
    for origin in ("", f"Origin: http://{host}\r\n", f"Origin: https://{host}\r\n"):
        assert status(await face.raw(ask("GET", "/healthz", f"Host: {host}\r\n{origin}"))) == 200


NO_HOST = (
    "",
    "Host: localhost\r\nHost: localhost\r\n",
    "Host: localhost\r\nHost: evil.example\r\n",
    "Host:\r\n",
    "Host: evil/?\r\n",
    "Host: user@localhost\r\n",
    "Host: localhost:80:80\r\n",
    "Host: localhost, evil.example\r\n",
    "Host: [::1\r\n",
    "Host: local\thost\r\n",
)


@pytest.mark.parametrize("headers", NO_HOST)
async def test_a_host_that_is_missing_doubled_or_no_host(face: Face, headers: str) -> None:
    for version in (b"HTTP/1.1", b"HTTP/1.0"):
        asked = ask("GET", "/healthz", headers).replace(b"HTTP/1.1", version)
        assert status(await face.raw(asked)) == 400


async def test_other_headers_do_not_name_the_host(face: Face) -> None:
    for forged in ("X-Forwarded-Host", "Forwarded", "X-Host", "X-Original-URL", "X-Rewrite-URL"):
        headers = f"Host: evil.example\r\n{forged}: localhost\r\n"
        assert status(await face.raw(ask("GET", "/healthz", headers))) == 421
    headers = f"Host: evil.example/v1/models?\r\n{BEARER}"  # CVE-2026-48710
    assert status(await face.raw(ask("GET", "/healthz", headers))) == 400
    assert status(await face.raw(ask("GET", "http://localhost/healthz", "Host: evil\r\n"))) == 421


async def test_two_origins_are_none(face: Face) -> None:
    headers = "Host: localhost\r\nOrigin: http://localhost\r\nOrigin: http://evil.example\r\n"
    assert status(await face.raw(ask("GET", "/healthz", headers))) == 403


async def test_an_allowed_page_may_call_and_read(settings: config.Settings) -> None:
    opened = settings.model_copy(update={"origins": ("https://pages.example",)})
    async with serving(opened) as face:
        page = "Host: localhost\r\nOrigin: https://pages.example\r\n"
        answer = await face.raw(ask("GET", "/v1/models", page + BEARER))
        assert status(answer) == 200
        assert b"access-control-allow-origin: https://pages.example" in answer
        preflight = page + "Access-Control-Request-Method: POST\r\n"
        preflight += "Access-Control-Request-Headers: authorization\r\n"
        assert status(await face.raw(ask("OPTIONS", "/v1/fine_tuning/jobs", preflight))) == 200
        other = page.replace("pages", "evil")
        assert status(await face.raw(ask("GET", "/v1/models", other + BEARER))) == 403


# Junk

HOST = b"Host: localhost\r\n"
POST = b"POST /v1/fine_tuning/jobs HTTP/1.1\r\n" + HOST + BEARER.encode()
SMUGGLED = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
JUNK = {
    "no http": b"\x00\x01\x02\x03\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\r\n\r\n",
    "http/0.9": b"GET /healthz\r\n\r\n",
    "http/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http/3.0": b"GET /healthz HTTP/3.0\r\n" + HOST + b"\r\n",
    "spaces": b"GET  /healthz  HTTP/1.1\r\n" + HOST + b"\r\n",
    "null in path": b"GET /heal\x00thz HTTP/1.1\r\n" + HOST + b"\r\n",
    "null in name": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X\x00Y: 1\r\n\r\n",
    "null in value": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: a\x00b\r\n\r\n",
    "bare cr": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: a\rY: b\r\n\r\n",
    "no colon": b"GET /healthz HTTP/1.1\r\n" + HOST + b"nothing\r\n\r\n",
    "space before colon": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X : a\r\n\r\n",
    "obs-fold of a length": POST + b"Content-Length:\r\n 5\r\n\t6\r\n\r\nhello",
    "length and chunked": POST
    + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + SMUGGLED,
    "chunked and length": POST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 100\r\n\r\n0\r\n\r\n"
    + SMUGGLED,
    "two codings": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "a list of lengths": POST + b"Content-Length: 5, 6\r\n\r\nhello!",
    "a signed length": POST + b"Content-Length: +5\r\n\r\nhello",
    "a negative length": POST + b"Content-Length: -5\r\n\r\nhello",
    "a length of letters": POST + b"Content-Length: 0x5\r\n\r\nhello",
    "a length beyond any": POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\nhello",
    "an unknown coding": POST + b"Transfer-Encoding: gzip\r\n\r\nhello",
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "a chunk of no size": POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nhello\r\n0\r\n\r\n",
    "a negative chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
    "a chunk without end": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
    "a huge chunk size": POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 60 + b"\r\nhello",
    "an absolute url": b"GET http://evil.example/healthz HTTP/1.1\r\n" + HOST + b"\r\n",
    "connect": b"CONNECT evil.example:443 HTTP/1.1\r\n" + HOST + b"\r\n",
    "trace": b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n",
    "climbing": b"GET /v1/files/..%2f..%2f..%2fetc%2fpasswd/content HTTP/1.1\r\n" + HOST + b"\r\n",
    "10,000 headers": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: 1\r\n" * 10_000 + b"\r\n",
    "101 headers": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: 1\r\n" * 100 + b"\r\n",
    "a header of 5 MB": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 5_000_000,
    "a path of 100 kB": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "a query of 100 kB": b"GET /healthz?" + b"a&" * 50_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
}


@pytest.mark.parametrize("junk", JUNK)
async def test_junk_is_refused_and_nothing_behind_it_is_heard(
    face: Face, junk: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = b""
    # What is not read to its end may end in a reset, in which the answer is lost.
    with contextlib.suppress(ConnectionError):
        answer = await _all(face, JUNK[junk])
    statuses = re.findall(rb"^HTTP/1.1 (\d+) ", answer, flags=re.MULTILINE)
    assert all(400 <= int(status) < 500 for status in statuses), answer
    await healthy(face)
    assert not [record for record in caplog.records if record.exc_info]


async def _all(face: Face, sent: bytes) -> bytes:
    """What is answered until nothing more comes; the connection need not be closed for it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", face.server.port)
    try:
        writer.write(sent)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.transport.abort()


async def test_requests_in_one_breath_are_answered_one_by_one(face: Face) -> None:
    one = b"GET /healthz HTTP/1.1\r\n" + HOST
    answer = await face.raw((one + b"\r\n") * 200 + one + b"Connection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 ") == 201


RANGES = (
    "lines=1",
    "bytes=0-0",
    "bytes=-1",
    "bytes=9-1",
    "bytes=" + "0-" * 20_000,
    "bytes=" + ",".join("0-1" for _ in range(5000)),
    "bytes=" + ",".join(f"{n}-{n}" for n in range(5000)),
)


@pytest.mark.parametrize("ranges", RANGES)
async def test_ranges_cost_nothing(face: Face, ranges: str) -> None:
    """CVE-2025-62727: we know none, and answer the whole."""
    file_id = await face.put_result(b"x" * 10_000)
    async with face.http() as http:
        started = time.monotonic()
        answer = await http.get(
            f"/v1/files/{file_id}/content", params={"format": "csv"}, headers={"Range": ranges}
        )
    assert (answer.status_code, len(answer.content)) == (200, 10_000)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("path", ["/v1/files", "/v1/fine_tuning/jobs", "/v1/chat/completions"])
async def test_a_huge_form_where_none_is_wanted(face: Face, path: str) -> None:
    body = b"a=1&" * 100_000
    async with face.http() as http:
        answer = await http.post(
            path, content=body, headers={"Content-Type": "application/x-www-form-urlencoded"}
        )
    assert answer.status_code in (400, 413)


BOMBS = {
    "arrays": b"[" + b"[]," * 300_000 + b"[]]",
    "numbers": b"[" + b"1," * 400_000 + b"1]",
    "strings": b'["' + b'","' * 300_000 + b'"]',
    "deep objects": b'{"a":' * 200_000,
    "deep arrays": b"[" * 1_000_000,
    "quotes without end": b'{"' + b'\\"' * 400_000,
    "nothing": b" " * 1_000_000,
}


@pytest.mark.parametrize("body", BOMBS.values(), ids=BOMBS)
async def test_json_that_is_small_and_makes_much_is_refused(face: Face, body: bytes) -> None:
    async with face.http() as http:
        answer = await http.post(
            "/v1/chat/completions", content=body, headers={"Content-Type": "application/json"}
        )
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_json"


async def test_a_long_conversation_is_no_bomb(face: Face) -> None:
    text = 'He said: "a, b [c]: {d}" \\ and so on.\n' * 20_000
    body = {"model": BASE, "messages": [{"role": "user", "content": text}], "max_tokens": "no"}
    async with face.http() as http:
        answer = await http.post("/v1/chat/completions", json=body)
    assert answer.json()["error"]["param"] == "max_tokens"  # it was read as far as that


# Slow, and many


async def told(reader: asyncio.StreamReader) -> bytes:
    """One answer, by the length that it has."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    assert length is not None, head
    return head + await reader.readexactly(int(length[1]))


def upload(length: int) -> bytes:
    return (
        f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\n{BEARER}"
        f"Content-Type: multipart/form-data; boundary=m\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


async def test_a_body_that_trickles_is_cut_off(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "BODY_WINDOW_S", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", face.server.port)
    writer.write(upload(100_000))
    answering = asyncio.ensure_future(told(reader))  # and no end: it may be a reset by then
    while not answering.done():
        writer.write(b"-")
        await asyncio.sleep(0.02)
    answer = answering.result()
    writer.close()
    assert status(answer) == 408
    assert "too slowly" in str(error(answer)["message"])
    assert face.incoming() == []


async def test_a_slow_body_that_keeps_the_pace_arrives(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "BODY_WINDOW_S", 0.5)
    reader, writer = await asyncio.open_connection("127.0.0.1", face.server.port)
    writer.write(upload(40_000))
    for _ in range(40):  # four windows, at twenty times the pace of 1 KiB a second
        writer.write(b"-" * 1000)
        await asyncio.sleep(0.05)
    answer = await reader.readuntil(b"}}")
    writer.close()
    assert status(answer) == 400  # it was read to its end, and is no form


async def test_five_hundred_slow_heads_keep_nobody_waiting(
    settings: config.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_S", 1.0)
    roomy = settings.model_copy(update={"limits": config.Limits(connections=1024)})
    async with serving(roomy) as face:
        slow = [await asyncio.open_connection("127.0.0.1", face.server.port) for _ in range(500)]
        for _, writer in slow:
            writer.write(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
        await healthy(face, within_s=2)
        ends = await asyncio.gather(*(reader.read() for reader, _ in slow))
        assert set(ends) == {b""}
        for _, writer in slow:
            writer.close()


async def test_a_client_that_reads_nothing_is_hung_up_on(
    settings: config.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "UNREAD_S", 0.5)
    async with serving(settings) as face:
        file_id = await face.put_result(b"x" * 20_000_000)
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(deaf, ("127.0.0.1", face.server.port))
        asked = f"/v1/files/{file_id}/content"
        await loop.sock_sendall(deaf, ask("GET", asked, "Host: localhost\r\n" + BEARER))
        await until(lambda: face.observed, 20)
        assert face.observed[0][0] == "/v1/files/{file_id}/content"
        await healthy(face)
        deaf.close()


async def test_a_crowd_is_told_that_there_is_no_room_and_takes_no_descriptors(
    face: Face,
) -> None:
    """A thousand connections where 64 are allowed; and there is room again when they go."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    held = [await asyncio.open_connection("127.0.0.1", face.server.port) for _ in range(64)]
    await until(lambda: face.server.connections == 64)
    answer = await face.raw(b"")
    assert status(answer) == 503
    assert b"retry-after: " in answer
    assert "as many connections" in str(error(answer)["message"])
    crowd = []
    for _ in range(1000):
        with contextlib.suppress(ConnectionError):
            crowd.append(await asyncio.open_connection("127.0.0.1", face.server.port))
    await until(lambda: face.server.connections <= 64 + REFUSED_AT_ONCE)
    for _, writer in held + crowd:
        writer.transport.abort()
    await until(lambda: face.server.connections == 0)
    await healthy(face)


async def test_a_key_that_asks_too_much_is_told_when_to_ask_again(
    settings: config.Settings,
) -> None:
    strict = settings.model_copy(update={"limits": config.Limits(requests_per_minute=3)})
    async with serving(strict) as face, face.http() as http:
        for left in ("2", "1", "0"):
            answer = await http.get("/v1/models")
            assert answer.status_code == 200
            assert answer.headers["x-ratelimit-limit-requests"] == "3"
            assert answer.headers["x-ratelimit-remaining-requests"] == left
        refused = await http.get("/v1/models")
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 20
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert refused.json()["error"]["type"] == "requests"
        assert (await http.get("/healthz")).status_code == 200
        async with face.http(headers={}) as stranger:
            assert (await stranger.get("/v1/models")).status_code == 401
