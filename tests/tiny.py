"""A tiny random Llama with a tiny chat tokenizer, saved as a model directory like any other."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, ChatML's control tokens, no merges: 259 entries."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def tiny_config(**changes: object) -> LlamaConfig:
    """A Llama of two layers and 32 dimensions, about 30,000 weights."""
    settings: dict[str, object] = {
        "vocab_size": 259,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,  # random logits that differ enough to be taught
    }
    return LlamaConfig(**(settings | changes))


def tiny_model(directory: Path) -> Path:
    """Save the tiny model and its tokenizer as `save_pretrained` leaves them."""
    torch.manual_seed(7)
    LlamaForCausalLM(tiny_config()).save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)
    return directory


def chats(count: int, first: int = 0) -> bytes:
    """JSONL of so many little conversations, each with an answer of its own."""
    lines = []
    for number in range(first, first + count):
        answer = "ab" * (number % 5 + 1) + "!"
        talk = [
            {"role": "user", "content": "x" * (number % 7 + 1)},
            {"role": "assistant", "content": answer},
        ]
        lines.append(json.dumps({"messages": talk}).encode() + b"\n")
    return b"".join(lines)
