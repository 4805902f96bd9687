"""Model directories are judged by their bytes; each bad one is refused with a text of its own."""

import json
import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from ftd.core.errors import FtdError
from ftd.worker.models.check import check_directory
from tests.worker.models.directories import (
    HIDDEN,
    PARAMETERS,
    SHAPES,
    VOCABULARY,
    change_json,
    write_json,
    write_safetensors,
    write_shards,
)


class Canary:
    """A pickle of this makes a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.file),)


def test_a_good_directory_tells_its_facts(model: Path) -> None:
    checked = check_directory(model)
    facts = checked.facts
    assert facts.architecture == "LlamaForCausalLM"
    assert facts.model_type == "llama"
    assert facts.parameters == PARAMETERS
    assert (facts.context_tokens, facts.hidden_size, facts.layers) == (64, HIDDEN, 1)
    assert facts.vocabulary == VOCABULARY
    assert facts.dtype == "float32"
    assert facts.has_chat_template
    assert facts.license == "mit"
    assert set(checked.files) == {path.name for path in model.iterdir()}
    assert checked.notes == ()


def test_shards_are_taken_with_their_index(model: Path) -> None:
    write_shards(model, 3)
    checked = check_directory(model)
    assert checked.facts.parameters == PARAMETERS
    assert "model.safetensors.index.json" in checked.files
    assert sum(name.endswith(".safetensors") for name in checked.files) == 3


def test_pickles_beside_safetensors_stay_behind(model: Path, tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "rng_state.pth"):
        (model / name).write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    checked = check_directory(model)
    assert not any(name.endswith((".bin", ".pth")) for name in checked.files)
    (note,) = checked.notes
    assert "can run code" in note
    assert "'training_args.bin'" in note
    assert not (tmp_path / "canary").exists()


def test_what_nobody_needs_stays_behind(model: Path) -> None:
    (model / "loss.png").touch()
    (model / "odd\nname").touch()
    (model / ".gitattributes").touch()
    (model / "runs").mkdir()
    (model / "runs" / "log.py").touch()
    checked = check_directory(model)
    assert not {"loss.png", "odd\nname", ".gitattributes", "runs"} & set(checked.files)
    assert checked.notes == (
        "not taken, because nothing here needs them: 'loss.png', 'odd\\nname'",
    )


def test_a_link_inside_the_directory_is_followed(model: Path) -> None:
    (model / "weights").mkdir()
    (model / "model.safetensors").rename(model / "weights" / "w")
    (model / "model.safetensors").symlink_to("weights/w")
    assert check_directory(model).facts.parameters == PARAMETERS


def test_a_template_in_the_tokenizers_configuration_counts(model: Path) -> None:
    (model / "chat_template.jinja").unlink()
    assert not check_directory(model).facts.has_chat_template
    change_json(model / "tokenizer_config.json", chat_template="{{ messages }}")
    assert check_directory(model).facts.has_chat_template


def test_a_model_card_need_not_be_there(model: Path) -> None:
    (model / "README.md").write_text("no front matter\nlicense: mit\n")
    assert check_directory(model).facts.license is None
    (model / "README.md").unlink()
    assert check_directory(model).facts.license is None


def test_older_names_of_the_sizes_are_understood(model: Path) -> None:
    change_json(
        model / "config.json",
        hidden_size=None,
        n_embd=HIDDEN,
        num_hidden_layers=None,
        n_layer=1,
        max_position_embeddings=None,
        n_positions=64,
    )
    facts = check_directory(model).facts
    assert (facts.hidden_size, facts.layers, facts.context_tokens) == (HIDDEN, 1, 64)


def make_pipe(model: Path) -> None:
    os.mkfifo(model / "tokenizer.model")


def make_socket(model: Path) -> None:
    at_home = Path.cwd()
    os.chdir(model)  # a socket's path has 108 bytes at most
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("merges.txt")
    os.chdir(at_home)


def only_pickles(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def only_gguf(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-Q4.gguf")


def adapter(model: Path) -> None:
    (model / "model.safetensors").rename(model / "adapter_model.safetensors")
    write_json(model / "adapter_config.json", {"peft_type": "LORA"})


def deep(model: Path) -> None:
    (model / "config.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)


def forty_levels(model: Path) -> None:
    change_json(model / "config.json", a=json.loads("[" * 40 + "]" * 40))


def config(**changes: object) -> Callable[[Path], None]:
    return lambda model: change_json(model / "config.json", **changes)


def file(name: str, text: str) -> Callable[[Path], object]:
    return lambda model: (model / name).write_text(text)


def without(*names: str) -> Callable[[Path], None]:
    def spoil(model: Path) -> None:
        for name in names:
            (model / name).unlink()

    return spoil


def json_file(name: str, value: object) -> Callable[[Path], None]:
    return lambda model: write_json(model / name, value)


def large(name: str, size: int) -> Callable[[Path], None]:
    return lambda model: os.truncate(model / name, size)


BAD: dict[str, tuple[Callable[[Path], object], str, str]] = {
    # name -> what spoils a good directory, the code, words of the message
    "link out": (
        lambda m: (m / "vocab.json").symlink_to("/etc/passwd"),
        "unsafe_model",
        "leads out",
    ),
    "link to a directory out": (
        lambda m: (m / "x").symlink_to("/etc"),
        "unsafe_model",
        "leads out",
    ),
    "link to nothing": (lambda m: (m / "x").symlink_to("gone"), "broken_model", "link to nothing"),
    "pipe": (make_pipe, "unsafe_model", "neither a file nor a directory"),
    "socket": (make_socket, "unsafe_model", "neither a file nor a directory"),
    "code": (file("modeling_x.py", "import os"), "unsafe_model", "program code"),
    "shared object": (file("kernel.so", ""), "unsafe_model", "program code"),
    "only pickles": (only_pickles, "unsafe_model", "which can run code"),
    "only GGUF": (only_gguf, "unsupported_model", "Name the .gguf file itself"),
    "an adapter": (adapter, "unsupported_model", "LoRA adapter"),
    "no weights": (without("model.safetensors"), "broken_model", "has no weights"),
    "no config": (without("config.json"), "broken_model", "no config.json"),
    "no tokenizer": (without("tokenizer.json"), "broken_model", "no tokenizer"),
    "auto_map": (config(auto_map={"AutoModel": "x.Y"}), "unsafe_model", "'auto_map'"),
    "auto_map below": (
        config(text_config=[{"auto_map": {"x": "y"}}]),
        "unsafe_model",
        "'auto_map'",
    ),
    "auto_map of the tokenizer": (
        json_file("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["x.Y", None]}}),
        "unsafe_model",
        "tokenizer_config.json has the key 'auto_map'",
    ),
    "auto_map of generation": (
        json_file("generation_config.json", {"auto_map": {"x": "y"}}),
        "unsafe_model",
        "generation_config.json has the key",
    ),
    "auto_map of a processor": (
        json_file("processor_config.json", {"auto_map": {"x": "y"}}),
        "unsafe_model",
        "processor_config.json has the key",
    ),
    "CVE-2026-4372": (
        config(_attn_implementation_internal="someone/kernel"),
        "unsafe_model",
        "_attn_implementation_internal",
    ),
    "a kernel of the hub": (
        config(attn_implementation="someone/kernel"),
        "unsafe_model",
        "may name code on the hub",
    ),
    "experts of the hub": (
        config(text_config={"_experts_implementation": {"": "a/b"}}),
        "unsafe_model",
        "may name code on the hub",
    ),
    "other weights": (config(transformers_weights="x.bin"), "unsafe_model", "transformers_weights"),
    "quantised": (
        config(quantization_config={"quant_method": "awq"}),
        "unsupported_model",
        "quantised weights cannot be trained",
    ),
    "an encoder": (config(architectures=["BertModel"]), "unsupported_model", "BertModel"),
    "two architectures": (config(architectures=["AForCausalLM"] * 2), "unsupported_model", "one"),
    "no model type": (config(model_type="../x"), "broken_model", "model_type"),
    "vocabulary bomb": (config(vocab_size=10**9), "broken_model", "'vocab_size' is 1000000000"),
    "layer bomb": (config(num_hidden_layers=10**6), "broken_model", "'num_hidden_layers'"),
    "width bomb": (config(x={"conv_dim": 2**40}), "broken_model", "'conv_dim'"),
    "negative width": (config(hidden_size=-8), "broken_model", "'hidden_size' is -8"),
    "no context": (config(max_position_embeddings=None), "broken_model", "max_position_embeddings"),
    "words for numbers": (config(hidden_size="8"), "broken_model", "no positive hidden_size"),
    "not JSON": (file("config.json", "{"), "broken_model", "not valid JSON"),
    "not UTF-8": (
        lambda m: (m / "config.json").write_bytes(b'{"\xff": 1}'),
        "broken_model",
        "not valid JSON",
    ),
    "not an object": (file("config.json", "[]"), "broken_model", "not a JSON object"),
    "a key twice": (
        file("config.json", '{"model_type": "llama", "model_type": "gpt2"}'),
        "broken_model",
        "'model_type' is there twice",
    ),
    "very deep": (deep, "broken_model", "nested too deeply"),
    "rather deep": (forty_levels, "broken_model", "nested deeper than 32"),
    "huge config": (large("config.json", 2**25), "broken_model", "larger than"),
    "huge tokenizer": (large("tokenizer.json", 2**30), "broken_model", "larger than"),
    "huge template": (large("chat_template.jinja", 2**21), "broken_model", "larger than"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_directory_is_refused(model: Path, kind: str) -> None:
    spoil, code, words = BAD[kind]
    spoil(model)
    with pytest.raises(FtdError) as refused:
        check_directory(model)
    assert refused.value.code == code
    assert words in refused.value.message
    assert refused.value.message.isascii()
    assert "\n" not in refused.value.message


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FtdError, match="there is no directory"):
        check_directory(tmp_path / "gone")
    (tmp_path / "file").touch()
    with pytest.raises(FtdError, match="is no directory"):
        check_directory(tmp_path / "file")


def test_a_crowd_of_files_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftd.worker.models.check.MAX_ENTRIES", 20)
    for number in range(20):
        (model / f"{number}.txt").touch()
    with pytest.raises(FtdError, match="more than 20 entries"):
        check_directory(model)


def spoil_index(**changes: str) -> Callable[[Path], None]:
    def spoil(model: Path) -> None:
        index = model / "model.safetensors.index.json"
        document = json.loads(index.read_text())
        document["weight_map"] |= changes
        write_json(index, document)

    return spoil


def tensor_in_both(model: Path) -> None:
    first = {name: SHAPES[name] for name in list(SHAPES)[0::2]}
    write_safetensors(
        model / "model-00002-of-00002.safetensors",
        {name: SHAPES[name] for name in list(SHAPES)[1::2]} | dict([*first.items()][:1]),
    )


BAD_INDEX: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a path": (spoil_index(x="../model-00001-of-00002.safetensors"), "unsafe_model", "no plain"),
    "a pickle": (spoil_index(x="pytorch_model.bin"), "unsafe_model", "no plain"),
    "a lost file": (spoil_index(x="lost.safetensors"), "broken_model", "no such file"),
    "a lost tensor": (
        spoil_index(x="model-00001-of-00002.safetensors"),
        "broken_model",
        "promises tensor 'x'",
    ),
    "a tensor twice": (tensor_in_both, "broken_model", "and in another shard"),
    "no map": (json_file("model.safetensors.index.json", {}), "broken_model", "no weight_map"),
    "no metadata": (
        lambda m: change_json(m / "model.safetensors.index.json", metadata=None),
        "broken_model",
        "no metadata",
    ),
}


@pytest.mark.parametrize("kind", BAD_INDEX)
def test_an_index_that_lies_is_refused(model: Path, kind: str) -> None:
    write_shards(model)
    spoil, code, words = BAD_INDEX[kind]
    spoil(model)
    with pytest.raises(FtdError) as refused:
        check_directory(model)
    assert refused.value.code == code
    assert words in refused.value.message
