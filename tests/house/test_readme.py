"""The README tells the truth: every configuration key, and the chart of the states."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

import ftctl.cli
import ftd.__main__
from ftd.config import Settings
from ftd.core.job import MOVES

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def keys(model: type[BaseModel], prefix: str = "") -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= keys(kind, f"{prefix}{name}.")
        else:
            found.add(f"{prefix}{name}")
    return found


def test_every_configuration_key_is_in_the_table() -> None:
    listed = set(re.findall(r"^\| `([a-z_.]+)` \|", README, flags=re.MULTILINE))
    assert listed == keys(Settings)


@pytest.mark.parametrize(("letter", "count"), [("P", 11), ("S", 11)])
def test_every_promise_names_tests_that_are_there(letter: str, count: int) -> None:
    rows = re.findall(rf"^\| {letter}\d+ \|.*\|.*\|$", README, flags=re.MULTILINE)
    assert [row.split(" ")[1] for row in rows] == [
        f"{letter}{number}" for number in range(1, count + 1)
    ]
    for row in rows:
        tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert tests, row
        for file, test in tests:
            assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"


def test_the_numbers_of_the_demo_are_the_demos() -> None:
    data = ROOT / "ftd" / "demo_data" / "marv.jsonl"
    examples = len(data.read_text().splitlines())
    told = re.findall(r"(?<![\d,])(\d+)\s+examples\b", README)
    assert set(told) == {str(examples)}


def test_every_file_that_the_tour_names_is_there() -> None:
    named = set(re.findall(r"\b(?:ftd|systemd)/[\w./-]+\.(?:jsonl|toml)\b", README))
    assert len(named) >= 3
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_every_block_of_python_is_python() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        compile(block, "README.md", "exec")


def test_every_command_and_option_of_the_tour_is_there() -> None:
    blocks = "".join(re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL))
    lines = [line.partition(" #")[0] for line in blocks.replace("\\\n", " ").splitlines()]
    found = [shlex.split(line.strip(" &")) for line in lines]
    apps = {"ftctl": ftctl.cli.app, "ftd": ftd.__main__.app}
    commands = [words for words in found if words and words[0] in apps]
    assert len(commands) >= 8
    for program, *words in commands:
        known: Any = typer.main.get_command(apps[program])
        while words and words[0] in getattr(known, "commands", {}):
            known = known.commands[words.pop(0)]
        options = {option for parameter in known.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= options, (program, words)


def test_the_state_chart_is_the_table_of_moves() -> None:
    chart = README.split("stateDiagram-v2")[1].split("```")[0]
    drawn = {
        (before, after)
        for before, after in re.findall(r"^\s+(\w+) --> (\w+)", chart, flags=re.MULTILINE)
    }
    assert drawn == {
        (before.value, to.value) for before, targets in MOVES.items() for to in targets
    }
