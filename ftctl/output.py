"""What reaches the terminal: data on stdout in the format asked for, words on stderr.

Text from the daemon may be anybody's (file names, suffixes, logs), so whatever could steer a
terminal is shown as an escape: a control character, or one that reverses the reading order.
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftctl.objects import Object

if TYPE_CHECKING:
    from rich.console import Console

# C0 and C1 controls but newline and tab, line separators, the bidirectional overrides, tags that
# nobody sees, and surrogates, which no terminal can be sent.
_STEERING = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2060-\u206f\ufff9-\ufffb\ud800-\udfff"
    r"\U000e0000-\U000e007f]"
)
# In a name also what makes two look alike; text has its reasons for marks of direction.
_BREAKS = re.compile(r"[\n\t\u061c\u200b\u200e\u200f\ufeff]")

# Of a table: each column's title, and its cell for a row.
Columns = Sequence[tuple[str, Callable[[Any], str]]]
# Of one object: names and values for people; those without a value are left out.
Fields = Sequence[tuple[str, str]]


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


Output = Annotated[
    Format, typer.Option("-o", "--format", help="How to print it; json is the API object.")
]


def show_page(page: Object, messages: Sequence[Any], columns: Columns, format: Format) -> None:
    """A listing: the API's `page` for machines, a table of its `messages` for people.

    A table that does not hold everything says so on stderr.
    """
    ids = [row["id"] for row in page["data"]]
    if format is not Format.TABLE:
        show_data(page, ids, format)
        return
    print_table(messages, columns)
    if page.get("has_more"):
        say(f"There are more; go on with --after {ids[-1]}")


def show_object(found: Object, fields: Fields, format: Format) -> None:
    """One object: the API's for machines, `fields` for people."""
    if format is Format.TABLE:
        print_fields(fields)
    else:
        show_data(found, [found["id"]], format)


def show_data(found: Any, names: Sequence[str], format: Format) -> None:
    """In a format for machines."""
    match format:
        case Format.NAME:
            for name in names:
                print(safe_line(name))
        case Format.YAML:
            print(_yaml(found), end="")
        case _:
            print(to_json(found, indent=2))


def print_table(rows: Sequence[Any], columns: Columns) -> None:
    """Aligned columns under a header; on a terminal, as it is laid out in ftctl.table."""
    if not rows:
        say("There are none.")
        return
    from ftctl.table import lay_out

    titles = [title for title, _ in columns]
    cells = [[safe_line(cell(row)) for _, cell in columns] for row in rows]
    screen = console()
    for line in lay_out(titles, cells, screen.width if screen.is_terminal else None):
        screen.print(line, soft_wrap=True)


def print_fields(fields: Fields) -> None:
    """Names and values in two columns; the lines of a long value stand below each other."""
    width = max((len(name) for name, value in fields if value), default=0)
    for name, value in fields:
        for number, line in enumerate(safe(value).splitlines()):
            print(f"{name if number == 0 else '':<{width}}  {line}")


def say(text: str) -> None:
    """Words for people, on stderr."""
    print(safe(text), file=sys.stderr, flush=True)


def console(*, stderr: bool = False) -> "Console":
    """A rich console that writes text as it is: no markup, and no width where nobody looks."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(
        file=stream,
        width=None if stream.isatty() else 10_000,
        markup=False,
        highlight=False,
        emoji=False,
        soft_wrap=not stream.isatty(),
    )


@contextmanager
def working(on: str) -> Iterator[None]:
    """Says what takes its time: a spinner on a terminal, a line elsewhere."""
    if not sys.stderr.isatty():
        say(f"{on} ...")
        yield
        return
    from rich.text import Text

    with console(stderr=True).status(Text(safe_line(on))):
        yield


def in_colour() -> bool:
    """Whether stdout may have colours: a terminal may, unless NO_COLOR is set (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def safe(text: str) -> str:
    """`text` with everything that could steer a terminal escaped; lines and tabs stay."""
    return _STEERING.sub(_escape, text)


def safe_line(text: str) -> str:
    """The same on one line: for cells, ids and names."""
    return _BREAKS.sub(_escape, safe(text))


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON that a terminal survives: what `safe` escapes is written as \\uXXXX."""
    dumped = json.dumps(value, ensure_ascii=False, indent=indent)
    return _STEERING.sub(_json_escape, dumped)


def ago(created_at: int) -> str:
    """How long ago, in its largest unit: 5s, 3m, 2h, 9d."""
    return duration(max(0, int(time.time()) - created_at))


def duration(seconds: float) -> str:
    """A length of time in its largest whole unit."""
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f}{unit}"
    return f"{seconds:.0f}s"


def clock(at: int | None) -> str:
    """A moment, in local time."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def size(count: int) -> str:
    """Bytes in binary units, three digits or so."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def text(value: object | None) -> str:
    """A value as a cell: empty for None, digits in groups of three."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else str(value)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _json_escape(found: re.Match[str]) -> str:
    """JSON has four digits, and two of them for what lies beyond."""
    code = ord(found[0])
    return f"\\u{code:04x}" if code <= 0xFFFF else json.dumps(found[0])[1:-1]


def _yaml(value: Any) -> str:
    import yaml

    dumped: str = yaml.safe_dump(value, allow_unicode=True, sort_keys=False)
    if _STEERING.search(dumped):
        dumped = yaml.safe_dump(value, allow_unicode=False, sort_keys=False)
    return dumped
