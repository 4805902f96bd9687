"""A training file as token ids on disk: written once, then mapped, never loaded.

The columns are described in ftd.core.tokens. The kernel's page cache is the only memory they take.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ftd.core.tokens import MANIFEST, REASON_CHARACTERS, Counts, Identity, Manifest, file_of
from ftd.worker.template import ChatTemplate
from ftd.worker.train.columns import Part, Writer, seal, sealed, sha256
from ftd.worker.train.crew import spread
from ftd.worker.train.parts import MAKER, Task

_DTYPES = {"ids": np.int32, "weights": np.float16, "rows": np.int64, "examples": np.int64}

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
        if not (directory / MANIFEST).exists():
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

    def content(self, index: int) -> tuple[bytes, bytes]:
        """The ids and weights of all rows of an example, to be compared with another's."""
        borders = self._borders(index)
        whole = slice(borders[0], borders[-1])
        return self._ids[whole].tobytes(), self._weights[whole].tobytes()

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return int(np.diff(self._rows).max(initial=0))

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A checked JSONL file, and what decides its tokens; `threads` only how soon they are there."""

    path: Path
    tokenizer: Any
    context_tokens: int
    threads: int = 1


def tokenize(
    source: Source, out: Path, lent: Path | None = None, progress: Callable[[], None] | None = None
) -> Tokenized:
    """Take the tokens from `lent` or `out`, if they are those of this very file, tokenizer and
    code, byte for byte; else tokenise the file into `out`.

    A row longer than the context loses its end. An example that is left without a trained token,
    or that the chat template refuses, is skipped. `progress` is called all along; what it raises
    ends the work.
    """
    pulse = progress or _silently
    template = ChatTemplate(source.tokenizer)
    identity = Identity(
        source=sha256(source.path, pulse),
        context_tokens=source.context_tokens,
        tokenizer=template.fingerprint(),
        maker=MAKER,
    )
    for directory in (lent, out):
        if directory is not None and (counts := sealed(directory, identity, pulse)) is not None:
            return _tokenized(directory, counts, source.context_tokens)
    task = Task(path=source.path, template=template, context_tokens=source.context_tokens)
    totals = _Totals()
    with Writer(out) as writer, closing(spread(task, source.threads, pulse)) as parts:
        for part in parts:
            writer.add(part)
            totals.add(part)
    seal(out, Manifest(identity=identity, counts=totals.counts(), sha256=writer.hashes))
    return _tokenized(out, totals.counts(), source.context_tokens)


def _silently() -> None:
    """Nobody wants to hear how it goes."""


def _tokenized(directory: Path, counts: Counts, context_tokens: int) -> Tokenized:
    file = TokenFile.open(directory)
    return Tokenized(
        file=file,
        examples=len(file),
        truncated=counts.truncated,
        skipped=counts.untrained + counts.refused,
        warnings=tuple(_sentences(counts, context_tokens)),
    )


class _Totals:
    """Counts of parts, added up."""

    def __init__(self) -> None:
        self._lines = 0
        self._first_refusal = ""
        self._sums: Counter[str] = Counter()
        self._codes: Counter[str] = Counter()

    def add(self, part: Part) -> None:
        if part.refusal is not None and not self._first_refusal:
            line, reason = part.refusal
            told = f"line {self._lines + line}: {reason}"[:REASON_CHARACTERS]
            # A lone surrogate, which a template may hold, has no UTF-8.
            self._first_refusal = told.encode("utf-8", "replace").decode("utf-8")
        self._lines += part.lines
        self._codes.update(part.codes)
        self._sums.update(
            tokens=len(part.ids),
            rows=len(part.lengths),
            examples=len(part.widths),
            truncated=part.truncated,
            untrained=part.untrained,
            refused=part.refused,
        )

    def counts(self) -> Counts:
        return Counts(
            **self._sums, first_refusal=self._first_refusal, codes=dict(sorted(self._codes.items()))
        )


def _sentences(counts: Counts, context_tokens: int) -> Iterator[str]:
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
        skipped = _examples(counts.refused)
        yield f"Skipped {skipped} that the chat template refuses; first {counts.first_refusal}"


def _examples(count: int) -> str:
    return "1 example" if count == 1 else f"{count:,} examples"


def _mapped(directory: Path, name: str) -> NDArray[Any]:
    path, dtype = directory / file_of(name), _DTYPES[name]
    if not path.stat().st_size:  # an empty file cannot be mapped
        return np.empty(0, dtype)
    return np.asarray(np.memmap(path, dtype, mode="r"))
