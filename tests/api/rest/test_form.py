"""The upload form: whatever way it is cut into pieces, it says the same."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftd.api.rest import form
from ftd.core.errors import FtdError, Kind

MARK = b"mark"


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        head += f'; filename="{filename}"\r\nContent-Type: application/octet-stream'
    return b"--mark\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n"


def whole(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--mark--\r\n"


FILE = part("file", b'{"a": 1}\n', "data.jsonl")
PURPOSE = part("purpose", b"fine-tune")


async def read(pieces: Iterable[bytes]) -> tuple[form.Form, bytes]:
    written = bytearray()

    async def write(data: bytes) -> None:
        written.extend(data)

    async def arriving() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
        yield b""

    told = await form.receive(arriving(), MARK, write)
    return told, bytes(written)


async def refused(*pieces: bytes) -> FtdError:
    with pytest.raises(FtdError) as caught:
        await read(pieces)
    assert caught.value.kind is Kind.INVALID
    return caught.value


# Nearly a boundary, in every way; never one, for want of a k.
ALMOST = st.sampled_from([b"\r", b"\n", b"-", b"--", b"\r\n--", b"mar", b"\r\n--mar", b"x" * 40])


@given(
    content=st.lists(ALMOST, max_size=12).map(b"".join),
    cuts=st.lists(st.integers(0, 700)),
    swapped=st.booleans(),
)
def test_the_pieces_do_not_matter(content: bytes, cuts: list[int], swapped: bool) -> None:
    parts = [part("file", content, "data.jsonl"), PURPOSE]
    body = whole(*(reversed(parts) if swapped else parts))
    edges = [0, *sorted(cut for cut in cuts if cut < len(body)), len(body)]
    pieces = [body[start:end] for start, end in pairwise(edges) if start < end]
    told, written = asyncio.run(read(pieces))
    assert written == content
    assert told == form.Form(filename="data.jsonl", purpose="fine-tune")


async def test_an_expiry() -> None:
    anchor, seconds = part(form.ANCHOR, b"created_at"), part(form.SECONDS, b"3600")
    told, _ = await read([whole(PURPOSE, anchor, FILE, seconds)])
    assert told.expires_after_s == 3600


async def test_unknown_fields_are_ignored() -> None:
    told, written = await read([whole(part("color", b"blue"), PURPOSE, FILE)])
    assert (told.purpose, written) == ("fine-tune", b'{"a": 1}\n')


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        (whole(PURPOSE), "file", "Missing required parameter: 'file'."),
        (whole(FILE), "purpose", "Missing required parameter: 'purpose'."),
        (whole(), "file", "Missing"),
        (whole(PURPOSE, FILE, FILE), "file", "has two"),
        (whole(PURPOSE, part("file", b"text")), "file", "must be a file"),
        (whole(PURPOSE, FILE)[:-6], None, "Unexpected end"),
        (whole(PURPOSE, FILE)[:90], None, "Unexpected end"),
        (b"", None, "Unexpected end"),
        (b"nothing of the kind", None, "cannot be read"),
        (b"x" * 70_000, None, "larger than 65,536 bytes"),
        (whole(PURPOSE, FILE) + b"x" * 70_000, None, "larger than 65,536 bytes"),
        (whole(part("note", b"x" * 5000), PURPOSE, FILE), None, "longer than 4096 bytes"),
        (whole(*[part(str(n), b"") for n in range(17)]), None, "count exceeded"),
        (whole(b"--mark\r\n" + b"A: b\r\n" * 9 + b"\r\n\r\n"), None, "header count exceeded"),
        (whole(b"--mark\r\nX: " + b"y" * 5000 + b"\r\n\r\n\r\n"), None, "length exceeded"),
        (whole(b"--mark\r\nX: y\r\n\r\n\r\n"), None, "Missing Content-Disposition"),
        (whole(part("purpose", b"\xff"), FILE), "purpose", "not UTF-8"),
        (whole(PURPOSE, FILE, part(form.SECONDS, b"3600")), form.ANCHOR, "Missing"),
        (whole(PURPOSE, FILE, part(form.ANCHOR, b"created_at")), form.SECONDS, "Missing"),
        (
            whole(PURPOSE, FILE, part(form.ANCHOR, b"now"), part(form.SECONDS, b"3600")),
            form.ANCHOR,
            "created_at",
        ),
        (
            whole(PURPOSE, FILE, part("expires_after", b'{"anchor": "created_at"}')),
            "expires_after",
            "fields of their own",
        ),
        (
            whole(PURPOSE, FILE, part(form.ANCHOR, b"created_at"), part(form.SECONDS, b"1e9")),
            form.SECONDS,
            "integer",
        ),
    ],
)
async def test_what_is_wrong_is_named(body: bytes, param: str | None, words: str) -> None:
    error = await refused(body)
    assert error.param == param
    assert words in error.message


async def test_bytes_around_the_file_are_bounded_in_small_pieces_too() -> None:
    error = await refused(whole(PURPOSE, FILE), *[b"x" * 1000] * 70)
    assert "larger than" in error.message


@pytest.mark.parametrize(
    ("content_type", "found"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('multipart/form-data; charset=utf-8; boundary="a b"', b"a b"),
        ("Multipart/Form-Data; Boundary=abc", b"abc"),
    ],
)
def test_the_boundary(content_type: str, found: bytes) -> None:
    assert form.boundary(content_type) == found


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/mixed; boundary=abc",
        "multipart/form-data; boundary=" + "x" * 201,
    ],
)
def test_no_boundary(content_type: str | None) -> None:
    with pytest.raises(FtdError) as caught:
        form.boundary(content_type)
    assert caught.value.kind is Kind.INVALID


@pytest.mark.parametrize(
    ("given_name", "kept"),
    [
        ("data.jsonl", "data.jsonl"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\x\\data.jsonl", "data.jsonl"),
        ("/", ""),
        ("a\x00b\r\nc\x7f\x85\u2028.jsonl", "abc.jsonl"),
        (
            "\u062f\u0627\u062f\u0647\u200c\u0647\u0627.jsonl",
            "\u062f\u0627\u062f\u0647\u200c\u0647\u0627.jsonl",
        ),
    ],
)
def test_names_are_text_alone(given_name: str, kept: str) -> None:
    assert form.bare_name(given_name) == kept
