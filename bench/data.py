"""Real conversations to train on, the same for everybody: chatterbot-corpus, in English.

The corpus (Gunther Cox and contributors, BSD-3-Clause) is a package without code that is worth
importing; `make bench-install` puts it into .venv-bench, where its files are read from here.
"""

import importlib.util
import json
import sysconfig
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv-bench"
MISSING = "chatterbot-corpus is not there: run `make bench-install` first"

# About 290 tokens of SmolLM2's, as the instructions of a small company's assistant often are.
SYSTEM_PROMPT = """\
You are the assistant of a small shop that repairs and sells bicycles. Customers write to you in \
the chat window of the shop's web page, and you answer for the whole team. Be friendly and brief: \
two or three sentences are enough, and never more than one question at a time. Use plain words, no \
lists and no emojis. The shop is open from Tuesday to Friday from nine in the morning until six in \
the evening, and on Saturday until two in the afternoon; it is closed on Sunday and Monday. An \
inspection costs thirty-nine euros and takes two working days; a flat tyre is repaired while the \
customer waits, for fifteen euros with a new tube. Electric bicycles are inspected too, but their \
batteries are sent to the maker, which takes about two weeks. A new bicycle may be returned within \
thirty days if it has not been ridden in the rain. Prices of spare parts change, so never name one \
that is not written here; offer a call back. Ask for a telephone number \
only when the customer wants that call, and do not ask for an address at all. If somebody writes \
about an accident, first ask whether everybody is well, and then advise not to ride the bicycle \
until it has been looked at. If a question has nothing to do with bicycles, answer it kindly and \
briefly all the same, and say nothing that you do not know to be true. Now the customer writes to \
you.\
"""


def conversations(count: int, system: str | None = None) -> list[dict[str, Any]]:
    """`count` conversations that begin with different words, from all over the corpus.

    Each is an example in OpenAI's form; with `system`, all begin with that message.
    """
    spread = _distinct()
    assert count <= len(spread), f"the corpus has {len(spread)} different conversations"
    opening = [{"role": "system", "content": system}] if system else []
    return [
        {"messages": opening + spread[number * len(spread) // count]} for number in range(count)
    ]


def lines(examples: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(example).encode() + b"\n" for example in examples)


def _distinct() -> list[list[dict[str, str]]]:
    """Every conversation whose first words no other one had before, in the order of the files."""
    seen: set[str] = set()
    found = []
    for path in sorted((_corpus() / "data" / "english").glob("*.yml")):
        for talk in yaml.safe_load(path.read_text())["conversations"]:
            words = [str(said) for said in talk]
            opening = words[0].strip().lower()
            if len(words) < 2 or opening in seen:
                continue
            seen.add(opening)
            found.append(
                [
                    {"role": role, "content": said}
                    # An odd last word has no answer to train on.
                    for said, role in zip(
                        words[: len(words) // 2 * 2],
                        ("user", "assistant") * (len(words) // 2),
                        strict=True,
                    )
                ]
            )
    return found


def _corpus() -> Path:
    """The package's directory: of this environment, or of the one that the bench has made."""
    spec = importlib.util.find_spec("chatterbot_corpus")
    if spec is not None and spec.submodule_search_locations:
        return Path(spec.submodule_search_locations[0])
    purelib = sysconfig.get_path("purelib", vars={"base": str(VENV), "platbase": str(VENV)})
    directory = Path(purelib) / "chatterbot_corpus"
    if not directory.is_dir():
        raise SystemExit(MISSING)
    return directory
