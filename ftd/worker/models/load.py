"""Proves that a checked model loads as a trainer will load it, without reading its weights.

On torch's meta device every weight's name and shape is matched with the model's own, while none
is read and no memory is taken: a model of any size is proven in seconds. It is not run: a forward
pass on that device fails for sound models whose path depends on the data (experts, packed masks).

All of it is done in children that can be ended: a tokenizer may never come back, and a
configuration may ask for more than its weights.
"""

import importlib
import json
from pathlib import Path
from typing import Any

from ftd.core.errors import FtdError
from ftd.worker.models.check import Facts
from ftd.worker.models.refusal import broken, shown, unsafe, unsupported
from ftd.worker.models.tokenizer import check_tokenizer
from ftd.worker.models.trial import attempt

TOKENIZER_SECONDS = 60.0
MODEL_SECONDS = 600.0
MEMORY_BYTES = 4 * 2**30
SPARE_BYTES = 2**30  # that a model may take beyond its weights: masks, tables of positions
MAX_RENDERED_CHARACTERS = 100_000
PROBE_CHARACTERS = 5000

_SAMPLE = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
]
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "capital_of",
            "description": "The capital of a country.",
            "parameters": {"type": "object", "properties": {"country": {"type": "string"}}},
        },
    }
]
# What regular expressions find hard: long runs of what they look for, ended by something else.
_RUNS = ("a", "A", "1", " ", "\n", "\t", "!", "\u00e9", "\u4e2d", "aA", " \n", "a1", "'s", "a ")


def prove(directory: Path, facts: Facts) -> None:
    """Load configuration, tokenizer and model of a directory that was checked. Raises FtdError.

    Call from a program without threads of its own.
    """
    for library in ("transformers.models.auto.modeling_auto", "ftd.worker.template"):
        importlib.import_module(library)  # once, and not in each child
    weights = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    attempt(
        "tokenizer or chat template",
        lambda: _try_tokenizer(directory, facts),
        seconds=TOKENIZER_SECONDS,
        memory_bytes=MEMORY_BYTES,
    )
    attempt(
        "model",
        lambda: _match_weights(directory, facts),
        seconds=MODEL_SECONDS,
        memory_bytes=MEMORY_BYTES + weights,
    )


def _try_tokenizer(directory: Path, facts: Facts) -> None:
    tokenizer = _tokenizer(directory)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # also of one that was built from other files
        check_tokenizer(json.loads(backend.to_str()), "the tokenizer")
    ids = tokenizer(_SAMPLE[0]["content"])["input_ids"]
    if not ids or max(ids) >= facts.vocabulary:
        raise broken(
            f"the tokenizer does not fit the model: it makes {shown(ids[:8])} of a "
            f"plain question, and the model knows {facts.vocabulary:,} tokens."
        )
    _try_template(tokenizer)
    for run in _RUNS:
        text = run * (PROBE_CHARACTERS // len(run)) + "x" + run
        tokenizer.encode(text, add_special_tokens=False, verbose=False)


def _tokenizer(directory: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise broken(f"the tokenizer does not load: {_first_line(error)}") from error


def _try_template(tokenizer: Any) -> None:
    """Render it as training and inference will, without tools and with one."""
    from ftd.worker.template import ChatTemplate, RenderError, Unbounded

    if tokenizer.chat_template is None:
        return
    texts = []
    try:
        chat = ChatTemplate(tokenizer)
        texts.append(chat.render(_SAMPLE, None, prompt=False, thinking=False)[0])
        try:
            texts.append(chat.render(_SAMPLE, _TOOLS, prompt=True, thinking=True)[0])
        except Unbounded:
            raise
        except RenderError:
            pass  # it may know neither tools nor thoughts
    except Unbounded as error:
        raise unsafe(f"the chat template is no good on two short messages: {error}.") from error
    except FtdError:
        raise
    except Exception as error:
        raise broken(f"the chat template cannot be rendered: {_first_line(error)}") from error
    if (longest := max(map(len, texts))) > MAX_RENDERED_CHARACTERS:
        raise unsafe(f"the chat template makes {longest:,} characters of two short messages.")


def _match_weights(directory: Path, facts: Facts) -> None:
    from transformers import AutoModelForCausalLM

    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            directory,
            device_map="meta",
            dtype="auto",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except MemoryError:
        raise
    except Exception as error:
        raise broken(f"the model does not load: {_first_line(error)}") from error
    if type(model).__name__ != facts.architecture:
        raise unsupported(
            f"config.json promises {facts.architecture}, but a {facts.model_type} model loads as "
            f"{type(model).__name__}."
        )
    if missing := report["missing_keys"]:
        raise broken(
            f"{len(missing)} weights are missing, {shown(min(missing))} among them; they would be "
            "random numbers."
        )
    spare = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    if spare > SPARE_BYTES:
        raise unsafe(f"the model takes {spare:,} bytes besides its weights.")


def _first_line(error: Exception) -> str:
    """Enough of a library's error for a person; the whole of it is in the log."""
    return shown(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
