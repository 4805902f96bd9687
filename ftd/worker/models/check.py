"""Judges a model directory by its bytes alone, before any library that could be fooled reads it.

Only the top level counts: nothing below it is taken. Of the files there only those of known names
are taken, so what a directory holds besides them is left behind, unread. What could run code, or
leads out of the directory, condemns the whole of it.
"""

import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from ftd.worker.models import tree
from ftd.worker.models.configs import CONFIGS, Config, check_harmless, read_config, read_json
from ftd.worker.models.refusal import broken, not_found, shown, unsafe, unsupported
from ftd.worker.models.tokenizer import check_tokenizer, check_vocabulary
from ftd.worker.models.weights import INDEX, SINGLE, Weights, read_weights

MAX_ENTRIES = 10_000
MAX_BYTES = 2**40  # of all that is taken
MAX_TOKENIZER_BYTES = 128 * 2**20
MAX_TEMPLATE_BYTES = 2**20
MAX_TEXT_BYTES = 2**20

_TEMPLATE = "chat_template.jinja"
_TOKENIZERS = ({"tokenizer.json"}, {"tokenizer.model"}, {"vocab.json", "merges.txt"})
_TOKENIZER_FILES = frozenset({"tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt"})
_TAKEN_CONFIGS = CONFIGS - {"processor_config.json", "preprocessor_config.json"}
# name -> limit, for all but the weights
_TAKEN = {
    **dict.fromkeys(_TOKENIZER_FILES | {"added_tokens.json"}, MAX_TOKENIZER_BYTES),
    _TEMPLATE: MAX_TEMPLATE_BYTES,
}
_JUDGES = {
    "tokenizer.json": check_tokenizer,
    "vocab.json": check_vocabulary,
    "added_tokens.json": check_vocabulary,
}
_TEXTS = re.compile(
    r"(LICENSE|LICENCE|NOTICE|USE_POLICY|README)(\.md|\.txt)?\Z", re.IGNORECASE | re.ASCII
)

_CODE = frozenset({".py", ".pyc", ".pyd", ".so", ".sh", ".dll", ".dylib"})
# Formats that run code when they are loaded, or may; each has a safetensors sister.
_PICKLES = frozenset(
    {".bin", ".pt", ".pth", ".pt2", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".h5"}
    | {".msgpack"}
)

# The `license:` line of a model card's YAML front matter.
_FRONT_MATTER = re.compile(r"---\n(.*?)\n---", re.DOTALL)
_LICENSE = re.compile(r"^license:[ \t]*[\"']?([A-Za-z0-9._+ -]{1,100})[\"']?[ \t]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a model says about itself, as far as its files bear it out."""

    architecture: str  # the class, LlamaForCausalLM
    model_type: str
    parameters: int  # as stored: shared weights count once
    context_tokens: int
    hidden_size: int
    layers: int
    vocabulary: int
    dtype: str  # as stored: float32, float16 or bfloat16
    has_chat_template: bool
    license: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A directory that may be taken in: its facts, what to copy, and what stays behind."""

    facts: Facts
    files: tuple[str, ...]
    notes: tuple[str, ...]


def check_directory(directory: Path) -> Checked:
    """Check every file that would be taken. Raises FtdError with what to do about it."""
    names = _survey(directory)
    pickles = frozenset(name for name in names if Path(name).suffix.lower() in _PICKLES)
    if not names & {SINGLE, INDEX}:
        raise _no_weights(names, pickles)
    for name in sorted(names & CONFIGS):
        check_harmless(directory / name)
    if "config.json" not in names:
        raise broken("the directory has no config.json.")
    config = read_config(directory)
    _check_tokenizer(names)
    weights = read_weights(directory, names)
    others = frozenset(name for name in names if _is_taken(name))
    for name in sorted(others):
        _check_size(directory / name)
    for name in sorted(others & _JUDGES.keys()):
        _JUDGES[name](read_json(directory / name, limit_bytes=MAX_TOKENIZER_BYTES), name)
    files = tuple(sorted(others | frozenset(weights.files)))
    _check_sum(directory, files)
    return Checked(
        facts=_facts(directory, names, config, weights),
        files=files,
        notes=_notes(names - frozenset(files), pickles),
    )


def _survey(directory: Path) -> frozenset[str]:
    """The names of the regular files at the top level."""
    try:
        with os.scandir(directory) as entries:
            listed = [entry for entry, _ in zip(entries, range(MAX_ENTRIES + 1), strict=False)]
    except FileNotFoundError:
        raise not_found(f"there is no directory {shown(directory)}.") from None
    except NotADirectoryError:
        raise not_found(f"{shown(directory)} is no directory.") from None
    except PermissionError:
        raise not_found(f"the directory {shown(directory)} cannot be read by this user.") from None
    if len(listed) > MAX_ENTRIES:
        raise broken(f"the directory has more than {MAX_ENTRIES:,} entries.")
    root = directory.resolve()
    return frozenset(
        entry.name
        for entry in sorted(listed, key=lambda entry: entry.name)
        if not entry.name.startswith(".") and _is_file(entry, root)
    )


def _is_file(entry: os.DirEntry[str], root: Path) -> bool:
    """Whether the entry is a file to look at; an entry that condemns the directory raises."""
    if entry.is_symlink():
        steps = tree.steps_of(str(Path(entry.path).readlink()))
        try:
            target = Path(entry.path).resolve()
        except (OSError, RuntimeError):
            raise broken(f"{shown(entry.name)} is a link to itself.") from None
        if steps is None or not target.is_relative_to(root):
            raise unsafe(
                f"{shown(entry.name)} is a link that leads out of the directory (a Hugging Face "
                "cache is made of such links). Copy the model with `cp -rL` and add the copy."
            )
        if not target.exists():
            raise broken(f"{shown(entry.name)} is a link to nothing.")
    if entry.is_dir():
        return False
    if not stat.S_ISREG(entry.stat().st_mode):
        raise unsafe(f"{shown(entry.name)} is neither a file nor a directory.")
    if Path(entry.name).suffix.lower() in _CODE:
        raise unsafe(
            f"{shown(entry.name)} is program code. A model that needs its own code cannot be "
            "added; if this one does not, remove the file."
        )
    if not os.access(entry.path, os.R_OK):
        raise not_found(f"{shown(entry.name)} cannot be read by this user.")
    return True


def _no_weights(names: frozenset[str], pickles: frozenset[str]) -> Exception:
    if "adapter_config.json" in names:
        return unsupported("this is a LoRA adapter. Add its base model; an adapter is no model.")
    if pickles:
        return unsafe(
            f"the weights are pickles ({shown(min(pickles))}), which can run code when they are "
            f"loaded. Convert the model to safetensors first ({SINGLE})."
        )
    if any(name.lower().endswith(".gguf") for name in names):
        return unsupported("the directory holds GGUF files. Name the .gguf file itself.")
    return broken(f"the directory has no weights: neither {SINGLE} nor {INDEX}.")


def _check_tokenizer(names: frozenset[str]) -> None:
    if not any(kind <= names for kind in _TOKENIZERS):
        raise broken(
            "the directory has no tokenizer: neither tokenizer.json, nor tokenizer.model, nor "
            "vocab.json with merges.txt."
        )


def _is_taken(name: str) -> bool:
    return name in _TAKEN or name in _TAKEN_CONFIGS or _TEXTS.match(name) is not None


def _check_size(path: Path) -> None:
    limit = _TAKEN.get(path.name, MAX_TEXT_BYTES)
    if path.name not in _TAKEN_CONFIGS and path.stat().st_size > limit:
        raise broken(f"{path.name} is larger than {limit:,} bytes.")


def _check_sum(directory: Path, files: tuple[str, ...]) -> None:
    total = sum((directory / name).stat().st_size for name in files)
    if total > MAX_BYTES:
        raise broken(f"the files take {total:,} bytes; at most {MAX_BYTES:,} are allowed.")


def _facts(directory: Path, names: frozenset[str], config: Config, weights: Weights) -> Facts:
    return Facts(
        architecture=config.architecture,
        model_type=config.model_type,
        parameters=weights.parameters,
        context_tokens=config.context_tokens,
        hidden_size=config.hidden_size,
        layers=config.layers,
        vocabulary=config.vocabulary,
        dtype=weights.dtype,
        has_chat_template=_has_chat_template(directory, names),
        license=_license(directory, names),
    )


def _has_chat_template(directory: Path, names: frozenset[str]) -> bool:
    if "tokenizer_config.json" not in names:
        return _TEMPLATE in names
    template = read_json(directory / "tokenizer_config.json").get("chat_template")
    if len(json.dumps(template)) > MAX_TEMPLATE_BYTES:
        raise broken(f"the chat template is larger than {MAX_TEMPLATE_BYTES:,} bytes.")
    return _TEMPLATE in names or bool(template)


def _license(directory: Path, names: frozenset[str]) -> str | None:
    if "README.md" not in names:
        return None
    with tree.opened(directory / "README.md") as file:
        card = file.read(MAX_TEXT_BYTES).decode(errors="replace")
    front = _FRONT_MATTER.match(card)
    found = _LICENSE.search(front[1]) if front else None
    return found[1].strip() if found else None


def _notes(left: frozenset[str], pickles: frozenset[str]) -> tuple[str, ...]:
    notes = []
    if pickles:
        notes.append(f"not taken, because such files can run code: {_list(pickles)}")
    if others := left - pickles:
        notes.append(f"not taken, because nothing here needs them: {_list(others)}")
    return tuple(notes)


def _list(names: frozenset[str], limit: int = 10) -> str:
    listed = ", ".join(shown(name) for name in sorted(names)[:limit])
    return listed if len(names) <= limit else f"{listed} and {len(names) - limit} more"
