"""What comes over the wire and is not what it says: forms, chunks, ranges, hosts, names.

The holes of others that these are about are named where a test has one in mind.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ftd import config
from ftd.core.job import State
from ftd.service.actor import Actor
from ftd.service.jobs import CreateJob
from tests.api.rest.face import BASE, KEY, Face, conversations, serving
from tests.fuzz import mutated, seeded, seeds
from tests.security.routes import ROUTES

BEARER = f"Authorization: Bearer {KEY}\r\n"
HEAD = b"Host: localhost\r\n" + BEARER.encode()
SMUGGLED = b"GET /v1/models HTTP/1.1\r\n" + HEAD + b"Connection: close\r\n\r\n"
FORM = "multipart/form-data; boundary=mark"
QUICK_S = 5.0
UNANSWERED_S = 1.0  # after which a request that is waited for is none that was heard
JOBS, MODELS = "/v1/fine_tuning/jobs", "/v1/models"
ADMIN = Actor(project="default", name="admin")


@pytest.fixture
async def face(tmp_path: Path) -> AsyncIterator[Face]:
    limits = config.Limits(upload_bytes=2**20, requests_per_minute=0)
    async with serving(config.load(home=tmp_path / "home", limits=limits)) as face:
        yield face


def statuses(answer: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"^HTTP/1.1 (\d+) ", answer, flags=re.MULTILINE)]


async def say(face: Face, sent: bytes) -> bytes:
    """What is answered until nothing more comes; a reset may take the answer along."""
    reader, writer = await asyncio.open_connection("127.0.0.1", face.server.port)
    try:
        writer.write(sent)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), QUICK_S)
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


async def behind(face: Face, sent: bytes) -> list[str]:
    """Which routes were asked for by what was sent before and with SMUGGLED.

    Our end stays open: to hang up would have the server drop what it has not answered yet.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", face.server.port)
    try:
        writer.write(sent + SMUGGLED)
        with contextlib.suppress(TimeoutError, ConnectionError):
            answer = await asyncio.wait_for(reader.read(), UNANSWERED_S)
            assert all(status < 500 or status == 501 for status in statuses(answer)), answer
    finally:
        writer.transport.abort()
    return [route for route, *_ in face.observed]


# Forms


def part(name: str, body: bytes, *more: str, filename: str | None = None) -> bytes:
    """One part of a form; `more` are headers of it."""
    said = f'Content-Disposition: form-data; name="{name}"'
    said += "" if filename is None else f'; filename="{filename}"'
    head = "\r\n".join([said, *more]).encode("utf-8", "surrogateescape")
    return b"--mark\r\n" + head + b"\r\n\r\n" + body + b"\r\n"


PURPOSE = part("purpose", b"fine-tune")
FILE = part("file", conversations(10), filename="a.jsonl")
END = b"--mark--\r\n"
GOOD = PURPOSE + FILE + END
# CVE-2024-24762 and CVE-2026-28356: options on which an expression goes back and forth for hours.
OPTIONS = {
    "escapes": 'multipart/form-data; boundary="' + "\\" * 30_000,
    "escaped quotes": 'multipart/form-data; boundary="' + '\\"' * 15_000,
    "marks": "multipart/form-data; !=" + '"' + "\\!" * 15_000,
    "semicolons": "multipart/form-data" + "; " * 15_000 + "a",
    "spaces": "multipart/form-data;" + " " * 30_000 + "=",
    "equals": "multipart/form-data; a" + "=" * 30_000,
    "options": "multipart/form-data; " + "; ".join(f"a{n}=b" for n in range(5000)),
    "urlencoded": "application/x-www-form-urlencoded; !=" + '"' + "\\" * 30_000,
    "no latin": "multipart/form-data; boundary*=UTF-8''%E2%82%AC%00",
    "no end": "multipart/form-data; boundary*=UTF-8''%E2%80",
    "an unknown charset": "multipart/form-data; boundary*=rot13''abc",
    "line ends": "multipart/form-data; boundary*=UTF-8''a%0D%0Ab",
}


@pytest.mark.parametrize("content_type", OPTIONS.values(), ids=OPTIONS)
async def test_a_content_type_costs_no_time(face: Face, content_type: str) -> None:
    async with face.http() as http:
        started = time.monotonic()
        answer = await http.post(
            "/v1/files", content=GOOD, headers={"Content-Type": content_type.encode()}
        )
    assert answer.status_code == 400
    assert time.monotonic() - started < QUICK_S
    assert face.incoming() == []


HEADS = {
    "escapes": 'Content-Disposition: form-data; name="' + "\\" * 4000,
    "escaped quotes": 'Content-Disposition: form-data; name="' + '\\"' * 2000,
    "semicolons": "Content-Disposition: form-data" + "; " * 2000,
    "an unknown charset": "Content-Disposition: form-data; name=file; filename*=rot13''abc.jsonl",
    "half a character": "Content-Disposition: form-data; name=file; filename*=UTF-8''%E2%80.jsonl",
    "bytes": "Content-Disposition: form-data; name=file; filename=\udcff\udcfe.jsonl",
    "no form-data": "Content-Disposition: attachment; name=file; filename=a.jsonl",
    "no name": "Content-Disposition: form-data; filename=a.jsonl",
    "two": "Content-Disposition: form-data; name=a\r\nContent-Disposition: form-data; name=file",
    "a length": "Content-Disposition: form-data; name=file; filename=a.jsonl\r\nContent-Length: 1",
}
FORMS = {
    **{f"a part with {name}": b"--mark\r\n" + head.encode("utf-8", "surrogateescape")
       + b"\r\n\r\nx\r\n" + END for name, head in HEADS.items()},
    "a part of many headers": PURPOSE + part("file", b"", *["X: y"] * 5000, filename="a") + END,
    "a part of one long header": PURPOSE + part("file", b"", "X: " + "y" * 500_000) + END,
    "10,000 parts": part("x", b"") * 10_000 + END,
    "a form in a form": PURPOSE + part(
        "file", b"--in\r\nContent-Disposition: file; filename=a\r\n\r\nx\r\n--in--\r\n",
        "Content-Type: multipart/mixed; boundary=in",
    ) + END,
    "a long preamble": b"x" * 900_000 + b"\r\n" + GOOD,
    "line ends before it": b"\r\n" * 400_000 + GOOD,
    "returns before it": b"\r" * 900_000 + GOOD,
    "dashes before it": b"--mar" * 150_000 + GOOD,
    "a long epilogue": GOOD + b"x" * 900_000,
    "line ends behind it": GOOD + b"\r\n" * 400_000,
    "no end": PURPOSE + FILE,
    "two files": PURPOSE + FILE + FILE + END,
    "bare line ends": (PURPOSE + FILE + END).replace(b"\r\n", b"\n"),
    "null": bytes(100_000),
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("body", FORMS.values(), ids=FORMS)
async def test_a_form_that_is_none_leaves_nothing_and_costs_no_time(
    face: Face, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """CVE-2024-53981, CVE-2026-40347, CVE-2026-42561."""
    async with face.http() as http:
        started = time.monotonic()
        answer = await http.post("/v1/files", content=body, headers={"Content-Type": FORM})
        assert answer.status_code == 400, answer.text
        assert time.monotonic() - started < QUICK_S
        assert (await http.get("/v1/files")).json()["data"] == []
    assert face.incoming() == []
    assert not [record for record in caplog.records if record.exc_info]


async def test_forms_that_are_nearly_good(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    async with face.http() as http:
        for seed in seeds(60):
            with seeded(seed) as chance:
                body = GOOD
                for _ in range(chance.randrange(1, 4)):
                    body = mutated(body, chance, [b"--mark", b"\r\n\r\n", END, b'"; name="'])
                answer = await http.post("/v1/files", content=body, headers={"Content-Type": FORM})
                assert answer.status_code in (200, 400), answer.text
    assert face.incoming() == []
    assert not [record for record in caplog.records if record.exc_info]


NAMES = (
    "../../../etc/passwd.jsonl", "/etc/passwd.jsonl", "..\\..\\x.jsonl", "C:\\x.jsonl",
    "a\x00b.jsonl", "con.jsonl", "~root.jsonl", "$(touch x).jsonl", "-rf.jsonl", ".jsonl",
    "x" * 200 + ".jsonl", "\u202egnp.jsonl", "a%2f..%2fb.jsonl", "\u062f\u0627\u062f\u0647.jsonl",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
async def test_a_files_name_is_text_and_no_path(face: Face, name: str) -> None:
    """CVE-2026-24486: what is uploaded lies under an id of ours, whatever it is called."""
    async with face.http() as http:
        body = PURPOSE + part("file", conversations(10), filename=name) + END
        answer = await http.post("/v1/files", content=body, headers={"Content-Type": FORM})
        assert answer.status_code == 200, answer.text
        file = answer.json()
        assert not set("/\\\0\r\n") & set(file["filename"])
        content = await http.get(f"/v1/files/{file['id']}/content")
    assert content.content == conversations(10)
    assert re.fullmatch(r"file-[A-Za-z0-9]+", file["id"])
    stored = [path for path in face.home.files.rglob("*") if path.is_file()]
    assert stored == [face.home.file(file["id"])]


# Chunks

CHUNKED = b"POST /v1/fine_tuning/jobs HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKS = {
    "a chunk that is longer than it says": b"5\r\nhello!\r\n0\r\n\r\n",
    "a chunk without its line end": b"5\r\nhelloXX5\r\nhello\r\n0\r\n\r\n",  # CVE-2025-43859
    "a plus": b"+5\r\nhello\r\n0\r\n\r\n",
    "0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "an underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "a space before": b" 5\r\nhello\r\n0\r\n\r\n",
    "a digit of another script": "\u0665\r\nhello\r\n0\r\n\r\n".encode(),
    "a null": b"5\x00\r\nhello\r\n0\r\n\r\n",
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "21 digits": b"0" * 20 + b"5\r\nhello\r\n0\r\n\r\n",
    "a line end in an extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "a line end for a chunk's end": b"5\nhello\n0\n\n",
    "an extension without end": b"5;" + b"a" * 200_000 + b"\r\nhello\r\n0\r\n\r\n",
    "a trailer without colon": b"0\r\nnothing\r\n\r\n",
    "a thousand trailers": b"0\r\n" + b"X: y\r\n" * 50_000 + b"\r\n",
}


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
async def test_what_follows_a_malformed_chunk_is_not_heard(
    face: Face, chunks: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert MODELS not in await behind(face, CHUNKED + chunks)
    assert not [record for record in caplog.records if record.exc_info]


async def test_what_follows_a_good_one_is_heard(face: Face) -> None:
    """Or the tests here could not fail."""
    assert await behind(face, CHUNKED + b"2;a=b\r\n{}\r\n0\r\nX: y\r\n\r\n") == [JOBS, MODELS]


async def test_a_trailer_is_no_header(face: Face) -> None:
    trailers = b"0\r\nAuthorization: Bearer x\r\nContent-Length: 100\r\nHost: evil\r\n\r\n"
    assert await behind(face, CHUNKED + b"2\r\n{}\r\n" + trailers) == [JOBS, MODELS]


CODINGS = (
    b"Transfer-Encoding: xchunked", b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding: \x00chunked", b"Transfer-Encoding: 'chunked'", b"Transfer-Encoding:",
    b"Transfer-Encoding: chunked;q=1", b"X: y\rTransfer-Encoding: chunked",
    b"Content-Length: 2\r\nContent-Length: 3", b"Content-Length: 2\r\nTransfer-Encoding: chunked",
    b"Content-Length: 2, 2, 3", b"Content-Length: 2 2", b"Content-Length: \x0b2",
    b"Content-Length: 02x", b"Content-Length: 2;", b"Content-Length: \xd9\xa2",
)  # fmt: skip


@pytest.mark.parametrize("header", CODINGS, ids=ascii)
async def test_a_body_of_doubtful_length_is_not_read(face: Face, header: bytes) -> None:
    head = b"POST /v1/fine_tuning/jobs HTTP/1.1\r\n" + HEAD + header + b"\r\n\r\n"
    for body in (b"{}", b"2\r\n{}\r\n0\r\n\r\n"):
        assert MODELS not in await behind(face, head + body)


async def test_random_chunks_are_never_our_fault(
    face: Face, caplog: pytest.LogCaptureFixture
) -> None:
    good = CHUNKED + b"5\r\n{}   \r\n5;a=b\r\n     \r\n0\r\nX: y\r\n\r\n" + SMUGGLED
    for seed in seeds(150):
        with seeded(seed) as chance:
            sent = good
            for _ in range(chance.randrange(1, 4)):
                sent = mutated(sent, chance, [b"\r\n", b"0\r\n\r\n", SMUGGLED, b"chunked"])
            answer = await say(face, sent)
            assert all(status < 500 for status in statuses(answer)), answer
    assert not [record for record in caplog.records if record.exc_info]


# Ranges


async def test_random_ranges_are_answered_with_the_whole(face: Face) -> None:
    """CVE-2025-62727, and what a range could show of other bytes."""
    content = bytes(range(256)) * 40
    file_id = await face.put_result(content)
    good = b"bytes=0-0,5-,-7"
    async with face.http() as http:
        for seed in seeds(100):
            with seeded(seed) as chance:
                said = good
                for _ in range(chance.randrange(1, 5)):
                    said = mutated(said, chance, [b",", b"-", b"9" * 30, b"0-" * 50, b"bytes="])
                said = bytes(byte for byte in said if 32 < byte < 127)
                answer = await http.get(
                    f"/v1/files/{file_id}/content",
                    params={"format": "csv"},
                    headers={"Range": said, "If-Range": '"x"'},
                )
                assert (answer.status_code, answer.content) == (200, content)
                assert "content-range" not in answer.headers


# Hosts

FOREIGN = (
    "evil.example", "localhost.evil.example", "evil-localhost", "localhost@evil.example",
    "evil.example#localhost", "evil.example/localhost", "evil.example?localhost", "evil\\localhost",
    "localhost/?", "localhost%00.evil", "127.0.0.1.evil.example", "127.1", "127.0.0.2", "0.0.0.0",
    "2130706433", "0x7f000001", "0177.0.0.1", "[::]", "[::2]", "[::1%lo]", "[::1].evil",
    "[::1]evil", "::1", "[localhost]", "localhost:8420:1", "localhost:x", "localhost:-1",
    "localhost:123456", " localhost x", "local\xadhost", "\xeclocalhost", "*", ".", "-", "\xa0",
    "localhost,localhost", "localhost;", "'localhost'", '"localhost"', "http://localhost",
    "//localhost", "a" * 300, "a." * 200, "localhos", "localhostt", "evil.example:localhost",
)  # fmt: skip


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_no_route_answers_for_a_host_that_only_resembles_ours(
    face: Face, method: str, path: str
) -> None:
    """CVE-2026-48710, CVE-2026-48746, CVE-2026-49468: with the key, and without."""
    for host in FOREIGN:
        for key in (BEARER, ""):
            asked = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{key}Connection: close\r\n\r\n"
            answer = await say(face, asked.encode("latin-1"))
            assert statuses(answer) in ([400], [421]), (host, answer)


TARGETS = (
    "@evil.example", "evil.example/v1/models", "http://evil.example/v1/models", "//evil/v1/models",
    "/v1/models#", "/healthz/../v1/models", "/healthz/%2e%2e/v1/models", "/healthz;/v1/models",
    "/healthz?/v1/models", "/HEALTHZ", "/v1/../healthz", "//healthz", "/healthz//", "/%68ealthz/x",
    "/v1/models?a=/healthz", "/metrics/../v1/models", "/healthz%00", "/healthz%20",
)  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
async def test_no_way_of_writing_a_path_goes_by_the_key(face: Face, target: str) -> None:
    """CVE-2026-54282: what is open stays open, and nothing else gets its name."""
    asked = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = await say(face, asked.encode())
    assert b'"object"' not in answer
    if target != "/healthz?/v1/models":
        assert statuses(answer) in ([400], [401], [404]), answer
    else:
        assert b'{"status":"ok"}' in answer


# Names, on their way out

HTML = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
FORMULA = "=cmd|'/C calc'!A0"


@pytest.mark.parametrize("name", [HTML, FORMULA], ids=["html", "formula"])
async def test_what_others_have_named_is_never_a_page_or_a_sheet(face: Face, name: str) -> None:
    """Whoever opens an answer in a browser: it is JSON, or a download under a harmless name."""
    async with face.http() as http:
        told = {"file": (f"{name}.jsonl", conversations(10))}
        file = (await http.post("/v1/files", files=told, data={"purpose": "fine-tune"})).json()
        request = CreateJob(
            model=BASE, training_file=file["id"], suffix=name[:64], metadata={name[:64]: name}
        )
        job = await face.door.jobs.create(ADMIN, request)
        assert job.state is State.QUEUED
        for method, route in ROUTES:
            path = route.replace("{file_id}", file["id"]).replace("{fine_tuning_job_id}", job.id)
            for at in (path.replace("{model:path}", job.minted), f"/{name}", f"/v1/models/{name}"):
                answer = await http.request(method, at, json={"model": name, "prompt": [name]})
                kind = answer.headers["content-type"].partition(";")[0]
                if answer.status_code != 200:
                    assert kind == "application/json", answer.url
                assert kind in (
                    "application/json", "application/octet-stream", "text/plain",
                ), answer.url  # fmt: skip
                if kind == "application/octet-stream":
                    assert answer.headers["x-content-type-options"] == "nosniff"
                    assert answer.headers["content-disposition"].startswith("attachment;")
                assert "<script" not in str(answer.headers).lower()
