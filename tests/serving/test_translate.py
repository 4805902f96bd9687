"""Requests in OpenAI's words and streams in ours, as documented for both calls."""

from typing import Any

import pytest

from ftd.core import chat
from ftd.serving.translate import Reader, body, path

CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "Paris"}},
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def asked(prompt: chat.Prompt, **more: Any) -> chat.Generate:
    return chat.Generate(id="x", prompt=prompt, **more)


def read(request: chat.Generate, *events: dict[str, Any]) -> list[chat.Answer]:
    reader = Reader(request)
    return [answer for event in events for answer in reader.take(event)] + [reader.end()]


TALK = asked(
    chat.Conversation(
        messages=(
            {"role": "user", "content": "hi"},
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "content": "rain", "tool_call_id": "call_1"},
        ),
        tools=(TOOL,),
        tool_choice="weather",
        parallel_tool_calls=False,
    ),
    sampling=chat.Sampling(
        max_tokens=9, temperature=0, n=2, stop=("a",), seed=0, logit_bias={5: -1}, top_logprobs=2
    ),
    constraint=chat.Constraint(json_schema={"type": "object"}),
)


def test_a_conversation_becomes_a_body() -> None:
    assert path(TALK) == "/v1/chat/completions"
    told = body(TALK, "m")
    text = {"name": "weather", "arguments": '{"city": "Paris"}'}
    assert told.pop("messages") == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "tool_calls": [CALL | {"function": text}]},
        {"role": "tool", "content": "rain", "tool_call_id": "call_1"},
    ]
    assert told == {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "temperature": 0,
        "top_p": 1,
        "n": 2,
        "stop": ["a"],
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "logit_bias": {"5": -1},
        "seed": 0,
        "max_tokens": 9,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}},
        },
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
        "logprobs": True,
        "top_logprobs": 2,
    }


@pytest.mark.parametrize(
    ("prompt", "told"), [(chat.Text(text="Once"), "Once"), (chat.Tokens(ids=(1, 2)), (1, 2))]
)
def test_a_text_becomes_a_body(prompt: chat.Prompt, told: object) -> None:
    request = asked(
        prompt, echo=True, sampling=chat.Sampling(top_logprobs=0), constraint=chat.Constraint()
    )
    assert path(request) == "/v1/completions"
    said = body(request, "m")
    assert (said["prompt"], said["echo"], said["logprobs"]) == (told, True, 0)
    assert said["response_format"] == {"type": "json_object"}
    assert said["max_tokens"] is None, "as many as the context holds"
    assert not {"seed", "messages", "top_logprobs"} & set(said)


def test_a_stream_of_two_choices_with_calls_and_logprobs() -> None:
    logprob = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [
        {"token": "a", "logprob": -0.5, "bytes": None},
    ]}  # fmt: skip
    answers = read(
        TALK,
        {
            "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}],
            "usage": {"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 3}},
        },
        {"choices": [{"index": 1, "delta": {"content": "a"}, "logprobs": {"content": [logprob]}}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": [
            {"index": 0, "id": "call_2", "type": "function",
             "function": {"name": "weather", "arguments": ""}},
        ]}}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": [
            {"index": 0, "function": {"arguments": '{"city":'}},
        ]}}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": [
            {"index": 0, "function": {"arguments": ' "Bonn"}'}},
        ]}, "finish_reason": "tool_calls"}]},
        {"choices": [{"index": 1, "delta": {}, "finish_reason": "length"}]},
        {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 11}},
    )  # fmt: skip
    token = chat.TokenLogprob(
        token="a", bytes=(97,), logprob=-0.5,
        top=(chat.Likely(token="a", bytes=(97,), logprob=-0.5),),
    )  # fmt: skip
    call = chat.ToolCall(id="call_2", name="weather", arguments='{"city": "Bonn"}')
    assert answers == [
        chat.Began(id="x", prompt_tokens=7, cached_tokens=3),
        chat.Piece(id="x", index=1, text="a", logprobs=(token,)),
        chat.Piece(id="x", index=0, tool_calls=(call,)),
        chat.Finished(id="x", index=0, reason="tool_calls"),
        chat.Finished(id="x", index=1, reason="length"),
        chat.Ended(id="x", completion_tokens=11),
    ]


def test_a_stream_of_the_older_call() -> None:
    answers = read(
        asked(chat.Text(text="Once")),
        {"choices": [{"index": 0, "text": "upon", "logprobs": {
            "tokens": ["up", "on"], "token_logprobs": [-1.0, -2.0],
            "top_logprobs": [{"up": -1.0}, None], "text_offset": [0, 2],
        }}]},
        {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]},
    )  # fmt: skip
    up = chat.Likely(token="up", bytes=(117, 112), logprob=-1)
    assert answers == [
        chat.Began(id="x", prompt_tokens=0),
        chat.Piece(
            id="x", index=0, text="upon",
            logprobs=(
                chat.TokenLogprob(token="up", bytes=(117, 112), logprob=-1, top=(up,)),
                chat.TokenLogprob(token="on", bytes=(111, 110), logprob=-2),
            ),
        ),
        chat.Finished(id="x", index=0, reason="stop"),
        chat.Ended(id="x", completion_tokens=0),
    ]  # fmt: skip
