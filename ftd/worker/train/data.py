"""A training file as token ids on disk: written once in a stream, then mapped, never loaded.

    ids.bin        int32    every row's token ids, one after another
    weights.bin    float16  of each token, the weight of the loss of predicting it
    rows.bin       int64    where each row begins in ids.bin, and the end of the last
    examples.bin   int64    where each example begins in rows.bin, and the end of the last
    manifest.json           what was counted; written last, so that its presence says "complete"

That is 6 bytes a token, 8 a row and 8 an example: a gigabyte of English text, some 250 million
tokens, becomes 1.5 GB. The kernel's page cache is the only memory it takes. Numbers are in the
byte order of the machine.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ftd.core.dataset import is_blank, parse_example
from ftd.worker.template import ChatTemplate, RenderError
from ftd.worker.train.masks import Encoded, Tokens, encode

_VERSION = 1
_COLUMNS = {"ids": np.int32, "weights": np.float16, "rows": np.int64, "examples": np.int64}
_MANIFEST = "manifest.json"
_REASON_CHARACTERS = 200

# What the codes of masks.encode mean to people.
_SENTENCES = {
    "fallback_template": "In {examples} the chat is written as ChatML: the model has no chat "
    "template of its own.",
    "system_folded": "In {examples} the system message was put before the first user message: "
    "the model's chat template has none.",
    "tools_ignored": "In {examples} the tools are left out: the model's chat template does not "
    "show them.",
    "opening_untrained": "In {examples} the opening assistant message is not trained: nobody can "
    "ask for it.",
    "common_prefix": "In {examples} the assistant's words follow a header that differs from the "
    "one used to ask for them: so the model's chat template writes it.",
    "thoughts_dropped": "In {examples} the assistant's thoughts are left out by the model's chat "
    "template.",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence: its token ids, and of each the weight of the loss of predicting it.

    Both of shape (n,); ids is a read-only view of the map. The first weight is always 0.
    """

    ids: NDArray[np.int32]
    weights: NDArray[np.float32]


class TokenFile:
    """The examples in a directory that `tokenize` wrote.

    An example is one row, or several where the chat template wants one for each trained turn.
    """

    def __init__(self, directory: Path) -> None:
        self._ids = _mapped(directory, "ids")
        self._weights = _mapped(directory, "weights")
        self._rows = _mapped(directory, "rows")
        self._examples = _mapped(directory, "examples")

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Raises FileNotFoundError when the directory is not complete."""
        if not (directory / _MANIFEST).exists():
            raise FileNotFoundError(f"{directory} does not hold a complete set of tokens")
        return cls(directory)

    def __len__(self) -> int:
        return len(self._examples) - 1

    def __getitem__(self, index: int) -> tuple[Row, ...]:
        borders = self._borders(index)
        return tuple(
            Row(ids=self._ids[start:end], weights=self._weights[start:end].astype(np.float32))
            for start, end in pairwise(borders)
        )

    def length(self, index: int) -> int:
        """Tokens of all rows of an example; reads none of them."""
        borders = self._borders(index)
        return int(borders[-1] - borders[0])

    @property
    def tokens(self) -> int:
        """Tokens of all examples: the input tokens of one epoch."""
        return int(self._rows[-1])

    def _borders(self, index: int) -> NDArray[np.int64]:
        """Where the rows of an example begin, and where the last one ends."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        first, end = self._examples[index : index + 2]
        borders: NDArray[np.int64] = self._rows[first : end + 1]
        return borders


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenized:
    """The outcome of `tokenize`. `examples` is len(file); skipped ones are not among them.

    `warnings` are sentences for people, at most one for each thing that can go wrong.
    """

    file: TokenFile
    examples: int
    truncated: int
    skipped: int
    warnings: tuple[str, ...]


def tokenize(
    source: Path,
    tokenizer: Any,
    context_tokens: int,
    out: Path,
    progress: Callable[[int], None] | None = None,
) -> Tokenized:
    """Tokenise a checked JSONL file into `out`, or take what an earlier attempt completed there.

    A row longer than `context_tokens` loses its end. An example that is left without a trained
    token, or that the chat template refuses, is skipped. `progress` is told after each example
    how many have been read.
    """
    identity = {
        "version": _VERSION,
        "source_bytes": source.stat().st_size,
        "context_tokens": context_tokens,
        "vocabulary": len(tokenizer),
        "template": sha256(repr(tokenizer.chat_template).encode()).hexdigest(),
    }
    counts = _completed(out, identity)
    if counts is None:
        counts = _write(source, ChatTemplate(tokenizer), context_tokens, out, progress)
        _complete(out, identity, counts)
    file = TokenFile.open(out)
    return Tokenized(
        file=file,
        examples=len(file),
        truncated=counts.truncated,
        skipped=counts.untrained + counts.refused,
        warnings=tuple(_sentences(counts, context_tokens)),
    )


@dataclass(slots=True, kw_only=True)
class _Counts:
    """What became of the examples of a file. `codes` counts the warnings of masks.encode."""

    truncated: int = 0
    untrained: int = 0
    refused: int = 0
    first_refusal: str = ""
    codes: dict[str, int] = field(default_factory=dict)


def _write(
    source: Path,
    template: ChatTemplate,
    context_tokens: int,
    out: Path,
    progress: Callable[[int], None] | None,
) -> _Counts:
    counts = _Counts()
    with _Writer(out) as writer:
        for read, (number, line) in enumerate(_lines(source), start=1):
            try:
                encoded = encode(template, parse_example(line))
            except RenderError as error:
                counts.refused += 1
                counts.first_refusal = counts.first_refusal or f"line {number}: {error}"
            else:
                writer.add(_fitted(encoded, context_tokens, counts))
            if progress is not None:
                progress(read)
    return counts


def _lines(source: Path) -> Iterator[tuple[int, bytes]]:
    with source.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not is_blank(line):
                yield number, line


def _fitted(encoded: Encoded, context_tokens: int, counts: _Counts) -> list[Tokens]:
    """The rows, cut to size, that still train something; counts what was lost."""
    cut = [
        Tokens(ids=row.ids[:context_tokens], weights=row.weights[:context_tokens])
        for row in encoded.rows
    ]
    rows = [row for row in cut if any(row.weights)]
    counts.untrained += not rows
    counts.truncated += bool(rows) and cut != encoded.rows
    for code in encoded.warnings:
        counts.codes[code] = counts.codes.get(code, 0) + 1
    return rows


class _Writer:
    """Appends examples to the columns; they are on the disk when it closes without a fault."""

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        (out / _MANIFEST).unlink(missing_ok=True)
        self._files = {name: _path(out, name).open("wb") for name in _COLUMNS}
        self._tokens = 0
        self._rows = 0
        self._append("rows", [0])
        self._append("examples", [0])

    def __enter__(self) -> Self:
        return self

    def add(self, rows: list[Tokens]) -> None:
        """One example; none when there are no rows."""
        if not rows:
            return
        for row in rows:
            self._append("ids", row.ids)
            self._append("weights", row.weights)
            self._tokens += len(row.ids)
            self._append("rows", [self._tokens])
        self._rows += len(rows)
        self._append("examples", [self._rows])

    def __exit__(self, kind: object, *_: object) -> None:
        for file in self._files.values():
            with file:
                if kind is None:
                    file.flush()
                    os.fsync(file.fileno())

    def _append(self, name: str, values: list[int] | list[float]) -> None:
        self._files[name].write(np.asarray(values, _COLUMNS[name]).tobytes())


def _complete(out: Path, identity: dict[str, Any], counts: _Counts) -> None:
    """Say, durably, that everything else is durable."""
    draft = out / f"{_MANIFEST}.draft"
    with draft.open("w", encoding="utf-8") as file:
        json.dump({"identity": identity, "counts": asdict(counts)}, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(out / _MANIFEST)
    directory = os.open(out, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _completed(out: Path, identity: dict[str, Any]) -> _Counts | None:
    """What an earlier attempt counted, if it completed this very file."""
    try:
        manifest = json.loads((out / _MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return _Counts(**manifest["counts"]) if manifest["identity"] == identity else None


def _sentences(counts: _Counts, context_tokens: int) -> Iterator[str]:
    for code, sentence in _SENTENCES.items():
        if code in counts.codes:
            yield sentence.format(examples=_examples(counts.codes[code]))
    if counts.truncated:
        cut = _examples(counts.truncated)
        yield f"In {cut} the end was cut off, to fit into {context_tokens:,} tokens."
    if counts.untrained:
        lost = _examples(counts.untrained)
        yield f"Skipped {lost} without a token to train within {context_tokens:,} tokens."
    if counts.refused:
        why = counts.first_refusal[:_REASON_CHARACTERS]
        yield f"Skipped {_examples(counts.refused)} that the chat template refuses; first {why}"


def _examples(count: int) -> str:
    return "1 example" if count == 1 else f"{count:,} examples"


def _path(directory: Path, name: str) -> Path:
    return directory / f"{name}.bin"


def _mapped(directory: Path, name: str) -> NDArray[Any]:
    path, dtype = _path(directory, name), _COLUMNS[name]
    if not path.stat().st_size:  # an empty file cannot be mapped
        return np.empty(0, dtype)
    return np.asarray(np.memmap(path, dtype, mode="r"))
