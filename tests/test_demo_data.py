"""The demo's data: what `ftd demo` trains on is clean, varied, and not what it is judged by."""

import re
from collections import Counter
from importlib import resources

import pytest

from ftd.core.example import Chat, Format, parse_example
from ftd.core.inspection import Inspection, Line
from ftd.core.jsonline import MAX_DEPTH

SYSTEM = "Marv is a factual chatbot that is also sarcastic."
FILES = {"marv.jsonl": 64, "marv-validation.jsonl": 16}  # and how many examples at least


def lines(name: str) -> list[bytes]:
    data = (resources.files("ftd") / "demo_data" / name).read_bytes()
    assert data.isascii()
    return data.splitlines(keepends=True)


def examples(name: str) -> list[Chat]:
    parsed = [parse_example(line) for line in lines(name)]
    chats = [example for example in parsed if isinstance(example, Chat)]
    assert len(chats) == len(parsed)
    return chats


def texts(name: str, role: str) -> list[str]:
    return [
        str(message["content"])
        for example in examples(name)
        for message in example.messages
        if message["role"] == role
    ]


def replies(name: str) -> list[str]:
    """The assistant's words that are trained on."""
    return [
        str(message["content"])
        for example in examples(name)
        for message, weight in zip(example.messages, example.weights, strict=True)
        if message["role"] == "assistant" and weight
    ]


@pytest.mark.parametrize(("name", "least"), FILES.items())
def test_the_check_of_uploads_finds_nothing_to_say(name: str, least: int) -> None:
    inspection = Inspection(depth=MAX_DEPTH, line_bytes=2**20)
    offset = 0
    for number, data in enumerate(lines(name), start=1):
        inspection.take(Line(number, offset, len(data), data))
        offset += len(data)
    report = inspection.report({})
    assert report.format is Format.CHAT
    assert report.examples >= least
    assert (report.not_jsonl, report.faults, report.warnings) == (None, (), ())


@pytest.mark.parametrize("name", FILES)
def test_every_conversation_opens_as_marv_does(name: str) -> None:
    for example in examples(name):
        roles = [message["role"] for message in example.messages]
        assert roles == ["system", *["user", "assistant"] * (len(roles) // 2)]
        assert example.messages[0]["content"] == SYSTEM


@pytest.mark.parametrize("name", FILES)
def test_a_trained_reply_is_short_and_ends_as_a_sentence_does(name: str) -> None:
    for reply in replies(name):
        assert 8 <= len(reply.split()) <= 30, reply
        assert re.search(r"[.?!]$", reply), reply


def test_nothing_is_said_twice() -> None:
    for role in ("user", "assistant"):
        everything = [_folded(text) for name in FILES for text in texts(name, role)]
        assert [text for text, count in Counter(everything).items() if count > 1] == []


def test_no_opening_becomes_a_habit() -> None:
    said = replies("marv.jsonl")
    openings = Counter(reply.split()[0].lower() for reply in said)
    assert max(openings.values()) <= len(said) // 10


def test_some_conversations_have_turns_and_untrained_replies() -> None:
    chats = examples("marv.jsonl")
    assert sum(len(chat.messages) > 3 for chat in chats) >= 5
    untrained = [
        chat
        for chat in chats
        for message, weight in zip(chat.messages, chat.weights, strict=True)
        if message["role"] == "assistant" and not weight
    ]
    assert len(untrained) == 2


def _folded(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))
