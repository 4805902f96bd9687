"""How models are called."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftd.core.models import (
    FULL,
    Model,
    ModelKind,
    adapter_id,
    checkpoint_name,
    is_base_name,
    tuned_name,
    unfit,
)


def test_names_are_openais() -> None:
    assert tuned_name("llama", "marv", "a1B2c3D4") == "ft:llama:marv:a1B2c3D4"
    assert tuned_name("llama", None, "a1B2c3D4") == "ft:llama::a1B2c3D4"
    assert checkpoint_name("ft:llama::a1B2c3D4", 12) == "ft:llama::a1B2c3D4:ckpt-step-12"


@given(st.text(min_size=1, max_size=64))
def test_any_suffix_makes_a_safe_name_of_four_fields(suffix: str) -> None:
    name = tuned_name("llama", suffix, "a1B2c3D4")
    assert re.fullmatch(r"ft:llama:[A-Za-z0-9_.-]{1,64}:a1B2c3D4", name)
    assert adapter_id(name) == "a1B2c3D4"


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "../x", ".hidden", "a b", "x" * 97, "a\n"])
def test_base_names_hold_no_surprises(name: str) -> None:
    assert not is_base_name(name)


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "Qwen2.5-0.5B", "a", "x" * 96])
def test_usual_base_names_are_fine(name: str) -> None:
    assert is_base_name(name)


@pytest.mark.parametrize(
    ("kind", "form", "full", "fits"),
    [
        (ModelKind.BASE, None, False, True),
        (ModelKind.BASE, None, True, True),
        (ModelKind.TUNED, "adapter", False, True),
        (ModelKind.TUNED, "adapter", True, False),
        (ModelKind.CHECKPOINT, FULL, True, True),
        (ModelKind.CHECKPOINT, FULL, False, False),
    ],
)
def test_an_adapter_goes_on_from_its_base_or_itself_alone(
    kind: ModelKind, form: str | None, full: bool, fits: bool
) -> None:
    model = Model(
        name="ft:llama::x", project="p", kind=kind, base="llama", path="", sha256="", created_at=0,
        facts=None if form is None else {"form": form},
    )  # fmt: skip
    assert (unfit(model, full=full) is None) is fits
