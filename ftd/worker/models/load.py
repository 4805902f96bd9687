"""Proves that a checked model loads as a trainer will load it, without reading its weights.

On torch's meta device every weight's name and shape is matched with the model's own, while none
is read and no memory is taken: a model of any size is proven in seconds. It is not run: a forward
pass on that device fails for sound models whose path depends on the data (experts, packed masks).
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftd.worker.models.check import Facts
from ftd.worker.models.refusal import broken, shown, unsafe, unsupported

TEMPLATE_SECONDS = 10.0
MAX_RENDERED_CHARACTERS = 100_000

_SAMPLE = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
]


def prove(directory: Path, facts: Facts) -> None:
    """Load configuration, tokenizer and model of a directory that was checked. Raises FtdError.

    A template that never ends is stopped after TEMPLATE_SECONDS; call from the main thread.
    """
    tokenizer = _tokenizer(directory)
    _try_template(tokenizer)
    ids = tokenizer(_SAMPLE[0]["content"])["input_ids"]
    if not ids or max(ids) >= facts.vocabulary:
        raise broken(
            f"the tokenizer does not fit the model: it makes {shown(ids[:8])} of a "
            f"plain question, and the model knows {facts.vocabulary:,} tokens."
        )
    _match_weights(directory, facts)


def _tokenizer(directory: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise broken(f"the tokenizer does not load: {_first_line(error)}") from error


def _try_template(tokenizer: Any) -> None:
    if tokenizer.chat_template is None:
        return
    try:
        with _at_most(TEMPLATE_SECONDS):
            text = tokenizer.apply_chat_template(_SAMPLE, tokenize=False)
    except TimeoutError:
        raise unsafe(
            f"the chat template did not end within {TEMPLATE_SECONDS:g} s on two short messages."
        ) from None
    except Exception as error:
        raise broken(f"the chat template cannot be rendered: {_first_line(error)}") from error
    if len(text) > MAX_RENDERED_CHARACTERS:
        raise unsafe(f"the chat template makes {len(text):,} characters of two short messages.")


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


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Interrupt Python code that runs longer, with TimeoutError."""

    def ring(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _first_line(error: Exception) -> str:
    """Enough of a library's error for a person; the whole of it is in the log."""
    return shown(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
