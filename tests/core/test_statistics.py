from typing import Any

import pytest

from ftd.core.example import Chat, Completion
from ftd.core.statistics import Counts, Words, is_refusal, share, words_of

Message = dict[str, Any]


def said(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def chat(*messages: Message, weights: tuple[float, ...] | None = None) -> Chat:
    if weights is None:
        weights = tuple(float(message["role"] == "assistant") for message in messages)
    return Chat(messages=messages, weights=weights)


def count(*examples: Chat | Completion) -> dict[str, Any]:
    counts = Counts()
    for example in examples:
        counts.add(example, words_of(example))
    return counts.values()


def test_the_words_of_a_chat() -> None:
    example = chat(
        said("system", "Be brief."),
        said("developer", "Be kind."),
        said("user", "Hi."),
        said("assistant", "Hello."),
        said("system", "Not a system prompt: it does not lead."),
        {"role": "assistant", "tool_calls": []},
        said("assistant", "Bye."),
    )
    assert words_of(example) == Words(["Hello.", "Bye."], "Be brief.\n\nBe kind.")


def test_the_words_of_a_pair() -> None:
    assert words_of(Completion(prompt="a", completion="b")) == Words(["b"], None)
    assert words_of(Completion(prompt="a", completion="")) == Words([], None)


def test_turns_characters_and_system_prompts() -> None:
    values = count(
        chat(said("system", "12"), said("user", "345"), said("assistant", "6789")),
        chat(said("user", "\U0001f600"), {"role": "assistant", "tool_calls": []}),
        Completion(prompt="12", completion="3"),
    )
    assert values["turns"] == 7
    assert values["characters"] == 9 + 1 + 3
    assert values["replies"] == 2
    assert values["with_tools"] == 1
    assert values["without_system"] == 1
    assert values["without_system_share"] == round(1 / 3, 4)


def test_untrained_replies_are_the_assistants_of_weight_0() -> None:
    turns = (said("user", "a"), said("assistant", "b"), said("user", "c"), said("assistant", "d"))
    assert count(chat(*turns, weights=(0, 0, 0, 1)))["untrained_replies"] == 1
    assert count(chat(*turns))["untrained_replies"] == 0


@pytest.mark.parametrize(
    "reply",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, but I can\u2019t assist with that request.",
        "  sorry, I cannot do that.",
        "Unfortunately, I'm unable to look at websites.",
        "I cannot assist with that.",
        "As an AI language model, I have no opinions.",
    ],
)
def test_refusals_are_known_by_their_opening(reply: str) -> None:
    assert is_refusal(reply)
    assert count(Completion(prompt="?", completion=reply))["refusal_share"] == 1.0


@pytest.mark.parametrize(
    "reply",
    ["", "I can't wait to tell you!", "Sorry, that was a joke.", "He said: I cannot help you."],
)
def test_other_replies_are_no_refusals(reply: str) -> None:
    assert not is_refusal(reply)


def test_a_share_of_nothing_is_nothing() -> None:
    assert share(0, 0) == 0.0
    assert count()["without_system_share"] == 0.0
