"""What is exported answers like what was trained, in the programs that it is exported for."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    Qwen2Config,
    Qwen3Config,
)

from ftd.core.errors import FtdError
from ftd.worker.models import vocabulary
from ftd.worker.models.export import export
from ftd.worker.models.to_gguf import write_gguf
from tests.tiny import CHATML, byte_tokenizer, tiny_config
from tests.worker.models.directories import change_json, write_json

TEXTS = (
    "abcab Hello, it's 12345 o'clock!\n\n  A tab\t<|im_end|>",
    "\u0633\u0644\u0627\u0645 \U0001f600 na\u00efve",
)
# PEFT asks transformers for an attribute by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
QUESTION = [{"role": "user", "content": "What is 2 plus 2?"}]


def merging_tokenizer(**changes: Any) -> Any:
    """A byte-level tokenizer of 261 entries that merges a and b, and then c."""
    tokenizer = byte_tokenizer()
    document = json.loads(tokenizer.backend_tokenizer.to_str())
    document["model"]["vocab"] |= {"ab": 259, "abc": 260}
    document["model"]["merges"] = [["a", "b"], ["ab", "c"]]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(document | changes))
    return tokenizer


@pytest.fixture
def base(tmp_path: Path) -> Path:
    model = tmp_path / "base"
    saved(model, tiny_config(vocab_size=262), torch.float32)
    (model / "LICENSE").write_text("Yours.")
    (model / "README.md").write_text("---\nlicense: mit\n---\nThe base's card.\n")
    return model


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """An adapter whose every weight does something."""
    torch.manual_seed(3)
    network: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tuned: Any = get_peft_model(network, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    tuned.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def logits(network: Any, tokenizer: Any) -> torch.Tensor:
    prompt = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, tokenize=False)
    with torch.inference_mode():
        found: torch.Tensor = network(**tokenizer(prompt, return_tensors="pt")).logits
    return found


def read_gguf(file: Path) -> tuple[Any, Any]:
    network = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    return network, AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def run(*args: str | Path) -> tuple[int, dict[str, Any]]:
    program = [sys.executable, "-m", "ftd.worker.models.export", *map(str, args)]
    done = subprocess.run(program, capture_output=True, timeout=120)
    (line,) = done.stdout.splitlines()
    return done.returncode, json.loads(line)


def test_a_merged_model_is_base_and_adapter_for_plain_transformers(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    into = tmp_path / "merged"
    name = "ft:tiny::abcdefgh"
    status, told = run(
        "merged", base, into, "--adapter", adapter, "--name", name, "--license", "mit"
    )
    assert status == 0
    assert told == {
        "files": len(list(into.iterdir())),
        "bytes": sum(file.stat().st_size for file in into.iterdir()),
    }
    tokenizer = AutoTokenizer.from_pretrained(into)
    network = AutoModelForCausalLM.from_pretrained(into, dtype="auto").eval()
    fresh = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    before = logits(fresh, tokenizer)
    tuned = PeftModel.from_pretrained(fresh, adapter).eval()
    assert network.dtype == torch.float32
    assert torch.allclose(logits(network, tokenizer), logits(tuned, tokenizer), atol=1e-4)
    assert not torch.allclose(before, logits(tuned, tokenizer), atol=0.1)
    for kept in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "LICENSE"):
        assert (into / kept).read_bytes() == (base / kept).read_bytes()
    assert not list(into.glob("adapter*"))
    assert (into / "README.md").read_text().startswith(f"---\nlicense: mit\n---\n{name}:")


def test_a_merged_model_keeps_the_type_of_its_base(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(half)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(base / name, half / name)
    export("merged", half, tmp_path / "merged", adapter=adapter, name="x", license_=None)
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    assert network.dtype == torch.bfloat16
    fresh = AutoModelForCausalLM.from_pretrained(half, dtype=torch.float32)
    tuned: Any = PeftModel.from_pretrained(fresh, adapter).merge_and_unload()
    for name, ours in network.named_parameters():
        # Each of the two terms is rounded once, by at most one part in 256.
        theirs = tuned.get_parameter(name)
        assert torch.allclose(ours.float(), theirs, rtol=2**-7, atol=2**-8), name


def test_an_adapter_that_does_not_fit_is_told(base: Path, adapter: Path, tmp_path: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    status, told = run("merged", base, tmp_path / "m", "--adapter", adapter, "--name", "x")
    assert status == 1
    assert told["error"]["code"] == "invalid_model"
    assert "it has no adapter_model.safetensors" in told["error"]["message"]


def test_a_gguf_file_of_base_and_adapter_answers_alike(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    into = tmp_path / "out"
    name = "ft:tiny::abcdefgh"
    status, told = run("gguf", base, into, "--adapter", adapter, "--name", name)
    assert (status, told["files"]) == (0, 1)
    assert {path.name for path in tmp_path.iterdir()} == {"base", "adapter", "out"}
    (file,) = into.iterdir()
    assert file.name == "ft-tiny-abcdefgh.gguf"
    network, tokenizer = read_gguf(file)
    fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(fresh, adapter).eval()
    assert torch.allclose(logits(network.eval(), tokenizer), logits(tuned, tokenizer), atol=1e-4)
    same_words(tokenizer, AutoTokenizer.from_pretrained(base))


def same_words(ours: Any, theirs: Any) -> None:
    for text in TEXTS:
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    rendered = [
        one.apply_chat_template(QUESTION, add_generation_prompt=True, tokenize=False)
        for one in (ours, theirs)
    ]
    assert rendered[0] == rendered[1]
    assert (ours.eos_token_id, ours.pad_token_id) == (theirs.eos_token_id, theirs.pad_token_id)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_every_weight_comes_back_as_it_is_stored(
    tmp_path: Path, dtype: torch.dtype, tied: bool
) -> None:
    config = tiny_config(tie_word_embeddings=tied, head_dim=16, vocab_size=262)
    before = saved(tmp_path / "model", config, dtype)
    write_gguf(tmp_path / "model", tmp_path / "x.gguf", name="x", license_=None)
    came_back(tmp_path / "x.gguf", before)


def saved(directory: Path, config: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A random model of any family, its weights as they are stored; its biases are no zeros."""
    torch.manual_seed(5)
    network: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    network.save_pretrained(directory)
    if not (directory / "tokenizer.json").exists():
        merging_tokenizer().save_pretrained(directory)
    return {name: tensor.float() for name, tensor in network.state_dict().items()}


def came_back(file: Path, before: dict[str, torch.Tensor]) -> None:
    network, tokenizer = read_gguf(file)
    assert tokenizer("abc a")["input_ids"][0] == 260
    after = network.state_dict()
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name


@pytest.mark.parametrize(
    ("family", "more"),
    # Every Qwen3 has heads of 128, which transformers takes for granted in a GGUF file.
    [(Qwen2Config, {}), (Qwen3Config, {"head_dim": 128})],
)
def test_qwens_come_back_too(tmp_path: Path, family: type, more: dict[str, int]) -> None:
    model = tmp_path / "model"
    tokenizer = merging_tokenizer()
    raw = tokenizer.backend_tokenizer
    raw.normalizer = normalizers.NFC()
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(list(vocabulary._SPLITS)[1]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.save_pretrained(model)
    shape = tiny_config(vocab_size=262).to_dict()
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    keys += ("num_attention_heads", "num_key_value_heads", "max_position_embeddings")
    config = family(**{key: shape[key] for key in keys}, **more, tie_word_embeddings=False)
    before = saved(model, config, torch.float32)
    write_gguf(model, tmp_path / "x.gguf", name="x", license_="mit")
    came_back(tmp_path / "x.gguf", before)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "'GPT2LMHeadModel' cannot be converted to GGUF"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            "scales its positions ('linear')",
        ),
        ({"hidden_act": "gelu"}, "no usual one"),
        ({"attention_bias": True}, "no usual one"),
    ],
)
def test_an_architecture_that_is_not_converted_is_named(
    base: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    change_json(base / "config.json", **changes)
    status, told = run("gguf", base, tmp_path / "out", "--name", "x")
    assert status == 1
    assert told["error"]["code"] == "unsupported_model"
    assert reason in told["error"]["message"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "changes text before"),
        ({"normalizer": {"type": "NFC"}}, "changes text before"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "splits text in a way"),
        ({"pre_tokenizer": None}, "splits text in a way"),
    ],
)
def test_a_tokenizer_that_reads_otherwise_is_refused(
    base: Path, changes: dict[str, Any], reason: str
) -> None:
    document = json.loads((base / "tokenizer.json").read_text()) | changes
    write_json(base / "tokenizer.json", document)
    with pytest.raises(FtdError, match=reason):
        vocabulary.read_vocabulary(base, 262)


def test_the_splitters_that_llama_cpp_knows(base: Path) -> None:
    levels = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    llama3, qwen = (pre_tokenizers.Split(Regex(split), "isolated") for split in vocabulary._SPLITS)
    for stages, name in (
        ([words], "gpt-2"),
        ([pre_tokenizers.Digits(individual_digits=True), words], "smollm"),
        ([llama3, levels], "llama-bpe"),
        ([qwen, levels], "qwen2"),
    ):
        tokenizer = merging_tokenizer()
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(stages)
        tokenizer.save_pretrained(base)
        found = vocabulary.read_vocabulary(base, 262)
        assert found.splitter == name
        assert found.tokens[259:] == ["ab", "abc", "[PAD261]"]
        assert (found.eos, found.begins, found.ends) == (2, False, False)
        assert found.template == CHATML
