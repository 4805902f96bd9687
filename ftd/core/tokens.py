"""A token directory: what its manifest says of the columns beside it, and what must follow.

    ids.bin        int32    every row's token ids, one after another
    weights.bin    float16  of each token, the weight of the loss of predicting it
    rows.bin       int64    where each row begins in ids.bin, and the end of the last
    examples.bin   int64    where each example begins in rows.bin, and the end of the last
    manifest.json           all that is said here; written last, so that it says "complete"

That is 6 bytes a token, 8 a row and 8 an example: a gigabyte of English text, some 250 million
tokens, becomes 1.5 GB. Numbers are in the byte order of the machine. A trainer writes it and maps
it; the daemon checks it, without a look at the numbers, and lends it to the next trainer.
"""

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

VERSION = 3
MANIFEST = "manifest.json"
MANIFEST_BYTES = 64 * 1024
REASON_CHARACTERS = 200

# Bytes of a number in each column.
COLUMNS: Mapping[str, int] = {"ids": 4, "weights": 2, "rows": 8, "examples": 8}

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Identity(_Part):
    """What the tokens are of, and all that decides which ones: equal identity, equal bytes.

    `tokenizer` is of the vocabulary and the chat template, `maker` of the code that wrote them.
    """

    version: int = VERSION
    source: Sha256
    context_tokens: int
    tokenizer: Sha256
    maker: Sha256


class Counts(_Part):
    """What became of the examples of a file.

    `examples` are the ones that are there, in `rows` of together `tokens`; of the others `refused`
    ones did not suit the chat template and `untrained` ones held nothing to train. `codes` counts
    the warnings of masks.encode.
    """

    tokens: Count = 0
    rows: Count = 0
    examples: Count = 0
    truncated: Count = 0
    untrained: Count = 0
    refused: Count = 0
    first_refusal: str = Field("", max_length=REASON_CHARACTERS)
    codes: dict[str, Count] = {}

    def sizes(self) -> dict[str, int]:
        """The bytes of each column."""
        numbers = {
            "ids": self.tokens,
            "weights": self.tokens,
            "rows": self.rows + 1,
            "examples": self.examples + 1,
        }
        return {name: COLUMNS[name] * count for name, count in numbers.items()}


class Hashes(_Part):
    """The sha256 of each column."""

    ids: Sha256
    weights: Sha256
    rows: Sha256
    examples: Sha256


class Manifest(_Part):
    identity: Identity
    counts: Counts
    sha256: Hashes

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Raises ValueError for what this release would not have written."""
        if len(data) > MANIFEST_BYTES:
            raise ValueError(f"a manifest of more than {MANIFEST_BYTES:,} bytes")
        manifest = cls.model_validate_json(data)
        if manifest.identity.version != VERSION:
            raise ValueError(f"a manifest of version {manifest.identity.version}")
        return manifest


def file_of(column: str) -> str:
    """The name of a column's file."""
    return f"{column}.bin"
