"""Tokens on disk are what masks.encode said, once, whole or not at all."""

import json
from collections.abc import Callable
from copy import deepcopy
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from ftd.core.dataset import parse_example
from ftd.core.tokens import MANIFEST, VERSION, Manifest
from ftd.worker.template import ChatTemplate
from ftd.worker.train import data
from ftd.worker.train.data import Source, TokenFile, tokenize
from ftd.worker.train.masks import encode
from tests.tiny import CHATML, byte_tokenizer
from tests.worker.chat_templates import byte_level, smollm2, tokenizer_of


def line(*turns: str, **changes: Any) -> str:
    """A chat in which user and assistant take turns."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
    return json.dumps({"messages": messages} | changes)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


def stamps(directory: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in directory.iterdir()}


def flip(path: Path) -> None:
    """One bit of a file, where nobody looks."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def read(path: Path, tokenizer: Any, context_tokens: int, threads: int = 1) -> Source:
    return Source(path=path, tokenizer=tokenizer, context_tokens=context_tokens, threads=threads)


def written(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "training.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_examples_come_back_as_they_were_encoded(tmp_path: Path, out: Path) -> None:
    lines = [
        line("Hello", "What now?"),
        line("Hi", "No.", "Why?", "Because of the \u00e9t\u00e9 \U0001f600."),
        json.dumps({"prompt": "good or bad? ->", "completion": " good"}),
    ]
    tokenizer = smollm2()
    tokenized = tokenize(read(written(tmp_path, *lines), tokenizer, 2048), out)
    file = tokenized.file
    assert (len(file), tokenized.examples, tokenized.skipped, tokenized.truncated) == (3, 3, 0, 0)
    assert tokenized.warnings == ()
    for index, text in enumerate(lines):
        (expected,) = encode(ChatTemplate(tokenizer), parse_example(text.encode())).rows
        (row,) = file[index]
        assert row.ids.tolist() == expected.ids
        assert row.weights.tolist() == expected.weights
        assert (row.ids.dtype, row.weights.dtype) == (np.int32, np.float32)
        assert file.length(index) == len(expected.ids)
        assert row.weights[0] == 0
    assert file.tokens == sum(file.length(index) for index in range(3))


def test_an_example_of_several_rows_is_one_example(tmp_path: Path, out: Path) -> None:
    source = written(tmp_path, line("a", "b", "c", "d"), line("a", "b"))
    file = tokenize(read(source, tokenizer_of("qwen3"), 2048), out).file
    assert [len(rows) for rows in file] == [2, 1]
    assert file.length(0) == sum(len(row.ids) for row in file[0])


def test_iteration_ends_and_wrong_indices_are_refused(tmp_path: Path, out: Path) -> None:
    file = tokenize(read(written(tmp_path, line("a", "b")), smollm2(), 2048), out).file
    assert len(list(file)) == 1
    for index in (1, -1):
        with pytest.raises(IndexError):
            file[index]
        with pytest.raises(IndexError):
            file.length(index)


def test_long_examples_lose_their_ends(tmp_path: Path, out: Path) -> None:
    source = written(tmp_path, line("Hello", "word " * 200), line("Hello", "Short."))
    tokenized = tokenize(read(source, smollm2(), 64), out)
    assert (tokenized.truncated, tokenized.skipped) == (1, 0)
    assert (tokenized.file.length(0), tokenized.file[0][0].weights[-1]) == (64, 1)
    assert tokenized.warnings == ("In 1 example the end was cut off, to fit into 64 tokens.",)


def test_examples_without_a_trained_token_are_skipped(tmp_path: Path, out: Path) -> None:
    untrained = json.dumps(
        {
            "messages": [
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": "What now?", "weight": 0},
            ]
        }
    )
    source = written(tmp_path, line("word " * 200, "Lost."), untrained, line("Hello", "Kept."))
    tokenized = tokenize(read(source, smollm2(), 64), out)
    assert (tokenized.examples, tokenized.truncated, tokenized.skipped) == (1, 0, 2)
    assert tokenized.warnings == ("Skipped 2 examples without a token to train within 64 tokens.",)


def test_examples_that_the_template_refuses_are_skipped(tmp_path: Path, out: Path) -> None:
    twice = json.dumps(
        {
            "messages": [
                {"role": "user", "content": "Hello"},
                {"role": "user", "content": "Hello?"},
                {"role": "assistant", "content": "What now?"},
            ]
        }
    )
    source = written(tmp_path, line("Hello", "Fine."), "", twice)
    tokenized = tokenize(read(source, tokenizer_of("gemma"), 2048), out)
    assert (tokenized.examples, tokenized.skipped) == (1, 1)
    (warning,) = tokenized.warnings
    assert warning.startswith("Skipped 1 example that the chat template refuses; first line 3: Con")


def test_every_kind_of_warning_is_one_sentence(tmp_path: Path, out: Path) -> None:
    system = json.dumps(
        {
            "messages": [
                {"role": "system", "content": "Be rude."},
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": "What now?"},
            ]
        }
    )
    source = written(tmp_path, *[system] * 1200)
    (warning,) = tokenize(read(source, tokenizer_of("gemma"), 2048), out).warnings
    assert warning.startswith("In 1,200 examples the system message was put before the first user")


def test_a_model_without_a_template_is_said_to_have_none(tmp_path: Path, out: Path) -> None:
    tokenizer = byte_level(None, ("</s>",), eos="</s>")
    (warning,) = tokenize(read(written(tmp_path, line("a", "b")), tokenizer, 2048), out).warnings
    assert "ChatML" in warning


def test_progress_is_told_all_along_and_may_end_the_work(tmp_path: Path, out: Path) -> None:
    source = written(tmp_path, *[line("a", "b")] * 9)
    told: list[None] = []
    tokenize(read(source, smollm2(), 50), out, progress=lambda: told.append(None))
    assert len(told) == 2, "of its hash and of its only part"

    class Stop(Exception):
        pass

    def stop() -> None:
        if len(told) == 3:
            raise Stop
        told.append(None)

    with pytest.raises(Stop):
        tokenize(read(source, smollm2(), 51), out, progress=stop)
    with pytest.raises(FileNotFoundError):
        TokenFile.open(out)


def test_a_complete_file_is_taken_as_it_is(tmp_path: Path, out: Path) -> None:
    source = written(tmp_path, line("Hello", "word " * 99), line("word " * 99, "lost"))
    first = tokenize(read(source, smollm2(), 64), out)
    before = stamps(out)
    again = tokenize(read(source, smollm2(), 64), out)
    assert stamps(out) == before
    assert (again.examples, again.truncated, again.skipped) == (1, 1, 1)
    assert again.warnings == first.warnings
    assert np.array_equal(again.file[0][0].ids, first.file[0][0].ids)


def test_lent_tokens_are_taken_and_nothing_is_written(tmp_path: Path, out: Path) -> None:
    source = written(tmp_path, line("Hello", "word " * 99), line("word " * 99, "lost"))
    lent = tmp_path / "lent"
    first = tokenize(read(source, smollm2(), 64), lent)
    again = tokenize(read(source, smollm2(), 64), out, lent)
    assert not out.exists()
    assert again.warnings == first.warnings
    assert again.file.content(0) == first.file.content(0)


@pytest.mark.parametrize("change", ["source", "context", "template", "vocabulary", "code"])
def test_tokens_of_something_else_are_never_taken(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    source = written(tmp_path, line("Hello", "there"), line("Hello", "you"))
    tokenizer, context = deepcopy(smollm2()), 64
    lent = tmp_path / "lent"
    tokenize(read(source, tokenizer, context), lent)
    match change:
        case "source":  # of the same length
            source = written(tmp_path, line("Hello", "there"), line("Hello", "YOU"))
        case "context":
            context = 63
        case "template":
            tokenizer.chat_template += " "
        case "vocabulary":
            tokenizer.add_tokens(["there"])
        case "code":
            monkeypatch.setattr(data, "MAKER", "0" * 64)
    tokenize(read(source, tokenizer, context), out, lent)
    assert TokenFile.open(out)


@pytest.mark.parametrize(
    "harm",
    [
        lambda lent: (lent / MANIFEST).unlink(),
        lambda lent: (lent / MANIFEST).write_text("{}"),
        lambda lent: (lent / MANIFEST).write_text("[" * 10_000),
        lambda lent: (lent / "ids.bin").unlink(),
        lambda lent: flip(lent / "ids.bin"),
        lambda lent: flip(lent / "weights.bin"),
        lambda lent: (lent / "rows.bin").write_bytes((lent / "rows.bin").read_bytes()[:-8]),
    ],
)
def test_harmed_tokens_are_never_taken(
    tmp_path: Path, out: Path, harm: Callable[[Path], object]
) -> None:
    source = written(tmp_path, line("Hello", "there"), line("Hello", "you"))
    lent = tmp_path / "lent"
    expected = tokenize(read(source, smollm2(), 64), lent).file.content(1)
    harm(lent)
    assert tokenize(read(source, smollm2(), 64), out, lent).file.content(1) == expected
    assert stamps(out)


def test_a_tokenizer_that_cannot_be_looked_into_is_asked_every_time(
    tmp_path: Path, out: Path
) -> None:
    class Wrapped(PreTrainedTokenizerFast):
        """As one that does more than ask the tokenizer inside it."""

        def encode(self, *arguments: Any, **options: Any) -> list[int]:
            return [7, *super().encode(*arguments, **options)]

    tokenizer = Wrapped(tokenizer_object=byte_tokenizer().backend_tokenizer, eos_token="<|im_end|>")
    tokenizer.chat_template = CHATML
    source = written(tmp_path, line("a", "b"))
    lent = tmp_path / "lent"
    assert tokenize(read(source, tokenizer, 64), lent).file[0][0].ids[0] == 7
    tokenize(read(source, tokenizer, 64), out, lent)
    assert out.exists()


def test_the_manifest_says_what_is_there(tmp_path: Path, out: Path) -> None:
    source = written(tmp_path, line("Hello", "word " * 99), "", line("word " * 99, "lost"))
    file = tokenize(read(source, smollm2(), 64), out).file
    manifest = Manifest.read((out / MANIFEST).read_bytes())
    assert manifest.identity.version == VERSION
    assert manifest.identity.source == sha256(source.read_bytes()).hexdigest()
    assert manifest.counts.sizes() == {path.stem: path.stat().st_size for path in out.glob("*.bin")}
    assert manifest.sha256.model_dump() == {
        path.stem: sha256(path.read_bytes()).hexdigest() for path in out.glob("*.bin")
    }
    assert (manifest.counts.tokens, manifest.counts.truncated) == (file.tokens, 1)
    assert manifest.counts.untrained == 1


def test_an_odd_reason_is_kept_as_far_as_it_can_be(tmp_path: Path, out: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = r"{{ raise_exception('no \ud800' + messages[0].content) }}"
    source = written(tmp_path, line("x" * 500, "b"), line("a", "b"))
    (warning,) = tokenize(read(source, tokenizer, 64), out).warnings
    assert warning.startswith("Skipped 2 examples that the chat template refuses; first line 1: no")
    assert len(warning) < 300


def test_another_context_or_source_is_tokenised_anew(tmp_path: Path, out: Path) -> None:
    source = written(tmp_path, line("Hello", "word " * 99))
    assert tokenize(read(source, smollm2(), 64), out).file.tokens == 64
    assert tokenize(read(source, smollm2(), 80), out).file.tokens == 80
    written(tmp_path, line("Hello", "word " * 99), line("a", "b"))
    assert tokenize(read(source, smollm2(), 80), out).examples == 2


def test_what_was_interrupted_is_not_taken_for_complete(tmp_path: Path, out: Path) -> None:
    source = written(tmp_path, line("Hello", "Fine."))
    tokenize(read(source, smollm2(), 64), out)
    written(tmp_path, line("Hello", "Fine."), '{"messages": [')
    with pytest.raises(ValueError, match="json"):
        tokenize(read(source, smollm2(), 64), out)
    with pytest.raises(FileNotFoundError):
        TokenFile.open(out)
    written(tmp_path, line("Hello", "Fine."), line("a", "b"))
    assert tokenize(read(source, smollm2(), 64), out).examples == 2


def test_a_file_without_examples_is_empty_and_not_a_fault(tmp_path: Path, out: Path) -> None:
    tokenized = tokenize(read(written(tmp_path, ""), smollm2(), 64), out)
    assert (len(tokenized.file), tokenized.file.tokens, tokenized.examples) == (0, 0, 0)


def test_a_byte_order_mark_and_windows_lines_are_no_text(tmp_path: Path, out: Path) -> None:
    source = tmp_path / "training.jsonl"
    source.write_bytes(b"\xef\xbb\xbf" + line("a", "b").encode() + b"\r\n\r\n")
    assert tokenize(read(source, smollm2(), 64), out).examples == 1


def test_the_map_cannot_be_written(tmp_path: Path, out: Path) -> None:
    (row,) = tokenize(read(written(tmp_path, line("a", "b")), smollm2(), 64), out).file[0]
    with pytest.raises(ValueError, match="read-only"):
        row.ids[0] = 1


def test_a_token_takes_six_bytes(tmp_path: Path, out: Path) -> None:
    lines = [line("Hello", "word " * 30)] * 50
    file = tokenize(read(written(tmp_path, *lines), smollm2(), 2048), out).file
    bytes_ = sum(path.stat().st_size for path in out.glob("*.bin"))
    assert bytes_ == 6 * file.tokens + 8 * (50 + 1) + 8 * (50 + 1)
