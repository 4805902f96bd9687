"""A model directory is anybody's: it is refused with a reason, or taken in without effect.

Each goes the whole way that a source goes, through `add`; nothing of it may run, be read from
elsewhere, or stay on the shelf when it is refused.
"""

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from ftd.core.errors import FtdError
from ftd.worker.models import tree
from ftd.worker.models.add import add
from ftd.worker.models.check import check_directory
from ftd.worker.train.checkpoint import verify
from tests.security.canary import Canary
from tests.worker.models.directories import (
    CONFIG,
    SHAPES,
    change_json,
    write_json,
    write_raw,
    write_safetensors,
    write_shards,
)

Spoil = Callable[[Path, Canary], object]
ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
EVIL_MAP = {"AutoConfig": "evil.X", "AutoModelForCausalLM": "evil.X", "AutoTokenizer": "evil.X"}


def config(**changes: object) -> Spoil:
    return lambda model, _: change_json(model / "config.json", **changes)


def tokenizer_config(**changes: object) -> Spoil:
    return lambda model, _: change_json(model / "tokenizer_config.json", **changes)


def text(name: str, content: str) -> Spoil:
    return lambda model, _: (model / name).write_text(content)


def code(name: str) -> Spoil:
    def spoil(model: Path, canary: Canary) -> None:
        (model / name).write_text(canary.code())
        change_json(model / "config.json", auto_map=EVIL_MAP)

    return spoil


def pickled(name: str) -> Spoil:
    return lambda model, canary: (model / name).write_bytes(canary.pickled())


def only_pickled(name: str) -> Spoil:
    def spoil(model: Path, canary: Canary) -> None:
        (model / "model.safetensors").unlink()
        (model / name).write_bytes(canary.pickled())

    return spoil


def link(name: str, target: str) -> Spoil:
    def spoil(model: Path, _: Canary) -> None:
        (model / name).unlink(missing_ok=True)
        (model / name).symlink_to(target)

    return spoil


def a_link_through_a_directory(model: Path, _: Canary) -> None:
    (model / "etc").symlink_to("/etc")
    (model / "chat_template.jinja").unlink()
    (model / "chat_template.jinja").symlink_to("etc/passwd")


def pipe(model: Path, _: Canary) -> None:
    (model / "config.json").unlink()
    os.mkfifo(model / "config.json")


def listening(model: Path, _: Canary) -> None:
    at_home = Path.cwd()
    os.chdir(model)  # a socket's path has 108 bytes at most
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("tokenizer.model")
    os.chdir(at_home)


def device(model: Path, _: Canary) -> None:
    (model / "vocab.json").symlink_to("/dev/zero")


def header(content: object, data: bytes = b"") -> Spoil:
    return lambda model, _: write_raw(model / "model.safetensors", content, data)


def prefix(length: int, rest: bytes = b"{}") -> Spoil:
    data = struct.pack("<Q", length) + rest
    return lambda model, _: (model / "model.safetensors").write_bytes(data)


def crowded(model: Path, _: Canary) -> None:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    write_raw(model / "model.safetensors", {f"t{at}": entry for at in range(200_001)}, b"")


def index(shard: str) -> Spoil:
    def spoil(model: Path, _: Canary) -> None:
        write_shards(model)
        path = model / "model.safetensors.index.json"
        document = json.loads(path.read_text())
        document["weight_map"]["x"] = shard
        write_json(path, document)

    return spoil


def deep(name: str) -> Spoil:
    return text(name, '{"a":' * 100_000 + "1" + "}" * 100_000)


def sparse(name: str, size: int) -> Spoil:
    def spoil(model: Path, _: Canary) -> None:
        with (model / name).open("ab") as file:
            file.truncate(size)

    return spoil


BOMB = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def only_template(template: object) -> Spoil:
    """In the tokenizer's configuration, where it may be a list or whatever JSON has."""

    def spoil(model: Path, _: Canary) -> None:
        (model / "chat_template.jinja").unlink()
        change_json(model / "tokenizer_config.json", chat_template=template)

    return spoil


def templates(with_tools: str) -> list[dict[str, str]]:
    return [
        {"name": "default", "template": "{{ messages[0].content }}"},
        {"name": "tool_use", "template": with_tools},
    ]


def a_mask_of_all_positions(model: Path, _: Canary) -> None:
    """GPT-Neo keeps one, of 17 GB here: for 2 MB of weights."""
    width, positions = 4, 2**17
    sizes: dict[str, object] = {"hidden_size": width, "intermediate_size": width}
    sizes |= {"num_layers": 1, "num_heads": 2, "max_position_embeddings": positions}
    write_json(
        model / "config.json",
        {
            "architectures": ["GPTNeoForCausalLM"],
            "model_type": "gpt_neo",
            "vocab_size": 12,
            "attention_types": [[["global"], 1]],
            **sizes,
        },
    )
    layer = "transformer.h.0"
    shapes: dict[str, tuple[int, ...]] = {
        f"{layer}.attn.attention.{part}_proj.weight": (width, width)
        for part in ("q", "k", "v", "out")
    }
    shapes |= {f"{layer}.mlp.{part}.weight": (width, width) for part in ("c_fc", "c_proj")}
    for name in ("attn.attention.out_proj", "mlp.c_fc", "mlp.c_proj", "ln_1", "ln_2"):
        shapes[f"{layer}.{name}.bias"] = (width,)
    for name in (f"{layer}.ln_1", f"{layer}.ln_2", "transformer.ln_f"):
        shapes[f"{name}.weight"] = (width,)
    shapes |= {"transformer.ln_f.bias": (width,), "transformer.wte.weight": (12, width)}
    shapes["transformer.wpe.weight"] = (positions, width)
    write_safetensors(model / "model.safetensors", shapes)


def a_licence_in_other_letters(model: Path, _: Canary) -> None:
    """Under a name that is a letter of another alphabet away from LICENSE."""
    (model / "LICEN\u017fE").write_text("a licence")


# Refused only when a child has tried it, in these words.
TRIED: dict[str, tuple[Spoil, str]] = {
    "a mask of all positions": (
        a_mask_of_all_positions,
        "bytes besides its weights|can't allocate",
    ),
    "a class that is not there": (config(architectures=["EvilForCausalLM"]), "promises Evil"),
    "a family that is not there": (config(model_type="evil"), "does not load"),
    "an activation that is not there": (config(hidden_act="evil"), "does not load"),
    "positions in a way that is not there": (
        config(rope_scaling={"rope_type": "evil", "factor": 2.0}),
        "does not load",
    ),
    "a template of the configuration that is a number": (
        only_template(5),
        "cannot be rendered",
    ),
    "a template for tools alone": (
        only_template(templates(BOMB)[1:]),
        "cannot be rendered",
    ),
    "a template that is good without tools": (
        only_template(templates(BOMB)),
        "no good on two short messages",
    ),
    "a template that floods with tools": (
        only_template(templates("{{ 'x' * 200000 }}")),
        "200,000 characters",
    ),
}
REFUSED: dict[str, Spoil] = {
    # what would run
    "a module beside the weights": code("modeling_evil.py"),
    "a module of the configuration": code("configuration_evil.py"),
    "a module that is compiled": pickled("evil.pyc"),
    "a shared object": pickled("kernel.so"),
    "auto_map": config(auto_map=EVIL_MAP),
    "auto_map of the hub": config(auto_map={"AutoConfig": "someone/evil--evil.X"}),
    "auto_map deep inside": config(a=[{"b": [{"auto_map": EVIL_MAP}]}]),
    "auto_map of the tokenizer": tokenizer_config(auto_map=EVIL_MAP),
    "auto_map of the generation": text("generation_config.json", '{"auto_map": {"x": "y.X"}}'),
    "custom_generate": text("generation_config.json", '{"custom_generate": "a/b"}'),
    "custom_pipelines": config(custom_pipelines={"x": {"impl": "evil.X"}}),
    "attention from the hub": config(_attn_implementation_internal="someone/kernel"),
    "experts from the hub": config(_experts_implementation_internal="someone/kernel"),
    "another attention": config(attn_implementation="flex_attention_evil"),
    "another attention below": config(text_config={"_attn_implementation": "a/b"}),
    "kernels": config(use_kernels=True),
    "a quantiser": config(quantization_config={"quant_method": "evil"}),
    "other weights": config(transformers_weights="../evil.bin"),
    "weights that are a pickle": only_pickled("pytorch_model.bin"),
    "weights that are a pickle of another name": only_pickled("model.PT"),
    "a pickle that is called safetensors": pickled("model.safetensors"),
    "a pickle that is called a configuration": pickled("config.json"),
    "a pickle that is called a tokenizer": pickled("tokenizer.json"),
    # what leads elsewhere
    "a link out": link("vocab.json", "/etc/passwd"),
    "a link up": link("vocab.json", "../secret"),
    "a link up and back": link("vocab.json", "../model/tokenizer.json"),
    "a link to a directory": link("x", "/etc"),
    "a link through a directory": a_link_through_a_directory,
    "a link to itself": link("vocab.json", "vocab.json"),
    "a link to a device": device,
    "a pipe": pipe,
    "a socket": listening,
    "an index that climbs": index("../secret.safetensors"),
    "an index that is absolute": index("/etc/secret.safetensors"),
    "an index that names a pickle": index("pytorch_model.bin"),
    "an address": config(license_link="file:///etc/passwd"),
    "an address of the hub": config(weights="hf://someone/evil"),
    "another model": config(backbone="someone/evil"),
    "another model for a part": config(text_config={"encoder_name_or_path": "someone/evil"}),
    "a vocabulary elsewhere": tokenizer_config(vocab_file="/etc/passwd"),
    "a tokenizer elsewhere": tokenizer_config(tokenizer_file="../../secret.json"),
    "arguments of the tokenizer": tokenizer_config(init_inputs=["/etc/passwd"]),
    "a tokenizer out of a GGUF file": tokenizer_config(gguf_file="evil.gguf"),
    # what claims more than there is
    "a header of 2^63 bytes": prefix(2**63),
    "a header of 2^64 - 1 bytes": prefix(2**64 - 1),
    "a header of 100 MB that is not there": prefix(10**8),
    "a header of 101 MB": prefix(101 * 10**6),
    "a header that is cut off": prefix(50),
    "a header that is deep": header(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "a header with NaN": header(b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 8]}}'),
    "tensors that overlap": header({"a": ENTRY, "b": ENTRY}, bytes(8)),
    "a tensor beyond the end": header({"a": {**ENTRY, "data_offsets": [2**40, 2**40 + 8]}}),
    "a shape that overflows": header({"a": {**ENTRY, "shape": [2**32, 2**32, 2]}}, bytes(8)),
    "a shape below zero": header({"a": {**ENTRY, "shape": [-1, -2]}}, bytes(8)),
    "a shape that is endless": header({"a": {**ENTRY, "shape": [1] * 99}}, bytes(8)),
    "a million tensors": crowded,
    "a tensor twice": header(b'{"a": {}, "a": {}}'),
    "bytes behind the data": header({"a": ENTRY}, bytes(4096)),
    "a vocabulary of 10^9": config(vocab_size=10**9),
    "a width of 10^9": config(hidden_size=10**9),
    "a width of 10^9 that is no integer": config(intermediate_size=1e9),
    "a width of 10^9 in a list": config(intermediate_size=[16, 10**9]),
    "10^9 layers": config(num_hidden_layers=10**9),
    "10^9 heads": config(num_attention_heads=10**9),
    "10^9 experts": config(num_local_experts=10**9),
    "10^12 positions": config(max_position_embeddings=10**12),
    "a number of 5000 digits": text("config.json", '{"vocab_size": ' + "9" * 5000 + "}"),
    "a configuration that is deep": deep("config.json"),
    "a tokenizer's configuration that is deep": deep("tokenizer_config.json"),
    "a configuration with a key twice": text("config.json", '{"a": 1, "a": 2}'),
    "a configuration with NaN": text("config.json", json.dumps({**CONFIG, "x": float("nan")})),
    "a configuration of 1 GB": sparse("config.json", 2**30),
    "a tokenizer of 1 GB": sparse("tokenizer.json", 2**30),
    "a vocabulary of 1 GB": sparse("tokenizer.model", 2**30),
    "a template of 1 GB": sparse("chat_template.jinja", 2**30),
    "a template of 2 MB in the configuration": tokenizer_config(chat_template=2**21 * "x"),
    "a card of 1 GB": sparse("README.md", 2**30),
    "a number that is endless": text("config.json", json.dumps(CONFIG)[:-1] + ', "x": 1e999}'),
    "five million values": text("special_tokens_map.json", f'{{"a": [{5 * 10**6 * "1,"}1]}}'),
    "a header of five million values": header(b'{"a": [' + 5 * 10**6 * b"1," + b"1]}"),
    "a billion positions in a head": config(
        rope_parameters={"rope_type": "default", "partial_rotary_factor": 1e9}
    ),
    "10^9 labels": config(num_labels=10**9),
    "a type that is a function": config(torch_dtype="load"),
    "a type of other numbers": config(dtype="int8"),
    "an end that is no token": text("generation_config.json", '{"eos_token_id": ["</s>"]}'),
    "an end beyond all tokens": text("generation_config.json", '{"eos_token_id": [1000000000]}'),
    "a model for a tokenizer": tokenizer_config(tokenizer_class="AutoModelForCausalLM"),
    "weights of 1 TB": sparse("model.safetensors", 2**40),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_it_is_refused(kind: str, model: Path, canary: Canary, shelf: Path, unseen: None) -> None:
    REFUSED[kind](model, canary)
    began = time.monotonic()
    with pytest.raises(FtdError) as refused:
        add(str(model), shelf / "evil")
    assert refused.value.code in ("unsafe_model", "broken_model", "unsupported_model")
    assert refused.value.message.isascii()
    assert "\n" not in refused.value.message
    assert "root:" not in refused.value.message
    assert time.monotonic() - began < 60
    assert canary.sings
    assert not any(shelf.iterdir())


@pytest.mark.parametrize("kind", TRIED)
def test_it_is_refused_when_it_is_tried(
    kind: str, model: Path, canary: Canary, shelf: Path
) -> None:
    spoil, words = TRIED[kind]
    spoil(model, canary)
    with pytest.raises(FtdError, match=words):
        add(str(model), shelf / "evil")
    assert canary.sings
    assert not any(shelf.iterdir())


def odd_names(model: Path, canary: Canary) -> None:
    for name in ("a\nb", "\x1b[2Jc", "d\u202ee", "x" * 250, "-rf", "; touch y", "\udcff.txt"):
        (model / name).write_bytes(canary.pickled())


def below(model: Path, canary: Canary) -> None:
    (model / "code").mkdir()
    (model / "code" / "evil.py").write_text(canary.code())
    (model / "code" / "pytorch_model.bin").write_bytes(canary.pickled())


HARMLESS: dict[str, Spoil] = {
    **{
        f"a pickle as {name}": pickled(name)
        for name in (
            *("pytorch_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt"),
            *("rng_state.pth", "rng_state_0.pth", "model.ckpt", "model.pkl", "x.pickle"),
            *("x.joblib", "x.npy", "x.h5", "x.msgpack", "tokenizer.pkl", "adapter_model.bin"),
            *("model.pt2", "x.dill", "consolidated.00.pth", "model.safetensors.bak"),
        )
    },
    "an adapter beside the weights": text(
        "adapter_config.json", '{"base_model_name_or_path": "someone/evil", "auto_mapping": {}}'
    ),
    "a configuration for other libraries": text("adapter_model.json", '{"auto_map": {}}'),
    "where it once was": config(_name_or_path="someone/model"),
    "keys that would name code, and name none": config(auto_map={}, use_kernels=False),
    "templates in other places": lambda model, _: (
        (model / "additional_chat_templates").mkdir(),
        (model / "additional_chat_templates" / "tool_use.jinja").write_text(BOMB),
        (model / "chat_template.json").write_text(json.dumps({"chat_template": BOMB})),
    ),
    "a licence in letters of another alphabet": a_licence_in_other_letters,
    "names that steer a terminal": odd_names,
    "a directory of code": below,
    "a link inside": link("LICENSE", "README.md"),
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_it_is_taken_in_without_effect(kind: str, model: Path, canary: Canary, shelf: Path) -> None:
    HARMLESS[kind](model, canary)
    checked = check_directory(model)
    assert canary.sings
    known = {path.name for path in model.iterdir()}
    assert set(checked.files) <= known
    assert all(name.isascii() and name.isprintable() for name in checked.files)
    assert all(note.isascii() and "\n" not in note for note in checked.notes)
    assert not any(name.endswith((".bin", ".pt", ".pth", ".pkl", ".py")) for name in checked.files)
    assert "chat_template.json" not in checked.files


def test_nothing_of_a_pickle_reaches_the_shelf(model: Path, canary: Canary, shelf: Path) -> None:
    for name in ("pytorch_model.bin", "rng_state.pth", "optimizer.pt", "adapter_model.bin"):
        (model / name).write_bytes(canary.pickled())
    odd_names(model, canary)
    below(model, canary)
    added = add(str(model), shelf / "good")
    assert canary.sings
    assert added.files == len(list((shelf / "good").iterdir())) == 7
    assert all(path.is_file() and not path.is_symlink() for path in (shelf / "good").iterdir())


def test_more_than_anybody_has_room_for_is_refused(
    model: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftd.worker.models.check.MAX_BYTES", 5000)
    with pytest.raises(FtdError, match="at most 5,000"):
        add(str(model), shelf / "large")
    assert not any(shelf.iterdir())


def test_who_keeps_a_hard_link_changes_nothing(model: Path, tmp_path: Path, shelf: Path) -> None:
    kept = tmp_path / "kept"
    kept.hardlink_to(model / "config.json")
    add(str(model), shelf / "good")
    kept.write_text('{"auto_map": {}}')
    assert b"auto_map" not in (shelf / "good" / "config.json").read_bytes()


def test_a_file_that_becomes_a_link_is_not_followed(model: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    check_directory(model)
    (model / "README.md").unlink()
    (model / "README.md").symlink_to(secret)
    with pytest.raises(FtdError, match="README"):
        tree.copy(model / "README.md", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_directory_that_becomes_a_link_is_not_followed(model: Path, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "w").write_text("a secret")
    (model / "weights").mkdir()
    (model / "weights" / "w").write_text("weights")
    (model / "LICENSE").symlink_to("weights/w")
    check_directory(model)
    (model / "weights" / "w").unlink()
    (model / "weights").rmdir()
    (model / "weights").symlink_to(tmp_path / "secrets")
    with pytest.raises(FtdError, match="LICENSE"):
        tree.copy(model / "LICENSE", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_file_that_becomes_a_pipe_is_not_waited_for(model: Path, tmp_path: Path) -> None:
    (model / "README.md").unlink()
    os.mkfifo(model / "README.md")
    with pytest.raises(FtdError, match="no file"):
        tree.copy(model / "README.md", tmp_path / "copy")


def test_a_directory_that_changes_while_it_is_read_is_good_or_refused(
    model: Path, shelf: Path
) -> None:
    """Two configurations take turns, as fast as a thread can."""
    good, evil = json.dumps(CONFIG), json.dumps({**CONFIG, "auto_map": EVIL_MAP})
    over = threading.Event()
    next_ = model.with_name("next")

    def change() -> None:
        while not over.is_set():
            for content in (evil, good):
                next_.write_text(content)
                next_.rename(model / "config.json")

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for turn in range(20):
            with suppress(FtdError):
                add(str(model), shelf / f"{turn}")
    finally:
        over.set()
        thread.join()
    for published in shelf.iterdir():
        check_directory(published)


def test_a_checkpoint_with_a_pickle_is_damaged(tmp_path: Path, canary: Canary) -> None:
    """What its manifest does not name is never there by right; what it does is not a pickle."""
    (tmp_path / "step-1").mkdir()
    (tmp_path / "step-1" / "rng_state.pth").write_bytes(canary.pickled())
    write_json(
        tmp_path / "step-1" / "MANIFEST.json", {"version": 1, "step": 1, "epoch": 0, "files": []}
    )
    with pytest.raises(FtdError, match="rng_state"):
        verify(tmp_path / "step-1")
    assert canary.sings


def test_shapes_are_all_that_the_good_one_has(model: Path) -> None:
    """What is spoiled above is good before."""
    assert check_directory(model).facts.parameters
    assert set(SHAPES)
