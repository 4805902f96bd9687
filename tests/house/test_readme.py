"""The README tells the truth: every configuration key, and the chart of the states."""

import re
from pathlib import Path

from pydantic import BaseModel

from ftd.config import Settings
from ftd.core.job import MOVES

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()


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


def test_the_state_chart_is_the_table_of_moves() -> None:
    chart = README.split("stateDiagram-v2")[1].split("```")[0]
    drawn = {
        (before, after)
        for before, after in re.findall(r"^\s+(\w+) --> (\w+)", chart, flags=re.MULTILINE)
    }
    assert drawn == {
        (before.value, to.value) for before, targets in MOVES.items() for to in targets
    }
