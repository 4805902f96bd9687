"""A GGUF file's lengths are anybody's claims: none is believed, and nothing is read twice."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from ftd.core.errors import FtdError
from ftd.worker.models.add import add
from ftd.worker.models.convert import check_header

U32, F32, TEXT, ARRAY, U64 = 4, 6, 8, 9, 10


def text(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if length is None else length) + value


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(
    name: bytes = b"a",
    shape: tuple[int, ...] = (8,),
    kind: int = 0,
    at: int = 0,
    dimensions: int | None = None,
) -> bytes:
    count = len(shape) if dimensions is None else dimensions
    return (
        text(name)
        + struct.pack("<I", count)
        + struct.pack(f"<{len(shape)}Q", *shape)
        + struct.pack("<IQ", kind, at)
    )


def file(
    *keys: bytes,
    tensors: tuple[bytes, ...] = (),
    data: int = 32,
    keys_claimed: int | None = None,
    tensors_claimed: int | None = None,
) -> bytes:
    head = b"GGUF" + struct.pack(
        "<IQQ",
        3,
        len(tensors) if tensors_claimed is None else tensors_claimed,
        len(keys) if keys_claimed is None else keys_claimed,
    )
    head += b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(data)


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + values


BLOCKS = key(b"llama.block_count", U32, struct.pack("<I", 1))
REFUSED: dict[str, bytes] = {
    "2^63 tensors": file(tensors_claimed=2**63),
    "2^63 keys": file(keys_claimed=2**63),
    "keys that are not there": file(BLOCKS, keys_claimed=9000, data=0),
    "tensors that are not there": file(tensors=(tensor(),), tensors_claimed=9000, data=0),
    "a name of 2^63 bytes": file(text(b"x", 2**63), keys_claimed=1),
    "a text of 2^63 bytes": file(key(b"a", TEXT, text(b"x", 2**63))),
    "a text of 1 GB": file(key(b"a", TEXT, text(b"x", 2**30))),
    "a text beyond the end": file(key(b"a", TEXT, text(b"x", 2**20))),
    "a list of 2^63 numbers": file(key(b"a", ARRAY, array(U64, 2**63))),
    "a list beyond the end": file(key(b"a", ARRAY, array(U64, 2**20))),
    "a list of 2^40 texts": file(key(b"tokenizer.ggml.tokens", ARRAY, array(TEXT, 2**40))),
    "lists of lists": file(key(b"a", ARRAY, array(ARRAY, 1, array(ARRAY, 1, array(U32, 0))))),
    "an unknown value": file(key(b"a", 99, b"")),
    "a key twice": file(BLOCKS, BLOCKS),
    "10^9 layers": file(key(b"llama.block_count", U32, struct.pack("<I", 10**9))),
    "a width of 10^9": file(key(b"llama.embedding_length", U32, struct.pack("<I", 10**9))),
    "a width of 10^9 in a list": file(
        key(b"llama.feed_forward_length", ARRAY, array(U32, 1, struct.pack("<I", 10**9)))
    ),
    "10^9 experts": file(key(b"llama.expert_count", U32, struct.pack("<I", 10**9))),
    "a vocabulary of 10^12": file(key(b"llama.vocab_size", U64, struct.pack("<Q", 10**12))),
    "no alignment": file(key(b"general.alignment", U32, struct.pack("<I", 0))),
    "an alignment of 2^31": file(key(b"general.alignment", U32, struct.pack("<I", 2**31))),
    "an endless alignment": file(key(b"general.alignment", F32, struct.pack("<f", float("inf")))),
    "an alignment that is no number": file(
        key(b"general.alignment", F32, struct.pack("<f", float("nan")))
    ),
    "two lists that are one too long": file(
        key(b"a", ARRAY, array(TEXT, 3, 3 * text(b""))),
        key(b"b", ARRAY, array(TEXT, 2**23 - 2)),
    ),
    "a tensor of 2^32 dimensions": file(tensors=(tensor(dimensions=2**32 - 1),)),
    "a tensor whose shape overflows": file(tensors=(tensor(shape=(2**33, 2**33)),)),
    "a tensor beyond the end": file(tensors=(tensor(at=2**40),)),
    "a tensor of an unknown type": file(tensors=(tensor(kind=999),)),
    "tensors of the same bytes": file(tensors=(tensor(b"a"), tensor(b"b"))),
    "a pickle": b"\x80\x04\x95" + bytes(100),
    "a zip": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_it_is_refused(kind: str, tmp_path: Path, shelf: Path) -> None:
    gguf = tmp_path / "evil.gguf"
    gguf.write_bytes(REFUSED[kind])
    with pytest.raises(FtdError) as refused:
        add(str(gguf), shelf / "evil")
    assert "cannot be converted" not in refused.value.message, "no library has seen it"
    assert refused.value.message.isascii()
    assert not any(shelf.iterdir())


def as_link(gguf: Path) -> None:
    gguf.rename(gguf.with_name("real"))
    gguf.symlink_to("/etc/passwd")


def as_pipe(gguf: Path) -> None:
    gguf.unlink()
    os.mkfifo(gguf)


@pytest.mark.parametrize("change", [as_link, as_pipe])
def test_what_became_no_file_is_not_read(change: Callable[[Path], None], tmp_path: Path) -> None:
    gguf = tmp_path / "evil.gguf"
    gguf.write_bytes(file(BLOCKS, tensors=(tensor(),)))
    check_header(gguf)
    change(gguf)
    with pytest.raises(FtdError, match=r"evil\.gguf"):
        check_header(gguf)
