"""The wire under lines of every kind: a fact with everything in its bounds, or a WireError."""

import json
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from ftd.core import wire
from tests.fuzz import mutated, seeded, seeds

FACTS: list[wire.Fact] = [
    wire.Started(pid=7, libraries={"torch": "2.13.0"}),
    wire.Accepted(job="ftjob-x", attempt=1),
    wire.Phase(name="training"),
    wire.Notice(level="warn", message="3 were cut \u00e9\u202e", data={"a": 3, "b": 0.5, "c": "d"}),
    wire.Prepared(examples=10, epoch_tokens=100, steps_per_epoch=5, total_steps=10),
    wire.Resumed(step=4),
    wire.Step(
        step=3, total_steps=10, train_loss=1.25, train_mean_token_accuracy=0.5, learning_rate=1e-4,
        grad_norm=0.25, tokens=100, loss_tokens=40, seconds=0.5, valid_loss=2.5,
    ),
    wire.Saved(step=2, epoch=1, path="checkpoints/step-2", manifest_sha256="0" * 64),
    wire.Done(step=10, trained_tokens=200),
    wire.Stopped(step=1),
    wire.Ready(context_tokens=128),
    wire.Failed(code="diverged", message="The loss is not a number."),
]  # fmt: skip
COMMANDS: list[BaseModel] = [
    wire.Assign(job="ftjob-x", attempt=2, gpus=("GPU-1",)),
    wire.Stop(save=True),
]
LINES = [wire.encode(message) for message in [*FACTS, *COMMANDS]]
# What stands in a line in the place of a value.
VALUES = [
    b"null", b"true", b"-1", b"0", b"1.5", b"1e999", b"-1e999", b"1e308", b"NaN", b"Infinity",
    b"-Infinity", b"9" * 400, b"9" * 3900, b"9007199254740993", b"-9223372036854775809",
    b"18446744073709551616", b"0.000000000000000000000000001e-400", b'"7"', b'"\\ud800"',
    b'"\\u0000"', b'"\xff"', b'"' + b"x" * 3900 + b'"', b"[]", b"{}", b"[" * 1900 + b"]" * 1900,
    b'{"a":' * 700 + b"1" + b"}" * 700, b"", b'"', b"\\", b"\xed\xa0\x80", b"\x00", b"1_000",
    b"0x10", b"01", b"+1", b".5", b"'1'",
]  # fmt: skip


def judged(line: bytes) -> wire.Fact | None:
    """The fact, everything in it within bounds; None for one that is refused."""
    try:
        fact = wire.decode_fact(line)
    except wire.WireError as error:
        short = len(str(error)) < 2 * wire.FAULT_CHARACTERS
        return None if short else pytest.fail(f"an essay: {error}")
    in_bounds(fact.model_dump())
    assert wire.decode_fact(wire.encode(fact)) == fact, "what was short enough stays so"
    return fact


def in_bounds(value: Any) -> None:
    match value:
        case bool() | None:
            pass
        case int():
            assert abs(value) <= 2**53
        case float():
            assert math.isfinite(value)
            assert abs(value) <= wire.FLOAT32_MAX
        case str():
            value.encode()  # no half of a surrogate
        case dict():
            for key, held in value.items():
                in_bounds(key)
                in_bounds(held)
        case _:
            raise AssertionError(f"a {type(value).__name__} in a fact")


def with_odd_values(line: bytes, chance: random.Random) -> bytes:
    """One or two of the values of a line, or keys of it, are something else."""
    parts = line.rstrip(b"\n").split(b",")
    for _ in range(chance.randrange(1, 3)):
        at = chance.randrange(len(parts))
        key, colon, _ = parts[at].partition(b":")
        value = chance.choice(VALUES)
        parts[at] = key + colon + value + (b"}" if at == len(parts) - 1 else b"")
    if chance.random() < 0.2:
        parts.insert(chance.randrange(1, len(parts) + 1), chance.choice(parts))
    return b",".join(parts)


def test_lines_with_odd_values_are_facts_within_bounds_or_refused() -> None:
    taken = 0
    for seed in seeds(4000):
        with seeded(seed) as chance:
            taken += judged(with_odd_values(chance.choice(LINES), chance)) is not None
    assert taken > 0, "some of them are nothing but odd"


def test_torn_and_broken_lines_are_facts_within_bounds_or_refused() -> None:
    for seed in seeds(4000):
        with seeded(seed) as chance:
            line = chance.choice(LINES)
            for _ in range(chance.randrange(1, 4)):
                line = mutated(line, chance, LINES + VALUES)
            judged(line)
            try:
                command = wire.decode_command(line)
            except wire.WireError:
                continue
            in_bounds({key: held for key, held in command.model_dump().items() if key != "gpus"})


TEXT = st.text(max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
KINDS = st.sampled_from([str(fact.kind) for fact in FACTS])
KEYS = st.sampled_from(sorted({key for fact in FACTS for key in type(fact).model_fields}))


@given(kind=KINDS, fields=st.dictionaries(KEYS, JSON, max_size=14))
def test_any_json_of_a_known_kind(kind: str, fields: dict[str, Any]) -> None:
    judged(json.dumps(fields | {"kind": kind}).encode())


@pytest.mark.parametrize("nan", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.kind)
def test_no_number_is_not_a_number(fact: wire.Fact, nan: str) -> None:
    """In no field of any fact, where the line says a number."""
    told = fact.model_dump()
    for key, held in told.items():
        if isinstance(held, int | float) and not isinstance(held, bool):
            line = json.dumps(told | {key: "HERE"}).replace('"HERE"', nan)
            assert judged(line.encode()) is None, key


def test_the_last_of_two_equal_keys_counts() -> None:
    """As in Python's own JSON, so that nobody reads a line otherwise."""
    line = b'{"kind":"resumed","step":1,"step":2}'
    assert judged(line) == wire.Resumed(step=2) == wire.Resumed(step=json.loads(line)["step"])
