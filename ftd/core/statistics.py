"""What a data set is made of, counted example by example."""

from dataclasses import dataclass
from typing import Any

from ftd.core.example import Chat, Example

MAX_REPLY = 200  # characters kept of the most repeated reply

# How refusals open, in English and in lower case: an apology and an inability, or an inability
# to do just what was asked. A data set full of them teaches to refuse.
_APOLOGIES = (
    "i'm sorry, but ", "i'm sorry, ", "i am sorry, but ", "i am sorry, ", "sorry, but ", "sorry, ",
    "i apologize, but ", "unfortunately, ",
)  # fmt: skip
_INABILITIES = (
    "i can't ", "i cannot ", "i won't ", "i will not ", "i'm unable to ", "i am unable to ",
    "i'm not able to ", "i am not able to ",
)  # fmt: skip
_TASKS = ("assist", "comply", "fulfill", "help", "provide", "answer")
REFUSALS = (
    *(first + second for first in _APOLOGIES for second in _INABILITIES),
    *(first + second for first in _INABILITIES for second in _TASKS),
    "as an ai language model",
    "as an ai assistant, i can",
)
_LONGEST_REFUSAL = max(map(len, REFUSALS))


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatedReply:
    """The assistant's reply that occurs most often, if any occurs twice."""

    text: str  # its first MAX_REPLY characters
    count: int
    share: float  # of all replies


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Counts over the valid examples of a file; shares lie between 0 and 1.

    A reply is an assistant message with words, or a completion. System prompts are a chat's
    leading system and developer messages taken together.
    """

    bytes: int = 0  # of the whole file
    longest_line: int = 0  # in bytes, faulty lines included
    blank_lines: int = 0
    bad_examples: int = 0
    turns: int = 0  # messages; two per prompt/completion pair
    characters: int = 0
    duplicates: int = 0  # examples that occurred before
    replies: int = 0
    distinct_replies: int = 0
    most_repeated_reply: RepeatedReply | None = None
    refusals: int = 0
    refusal_share: float = 0.0  # of all replies
    untrained_replies: int = 0  # assistant messages of weight 0
    with_tools: int = 0  # examples that declare or call tools
    without_system: int = 0
    without_system_share: float = 0.0  # of all examples; 0 for prompt/completion pairs
    system_prompts: int = 0  # distinct ones; more than one: they are mixed
    common_system_share: float = 0.0  # of the most common among all that have one


@dataclass(frozen=True, slots=True)
class Words:
    """What an example says, apart from its structure."""

    replies: list[str]
    system: str | None


def words_of(example: Example) -> Words:
    if not isinstance(example, Chat):
        return Words([example.completion] if example.completion else [], None)
    replies: list[str] = []
    system: list[str] = []
    leading = True
    for message in example.messages:
        role = message["role"]
        if leading and role in ("system", "developer"):
            system.append(message["content"])
            continue
        leading = False
        if role == "assistant" and message.get("content"):
            replies.append(message["content"])
    return Words(replies, "\n\n".join(system) if system else None)


def is_refusal(reply: str) -> bool:
    """Whether an English reply opens as refusals do."""
    opening = reply[: 2 * _LONGEST_REFUSAL].lstrip().lower().replace("\u2019", "'")
    return opening.startswith(REFUSALS)


class Counts:
    """The sums behind Statistics that need no memory of earlier examples."""

    def __init__(self) -> None:
        self.examples = 0
        self._turns = 0
        self._characters = 0
        self._replies = 0
        self._refusals = 0
        self._untrained = 0
        self._with_tools = 0
        self._without_system = 0

    def add(self, example: Example, words: Words) -> None:
        self.examples += 1
        self._replies += len(words.replies)
        self._refusals += sum(map(is_refusal, words.replies))
        if not isinstance(example, Chat):
            self._turns += 2
            self._characters += len(example.prompt) + len(example.completion)
            return
        messages = example.messages
        self._turns += len(messages)
        self._characters += sum([len(message.get("content", "")) for message in messages])
        self._without_system += words.system is None
        assistants = [message["role"] for message in messages].count("assistant")
        self._untrained += assistants - round(sum(example.weights))
        calls = any("tool_calls" in message for message in messages)
        self._with_tools += bool(example.tools) or calls

    def values(self) -> dict[str, Any]:
        """Fields of Statistics by name."""
        return {
            "turns": self._turns,
            "characters": self._characters,
            "replies": self._replies,
            "refusals": self._refusals,
            "refusal_share": share(self._refusals, self._replies),
            "untrained_replies": self._untrained,
            "with_tools": self._with_tools,
            "without_system": self._without_system,
            "without_system_share": share(self._without_system, self.examples),
        }


def share(part: int, whole: int) -> float:
    """Four digits are plenty; nothing of nothing is 0."""
    return round(part / whole, 4) if whole else 0.0
