"""Random weights of known shapes: how well the trainer uses a device, without a download.

    python -m bench.train_speed --shape qwen2.5-0.5b

LoRA (rank 16, all linear layers) on 96 conversations of about 1,000 tokens that share no more than
a short system prompt, 16 a batch, in bfloat16 on CUDA, else in float32 on the processor. The
tokenizer is SmolLM2's, whose ids are among every shape's. The first 3 of 6 steps do not count.

Model FLOPs utilisation is the arithmetic that the mathematics asks for, over what the device could
have done in that time. A frozen weight takes 2 FLOPs a token forward and 2 backward, to pass the
gradient on; an adapter's 2 and 4; the head counts for positions with a loss alone; attention takes
2 d s^2 a layer forward (causal: half of what q k' and p v would take) and twice that backward, for
d = heads x head size and s tokens. What is recomputed or computed for padding does not count.

    tokens (4 N + 6 A) + loss tokens 4 V h + 6 L d sum(s^2)

Peaks: dense bfloat16, from NVIDIA's data sheets (H100, H200 SXM: 989 TFLOPS; A100: 312; L40S: 362).
"""

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench import data, trainer
from bench.machine import describe, table
from tests.starter import starter_model

WARM_STEPS = 3
EXAMPLES, BATCH = 96, 16
EXAMPLE_CHARACTERS = 2600  # about 1,000 tokens, with those of the template
MICRO_BATCH_TOKENS = 16384

PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0}


def _qwen(hidden: int, ffn: int, layers: int, heads: int, kv_heads: int) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 151936,
        "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "max_position_embeddings": 32768, "rope_theta": 1e6, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    }  # fmt: skip


def _llama(vocabulary: int, hidden: int, ffn: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary,
        "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": heads // 4,
        "max_position_embeddings": 8192, "rope_theta": 5e5, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    }  # fmt: skip


# As their publishers' config.json has them; `tiny` is for trying this program out.
SHAPES = {
    "qwen2.5-0.5b": _qwen(896, 4864, 24, 14, 2),
    "qwen2.5-1.5b": _qwen(1536, 8960, 28, 12, 2),
    "llama-3.1-8b": _llama(128256, 4096, 14336, 32, 32),
    "tiny": _llama(49152, 128, 384, 4, 4),
}


def linear_weights(shape: dict[str, Any]) -> list[tuple[int, int]]:
    """(in, out) of each linear layer of all layers, the head left out."""
    hidden, ffn = shape["hidden_size"], shape["intermediate_size"]
    own = shape["num_key_value_heads"] * hidden // shape["num_attention_heads"]
    attention = [(hidden, hidden), (hidden, own), (hidden, own), (hidden, hidden)]
    mlp = [(hidden, ffn), (hidden, ffn), (ffn, hidden)]
    layers: int = shape["num_hidden_layers"]
    return (attention + mlp) * layers


def step_flops(shape: dict[str, Any], lengths: list[int], loss_tokens: int) -> float:
    """What a step of examples of these lengths asks for, as the docstring above counts it."""
    weights = linear_weights(shape)
    frozen = sum(inputs * outputs for inputs, outputs in weights)
    adapter = sum(trainer.RANK * (inputs + outputs) for inputs, outputs in weights)
    hidden, layers = shape["hidden_size"], shape["num_hidden_layers"]
    dense = sum(lengths) * (4 * frozen + 6 * adapter)
    head = loss_tokens * 4 * shape["vocab_size"] * hidden
    attention = 6 * layers * hidden * sum(length**2 for length in lengths)
    return float(dense + head + attention)


def long_conversations() -> list[dict[str, Any]]:
    """Conversations that change their subject often enough to be long; no two begin alike."""
    talks = [example["messages"] for example in data.conversations(700)]
    examples = []
    for number in range(EXAMPLES):
        mixed = random.Random(number).sample(talks, len(talks))
        messages: list[dict[str, str]] = []
        while sum(len(message["content"]) for message in messages) < EXAMPLE_CHARACTERS:
            messages += mixed.pop()
        examples.append({"messages": messages})
    return examples


def directory(shape: dict[str, Any], at: Path) -> Path:
    """A model's directory with SmolLM2's tokenizer and without weights."""
    at.mkdir()
    (at / "config.json").write_text(json.dumps(shape))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (at / name).symlink_to(starter_model() / name)
    return at


def measure(name: str) -> trainer.Trained:
    cuda = torch.cuda.is_available()
    changes = {
        "batch_size": BATCH,
        "micro_batch_tokens": MICRO_BATCH_TOKENS,
        "device": "cuda" if cuda else "cpu",
        "dtype": "bfloat16" if cuda else "float32",
    }
    with tempfile.TemporaryDirectory(prefix="ftd-bench-") as scratch:
        model = directory(SHAPES[name], Path(scratch) / "model")
        lines = data.lines(long_conversations())
        root = trainer.prepare(Path(scratch) / "run", model, lines, trainer.spec(**changes))
        return trainer.train(root, "--random-weights")


def report(name: str, peak_tflops: float | None, *, as_json: bool) -> None:
    done = measure(name)
    counted = done.steps[WARM_STEPS:]
    seconds = done.ends_s[-1] - done.ends_s[WARM_STEPS - 1]
    # Examples are about equally long; how long each is, the trainer does not tell.
    flops = sum(
        step_flops(SHAPES[name], [step.tokens // BATCH] * BATCH, step.loss_tokens)
        for step in counted
    )
    tflops = flops / seconds / 1e12
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    known = [peak for part, peak in PEAK_TFLOPS.items() if card and part in card]
    peak = peak_tflops or (known[0] if known else None)
    figures: dict[str, Any] = {
        "device": card or "processor",
        "tokens/s": done.tokens_per_s(WARM_STEPS),
        "TFLOPS": tflops,
        "model FLOPs utilisation": tflops / peak if peak else None,
        "peak of the device [GiB]": done.peak_device_bytes / 2**30,
        "peak of the host [GiB]": done.peak_bytes / 2**30,
        "final loss": done.losses[-1],
    }
    if as_json:
        print(json.dumps({"shape": name} | figures))
        return
    print(f"{name}, random weights; {describe()}, torch {torch.__version__}")
    table([
        (key, f"{value:.4g}" if isinstance(value, float) else value or "unknown")
        for key, value in figures.items()
    ])  # fmt: skip
