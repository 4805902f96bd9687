"""Core values as messages: total functions, whatever text and numbers come."""

import json
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ftctl import objects
from ftd.api.grpc import convert
from ftd.core.hyperparams import Hyperparameters, Requested
from ftd.core.job import Event, Job, State

JOB = Job(
    seq=1,
    id="ftjob-1",
    project="default",
    created_at=5,
    model="m",
    base="m",
    minted="ft:m::x",
    training_file="file-1",
    seed=7,
    requested=Requested(n_epochs=2),
    state=State.QUEUED,
)

# Any text that JSON can bring, lone surrogates included.
TEXT = st.text(st.characters(), max_size=8)
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def replaced(value: Any) -> Any:
    """`value` with lone surrogates as protobuf can carry them."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


@settings(deadline=None)
@given(st.dictionaries(TEXT, JSON, max_size=4))
def test_json_survives_the_way_to_the_client(data: dict[str, Any]) -> None:
    event = Event(
        seq=1, id="e", job="j", created_at=1, level="info", type="message", message="m", data=data
    )
    assert objects.event(convert.event(event))["data"] == replaced(data)


@settings(deadline=None)
@given(TEXT, st.dictionaries(TEXT, TEXT, max_size=3) | st.none())
def test_any_suffix_and_metadata_can_be_told(suffix: str, metadata: dict[str, str] | None) -> None:
    message = convert.job(replace(JOB, suffix=suffix, metadata=metadata), "org")
    assert objects.job(message)["user_provided_suffix"] == replaced(suffix)
    assert objects.job(message)["metadata"] == replaced(metadata)


def test_auto_is_absent_until_it_is_resolved() -> None:
    asked = convert.job(JOB, "org")
    assert asked.hyperparameters.n_epochs == 2
    assert not asked.hyperparameters.HasField("batch_size")
    assert list(asked.hyperparameter_reasons) == []
    resolved = Hyperparameters(
        n_epochs=2, batch_size=1, learning_rate_multiplier=1.0, reasons=("a", "b", "c")
    )
    used = convert.job(replace(JOB, hyperparameters=resolved), "org")
    assert used.hyperparameters.batch_size == 1
    assert list(used.hyperparameter_reasons) == ["a", "b", "c"]


def test_what_was_requested_comes_back() -> None:
    for asked in (Requested(), Requested(n_epochs=0, batch_size=8, learning_rate_multiplier=0.5)):
        assert convert.requested(convert.hyperparameters(asked)) == asked
