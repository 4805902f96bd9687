"""What ftctl writes never steers the terminal, and stays what it was."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ftctl.output import Format, ago, duration, safe, safe_line, show_data, size, to_json

STEERING = [
    *("\x1b[2J", "\x07", "\r", "\x7f", "\x9b", "\u202e", "\u2066", "\u2028", "\ud800"),
    *("\u2060", "\U000e0041"),
]


@pytest.mark.parametrize("text", STEERING, ids=ascii)
def test_what_steers_a_terminal_is_escaped(text: str) -> None:
    for shown in (safe(text), safe_line(text), to_json(text)):
        assert shown.isprintable()
        assert "\\" in shown


@pytest.mark.parametrize("mark", ["\u200b", "\u200e", "\u200f", "\u061c", "\ufeff"], ids=ascii)
def test_two_names_that_look_alike_do_not(mark: str) -> None:
    assert safe_line(f"a{mark}b") == f"a{ascii(mark)[1:-1]}b"
    assert safe(f"a{mark}b") == f"a{mark}b", "text has reasons for it"


def test_lines_and_tabs_stay_where_lines_may_be() -> None:
    assert safe("a\tb\nc") == "a\tb\nc"
    assert safe_line("a\tb\nc") == "a\\x09b\\x0ac"


@given(st.text())
def test_json_is_still_the_same_json(text: str) -> None:
    assert json.loads(to_json({text: [text]})) == {text: [text]}


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_yaml_is_still_the_same_and_as_harmless(text: str) -> None:
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        show_data({"text": text}, [], Format.YAML)
    assert yaml.safe_load(out.getvalue()) == {"text": text}
    assert safe(out.getvalue()) == out.getvalue()


def test_readable_text_stays_readable() -> None:
    word = "\u0633\u0644\u0627\u0645 caf\u00e9 \u4f60\u597d"
    assert safe(word) == word
    assert to_json(word) == f'"{word}"'


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0s"), (59.9, "60s"), (60, "1m"), (7300, "2h"), (200_000, "2d")]
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_a_clock_that_is_ahead_of_ours_is_no_negative_age() -> None:
    assert ago(2**40) == "0s"


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (93 * 2**20, "93.0 MiB"),
        (2**44, "16.0 TiB"),
    ],
)
def test_sizes(count: int, said: str) -> None:
    assert size(count) == said
