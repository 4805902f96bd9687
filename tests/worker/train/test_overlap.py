"""The overlap of two files is of what the model is given."""

import json
from pathlib import Path

from ftd.worker.train.data import Source, TokenFile, tokenize
from ftd.worker.train.overlap import overlap
from tests.tiny import byte_tokenizer


def tokens(directory: Path, *examples: tuple[str, str, int]) -> TokenFile:
    directory.mkdir()
    path = directory / "file.jsonl"
    lines = []
    for question, answer, weight in examples:
        talk = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": "Yes?", "weight": weight},
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
        lines.append(json.dumps({"messages": talk}))
    path.write_text("\n".join(lines))
    source = Source(path=path, tokenizer=byte_tokenizer(), context_tokens=512)
    return tokenize(source, directory / "out").file


def test_every_example_that_is_there_too_counts(tmp_path: Path) -> None:
    one = tokens(tmp_path / "one", ("a", "b", 1), ("c", "d", 1), ("a", "b", 1), ("e", "f", 1))
    other = tokens(tmp_path / "other", ("c", "d", 1), ("a", "b", 1), ("a", "bb", 1))
    told: list[None] = []
    assert overlap(one, other, lambda: told.append(None)) == 3
    assert overlap(other, one, lambda: told.append(None)) == 2
    assert told


def test_the_same_words_with_other_weights_are_another_example(tmp_path: Path) -> None:
    one = tokens(tmp_path / "one", ("a", "b", 1))
    other = tokens(tmp_path / "other", ("a", "b", 0))
    assert overlap(one, other, lambda: None) == 0
    assert overlap(one, one, lambda: None) == 1
