"""What passes the check but would not train is found by loading it without its weights."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ftd.core.errors import FtdError
from ftd.worker.models.check import check_directory
from ftd.worker.models.load import prove
from tests.worker.models.directories import (
    SHAPES,
    TOKENIZER,
    change_json,
    write_json,
    write_safetensors,
    write_shards,
)


def test_a_good_model_is_proven(model: Path) -> None:
    prove(model, check_directory(model).facts)


def test_shards_are_proven(model: Path) -> None:
    write_shards(model)
    prove(model, check_directory(model).facts)


def test_a_model_without_a_template_is_proven(model: Path) -> None:
    (model / "chat_template.jinja").unlink()
    prove(model, check_directory(model).facts)


def weights(**changes: tuple[int, ...] | None) -> Callable[[Path], None]:
    changed = {key.replace("__", "."): shape for key, shape in changes.items()}
    shapes = {name: shape for name, shape in {**SHAPES, **changed}.items() if shape is not None}
    return lambda model: write_safetensors(model / "model.safetensors", shapes)


def template(text: str) -> Callable[[Path], object]:
    return lambda model: (model / "chat_template.jinja").write_text(text)


def large_words(model: Path) -> None:
    vocabulary = {"<unk>": 99_999, "<eos>": 0}
    write_json(
        model / "tokenizer.json",
        {**TOKENIZER, "model": {**TOKENIZER["model"], "vocab": vocabulary}},
    )


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
BAD: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a weight is missing": (weights(lm_head__weight=None), "broken_model", "'lm_head.weight'"),
    "another shape": (weights(lm_head__weight=(3, 3)), "broken_model", "does not load"),
    "another class": (
        lambda m: change_json(m / "config.json", architectures=["MistralForCausalLM"]),
        "unsupported_model",
        "loads as LlamaForCausalLM",
    ),
    "an unknown family": (
        lambda m: change_json(m / "config.json", model_type="unheard_of"),
        "broken_model",
        "does not load",
    ),
    "no tokenizer inside": (
        lambda m: change_json(m / "tokenizer.json", model={"type": "Unheard", "vocab": {}}),
        "broken_model",
        "the tokenizer does not load",
    ),
    "words beyond the model": (large_words, "broken_model", "does not fit the model"),
    "a template with a fault": (template("{{ nothing.at.all }}"), "broken_model", "rendered"),
    "a template that breaks out": (
        template("{{ ''.__class__.__mro__[1].__subclasses__() }}"),
        "broken_model",
        "rendered",
    ),
    "a template that never ends": (template(ENDLESS), "unsafe_model", "far more than"),
    "a template that floods": (
        template("{{ 'x' * 200000 }}"),
        "unsafe_model",
        "200,000 characters",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_model_that_would_not_train_is_refused(model: Path, kind: str) -> None:
    spoil, code, words = BAD[kind]
    spoil(model)
    facts = check_directory(model).facts
    with pytest.raises(FtdError) as refused:
        prove(model, facts)
    assert refused.value.code == code
    assert words in refused.value.message
