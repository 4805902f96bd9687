"""Safetensors headers are believed in nothing; what safetensors writes is read as it is."""

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftd.core.errors import FtdError
from ftd.worker.models.weights import read_header, read_weights
from tests.worker.models.directories import write_raw, write_safetensors

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def test_a_true_header_is_read(path: Path) -> None:
    write_safetensors(path, {"a": (2, 3), "b": (), "c": (0, 5)})
    header = read_header(path)
    assert {name: tensor.elements for name, tensor in header.items()} == {"a": 6, "b": 1, "c": 0}
    weights = read_weights(path.parent, frozenset({path.name}))
    assert (weights.parameters, weights.dtype) == (7, "float32")


def test_what_the_library_writes_is_read(path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    tensors = {
        "w": torch.zeros(4, 4, dtype=torch.bfloat16),
        "ids": torch.zeros(3, dtype=torch.int64),
        "mask": torch.zeros(5, dtype=torch.bool),
    }
    save_file(tensors, path, metadata={"format": "pt"})
    weights = read_weights(path.parent, frozenset({path.name}))
    assert (weights.parameters, weights.dtype) == (16, "bfloat16")


def header_of(**entries: object) -> bytes:
    return json.dumps(entries).encode()


BAD: dict[str, tuple[bytes, bytes, str]] = {
    # name -> header, data, words of the message
    "not JSON": (b"{", b"", "not valid JSON"),
    "twice": (b'{"a":1,"a":2}', b"", "'a' is there twice"),
    "nothing inside": (b'{"__metadata__":{}}', b"", "holds no tensors"),
    "no offsets": (header_of(a={"dtype": "F32", "shape": [2]}), b"", "has no dtype, shape"),
    "no object": (header_of(a=7), b"", "has no dtype, shape"),
    "unknown type": (header_of(a={**ENTRY, "dtype": "P32"}), bytes(8), "unknown dtype 'P32'"),
    "negative size": (header_of(a={**ENTRY, "shape": [-2]}), bytes(8), "no sane shape"),
    "fractions": (header_of(a={**ENTRY, "shape": [2.0]}), bytes(8), "no sane shape"),
    "truths": (header_of(a={**ENTRY, "shape": [True, 2]}), bytes(8), "no sane shape"),
    "backwards": (header_of(a={**ENTRY, "data_offsets": [8, 0]}), bytes(8), "no sane data_offsets"),
    "overflow": (header_of(a={**ENTRY, "shape": [2**62, 4]}), bytes(8), "contradict"),
    "shape and bytes": (header_of(a={**ENTRY, "shape": [3]}), bytes(8), "contradict"),
    "overlap": (header_of(a=ENTRY, b=ENTRY), bytes(8), "overlaps another"),
    "gap": (header_of(a={**ENTRY, "data_offsets": [4, 12]}), bytes(12), "leaves a gap"),
    "cut off": (header_of(a=ENTRY), bytes(7), "is cut off"),
    "trailing": (header_of(a=ENTRY), bytes(9), "belong to no tensor"),
    "many dimensions": (header_of(a={**ENTRY, "shape": [1] * 99}), bytes(8), "no sane shape"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_header_that_lies_is_refused(path: Path, kind: str) -> None:
    header, data, words = BAD[kind]
    write_raw(path, header, data)
    with pytest.raises(FtdError) as refused:
        read_header(path)
    assert refused.value.code == "broken_model"
    assert words in refused.value.message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "too short"),
        (struct.pack("<Q", 2**63), "claims 9,223,372,036,854,775,808 bytes"),
        (struct.pack("<Q", 50) + b"{}", "ends before its header"),
        (b"\x80\x02}q\x00.pickled", "Is this a safetensors file?"),
    ],
)
def test_a_prefix_that_lies_is_refused(path: Path, content: bytes, words: str) -> None:
    path.write_bytes(content)
    with pytest.raises(FtdError) as refused:
        read_header(path)
    assert words in refused.value.message


def test_a_crowd_of_tensors_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftd.worker.models.weights.MAX_TENSORS", 3)
    write_safetensors(path, dict.fromkeys("abcd", (1,)))
    with pytest.raises(FtdError, match="has 4 tensors"):
        read_header(path)


def test_quantised_weights_cannot_be_trained(path: Path) -> None:
    write_raw(
        path, header_of(a={"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}), bytes(8)
    )
    with pytest.raises(FtdError, match="cannot be trained") as refused:
        read_weights(path.parent, frozenset({path.name}))
    assert refused.value.code == "unsupported_model"


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, 200), byte=st.integers(0, 255))
def test_one_wrong_byte_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, position: int, byte: int
) -> None:
    """Whatever a damaged header says, only FtdError comes out, or offsets that are right."""
    path = tmp_path_factory.mktemp("damaged") / "model.safetensors"
    write_safetensors(path, {"a": (2, 3), "b": (4,)})
    content = bytearray(path.read_bytes())
    content[position % len(content)] = byte
    path.write_bytes(content)
    try:
        header = read_header(path)
    except FtdError:
        return
    assert sum(tensor.elements for tensor in header.values()) == 10
