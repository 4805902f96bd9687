"""An upload's multipart form, parsed while it arrives: the file's bytes go straight through.

Fields may come in any order. Everything but the file's bytes (boundaries, headers, fields, what
stands before and after) is bounded together, so no form can cost more than MAX_OVERHEAD_BYTES.
"""

import unicodedata
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from multipart import (
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)

from ftd.core.errors import FtdError, invalid

MAX_OVERHEAD_BYTES = 64 * 1024
MAX_FIELD_BYTES = 4096
MAX_PARTS = 16
MAX_HEADERS = 8  # of one part
MAX_HEADER_BYTES = 4096
MAX_BOUNDARY = 200  # RFC 2046 allows 70

FILE = "file"
PURPOSE = "purpose"
EXPIRES_AFTER = "expires_after"
ANCHOR = f"{EXPIRES_AFTER}[anchor]"
SECONDS = f"{EXPIRES_AFTER}[seconds]"

_UNSHOWN = frozenset({"Cc", "Zl", "Zp"})  # Unicode categories: controls, line, paragraph ends

Write = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What an upload says about its file."""

    filename: str
    purpose: str
    expires_after_s: int | None = None


def boundary(content_type: str | None) -> bytes:
    """The boundary of a multipart/form-data content type. Raises INVALID for anything else."""
    kind, options = parse_options_header(content_type or "")
    if kind != "multipart/form-data":
        raise invalid(
            f"Unsupported content type: {content_type!r}. An upload takes 'multipart/form-data'.",
            code="unsupported_content_type",
        )
    found: str = options.get("boundary", "")
    if not 1 <= len(found) <= MAX_BOUNDARY:
        raise invalid("The multipart content type has no usable boundary.")
    return found.encode("latin-1")


async def receive(pieces: AsyncIterator[bytes], mark: bytes, write: Write) -> Form:
    """Read the whole form; `mark` is its boundary, `write` takes the file's bytes in order.

    Raises INVALID for a form that breaks off or exceeds a limit, and for one without its file or
    purpose. What `write` and `pieces` raise comes through.
    """
    reader = _Reader(write)
    received = 0
    try:
        with PushMultipartParser(
            mark,
            max_header_size=MAX_HEADER_BYTES,
            max_header_count=MAX_HEADERS,
            max_segment_count=MAX_PARTS,
        ) as parser:
            async for piece in pieces:
                received += len(piece)
                for part in parser.parse(piece):
                    await reader.take(part)
                if received - reader.file_bytes > MAX_OVERHEAD_BYTES:
                    raise invalid(
                        f"The form around the file is larger than {MAX_OVERHEAD_BYTES:,} bytes."
                    )
    except ParserLimitReached as error:
        raise invalid(f"The multipart body is beyond a limit: {error}.") from error
    except MultipartError as error:
        raise invalid(f"The multipart body cannot be read: {error}.") from error
    return reader.form()


class _Reader:
    """Sorts what the parser finds into fields and the file."""

    def __init__(self, write: Write) -> None:
        self.file_bytes = 0
        self._write = write
        self._filename: str | None = None
        self._fields: dict[str, bytearray] = {}
        self._field: bytearray | None = None  # the one that is being read; None for the file

    async def take(self, part: MultipartSegment | bytes | None) -> None:
        """A part's head, a piece of its body, or None for its end."""
        if isinstance(part, MultipartSegment):
            self._begin(part)
        elif part is None:
            return
        elif self._field is None:
            self.file_bytes += len(part)
            await self._write(part)
        else:
            self._field += part
            if len(self._field) > MAX_FIELD_BYTES:
                raise invalid(f"A form field is longer than {MAX_FIELD_BYTES} bytes.")

    def form(self) -> Form:
        """All of it, checked for what is missing."""
        if self._filename is None:
            raise _missing(FILE)
        if PURPOSE not in self._fields:
            raise _missing(PURPOSE)
        return Form(
            filename=self._filename,
            purpose=self._text(PURPOSE),
            expires_after_s=self._expires_after_s(),
        )

    def _begin(self, part: MultipartSegment) -> None:
        if part.name != FILE:
            self._field = self._fields[part.name or ""] = bytearray()
            return
        if self._filename is not None:
            raise invalid("An upload has one file; this one has two.", param=FILE)
        if part.filename is None:
            raise invalid(
                "'file' must be a file with a name, not a text field "
                "(HINT: with curl write -F file=@NAME.jsonl).",
                param=FILE,
            )
        self._filename = bare_name(part.filename)
        self._field = None

    def _expires_after_s(self) -> int | None:
        if EXPIRES_AFTER in self._fields:
            # Ignored like any unknown field, it would keep a file that was to go.
            raise invalid(
                f"'{ANCHOR}' and '{SECONDS}' are fields of their own; send them "
                f"instead of '{EXPIRES_AFTER}'.",
                param=EXPIRES_AFTER,
            )
        if ANCHOR not in self._fields and SECONDS not in self._fields:
            return None
        for name in (ANCHOR, SECONDS):
            if name not in self._fields:
                raise _missing(name)
        if self._text(ANCHOR) != "created_at":
            raise invalid(f"{ANCHOR} must be 'created_at'.", param=ANCHOR)
        seconds = self._text(SECONDS)
        if not (seconds.isascii() and seconds.isdigit() and len(seconds) <= 18):
            raise invalid(f"{SECONDS} must be an integer.", param=SECONDS)
        return int(seconds)

    def _text(self, name: str) -> str:
        try:
            return self._fields[name].decode()
        except UnicodeDecodeError:
            raise invalid(f"The form field {name!r} is not UTF-8.", param=name) from None


def bare_name(filename: str) -> str:
    """The last component of a path of either kind, without control characters and line ends.

    It is only ever shown: nothing on disk is named after it.
    """
    last = filename.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if unicodedata.category(letter) not in _UNSHOWN)


def _missing(name: str) -> FtdError:
    return invalid(
        f"Missing required parameter: '{name}'.", code="missing_required_parameter", param=name
    )
