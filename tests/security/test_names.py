"""Names that others give: none leaves its place, and none is more than text where it is shown."""

import csv
import io
import json
import logging
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from ftctl.objects import Object
from ftctl.output import Format, print_fields, print_table, say, show_data
from ftd.api.rest.content import disposition
from ftd.core.results import COLUMNS, render
from ftd.host.logs import Formatter
from ftd.worker.models import export
from ftd.worker.models.refusal import shown

NAMES = [
    "../../../etc/passwd",
    "/etc/passwd",
    "..",
    "C:\\x.jsonl",
    "..\\..\\x",
    "a\0b",
    "a\r\nX-Evil: 1",
    "a\nb",
    "\x1b]0;title\x07",
    "\x1b[2J\x1b[31mred",
    "\x9b2J",
    "a\u202egnp.jsonl",
    "a\u2066b\u2069",
    "a\u200fb",
    "a\u200bb",
    "\ud800",
    "\U000e0041tag",
    '"><script>alert(1)</script>',
    "=cmd|'/C calc'!A0",
    "@SUM(1+1)",
    "[link=http://evil]x[/link]",
    "[red]x[/red]",
    ":warning:",
    "$(touch x)",
    "`touch x`",
    "; touch x",
    "%s%n",
    "{0.__class__}",
    "{{ messages }}",
    "!!python/object/apply:os.system ['touch x']",
    "con.jsonl",
    "x" * 10_000,
    "",
    " ",
    "-rf",
    "~root",
]
# What text may hold besides: lines, tabs and, as Persian and Arabic need them, marks.
_IN_TEXT = str.maketrans("", "", "\n\t\u200b\u200f")


Shown = pytest.CaptureFixture[str]  # as strict as a terminal: what is no UTF-8 cannot be written


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_in_a_table_is_one_line(name: str, capsys: Shown) -> None:
    print_table([name, "plain"], [("NAME", str), ("AGAIN", str)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert lines[2].startswith("plain")


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_steers_no_terminal(name: str, capsys: Shown) -> None:
    print_fields([("name", name)])
    say(name)
    written = capsys.readouterr()
    assert (written.out + written.err).translate(_IN_TEXT).isprintable()


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("form", [Format.JSON, Format.YAML, Format.NAME])
def test_a_name_is_what_it_was_for_machines(name: str, form: Format, capsys: Shown) -> None:
    found: Object = {"id": name, "filename": name}
    show_data(found, [name], form)
    text = capsys.readouterr().out
    assert text.translate(_IN_TEXT).isprintable()
    if form is Format.JSON:
        assert json.loads(text) == found
    elif form is Format.YAML and "\ud800" not in name:
        assert yaml.safe_load(text) == found


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_forges_no_log(name: str) -> None:
    made = logging.makeLogRecord({"name": "ftd", "msg": f"took {name}", "filename_": name})
    for journal in (False, True):
        line = Formatter(journal=journal).format(made)
        assert line.isprintable()
        line.encode()


@pytest.mark.parametrize("name", sorted({*NAMES} - {"\ud800"}), ids=ascii)
def test_a_name_adds_no_header(name: str) -> None:
    value = disposition(name)
    assert value.isascii()
    assert value.isprintable()
    assert value.startswith("attachment")
    assert value.count('"') in (0, 2)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_in_a_refusal_is_one_line(name: str) -> None:
    assert shown(name).isascii()
    assert shown(name).isprintable()
    assert len(shown(name)) < 1000


def test_the_results_hold_numbers_alone() -> None:
    """A spreadsheet runs a cell that begins with =, +, @ or a tab."""
    data: dict[str, Any] = dict.fromkeys(COLUMNS.values(), 0.5)
    text = render([{**data, "step": 1}, {**data, "step": 2, "train_loss": float("nan")}])
    head, *rows = csv.reader(io.StringIO(text))
    assert head == list(COLUMNS)
    for cell in (cell for row in rows for cell in row):
        float(cell)
    for evil in ("=cmd", "@SUM(1)", "\t=1"):
        for field in ("step", "train_loss"):
            row: dict[str, Any] = {**data, "step": 1, field: evil}
            with pytest.raises(ValueError, match=r"format code|invalid literal"):
                render([row])


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_names_file_is_not_made_from_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model's file is named by what is known, an export by letters of it."""
    written: list[Path] = []
    writer = SimpleNamespace(write_gguf=lambda _, target, **more: written.append(target))
    monkeypatch.setitem(sys.modules, "ftd.worker.models.to_gguf", writer)
    into = tmp_path / "into"
    export.export(export.GGUF, tmp_path, into, adapter=None, name=name, license_=None)
    (made,) = written
    assert made.parent == into
    assert made.resolve().parent == into.resolve()
    assert re.fullmatch(r"[A-Za-z0-9_.-]*\.gguf", made.name)
    assert len(made.name) <= 255
