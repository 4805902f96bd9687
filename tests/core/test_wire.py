"""The protocol: what can be said, and what is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from ftd.core import wire

STEP = wire.Step(
    step=1, total_steps=2, train_loss=1.5, train_mean_token_accuracy=0.5, learning_rate=1e-4,
    tokens=100, loss_tokens=40, seconds=0.5,
)  # fmt: skip


@pytest.mark.parametrize(
    "fact",
    [
        wire.Started(pid=1, libraries={"torch": "2.13.0"}),
        wire.Accepted(job="ftjob-x", attempt=1),
        wire.Phase(name="loading"),
        wire.Notice(level="warn", message="3 examples were cut", data={"truncated": 3}),
        wire.Prepared(examples=10, epoch_tokens=100, steps_per_epoch=5, total_steps=10),
        wire.Resumed(step=4),
        STEP,
        STEP.model_copy(update={"train_loss": None, "train_mean_token_accuracy": None}),
        wire.Saved(step=2, epoch=1, path="checkpoints/step-2", manifest_sha256="0" * 64),
        wire.Done(step=2, trained_tokens=200),
        wire.Stopped(step=1),
        wire.Failed(code="diverged", message="The loss is not a number."),
    ],
)
def test_facts_arrive_as_they_were_sent(fact: BaseModel) -> None:
    line = wire.encode(fact)
    assert line.endswith(b"\n")
    assert wire.decode_fact(line) == fact


@pytest.mark.parametrize("command", [wire.Assign(job="j", attempt=2), wire.Stop(save=True)])
def test_commands_arrive_as_they_were_sent(command: BaseModel) -> None:
    assert wire.decode_command(wire.encode(command)) == command


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(wire.WireError):
        wire.decode_fact(b'{"kind": "rumour"}\n')


def test_a_newer_worker_may_say_more() -> None:
    line = json.dumps(STEP.model_dump() | {"novelty": 1}).encode()
    assert wire.decode_fact(line) == STEP


def test_an_older_worker_may_say_less() -> None:
    assert wire.decode_fact(b'{"kind":"saved","step":1,"epoch":1,"path":"p","manifest_sha256":""}')


def test_long_lines_are_refused_both_ways() -> None:
    with pytest.raises(wire.WireError):
        wire.encode(wire.Notice(message="x" * wire.LINE_BYTES))
    with pytest.raises(wire.WireError):
        wire.decode_fact(b" " * (wire.LINE_BYTES + 1))


@given(st.binary(max_size=200))
def test_noise_is_a_wire_error_and_nothing_else(line: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.decode_fact(line)


def test_what_is_not_a_number_is_told_as_none() -> None:
    assert wire.finite(float("nan")) is None
    assert wire.finite(float("inf")) is None
    assert wire.finite(1.5) == 1.5
    assert wire.finite(1e39) is None, "float32 has none such"
