"""Answers over gRPC."""

import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from ftd.core import chat
from ftd.v1 import chat_pb2, chat_pb2_grpc
from tests.api.grpc.fake_door import BASE
from tests.api.grpc.serving import BEARER, refused, served, until

ASK = chat_pb2.ChatMessage(role="user", content="six times seven")
TOOL = {"type": "function", "function": {"name": "multiply", "parameters": {"type": "object"}}}


def asking(*messages: chat_pb2.ChatMessage, **more: Any) -> chat_pb2.CompleteRequest:
    of_chat = {key: more.pop(key) for key in ("tools_json", "tool_choice_json") if key in more}
    conversation = chat_pb2.Conversation(messages=messages or (ASK,), **of_chat)
    return chat_pb2.CompleteRequest(**{"model": BASE, "chat": conversation} | more)


async def test_an_answer_comes_as_it_is_made(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, _, channel):
        stub = chat_pb2_grpc.ChatStub(channel)
        told = [part async for part in stub.Complete(asking(), metadata=BEARER)]
    assert {(part.id, part.model) for part in told} == {("chatcmpl-1", BASE)}
    began, *pieces, finished, ended = told
    assert (began.began.prompt_tokens, began.began.cached_tokens) == (7, 2)
    assert began.began.created_at > 0
    assert len(pieces) == 5
    assert "".join(part.piece.text for part in pieces) == "You said: six times seven"
    assert (finished.finished.index, finished.finished.reason) == (0, "stop")
    assert ended.ended.completion_tokens == 5


async def test_everything_that_is_asked_reaches_the_house(tmp_path: Path) -> None:
    sampling = chat_pb2.Sampling(
        max_tokens=5, temperature=0, top_p=0.5, n=2, stop=["a", "b"], seed=-3,
        frequency_penalty=0.25, presence_penalty=-0.25, logit_bias={7: 1.5}, top_logprobs=1,
    )  # fmt: skip
    call = chat_pb2.ToolCall(id="call_1", name="multiply", arguments='{"a": 6}')
    messages = (
        ASK,
        chat_pb2.ChatMessage(role="assistant", tool_calls=[call]),
        chat_pb2.ChatMessage(role="tool", content="42", tool_call_id="call_1"),
        chat_pb2.ChatMessage(role="user", content="", name="Ada"),
    )
    request = asking(
        *messages,
        sampling=sampling,
        tools_json=json.dumps([TOOL]),
        tool_choice_json='"required"',
        response_format_json='{"type": "json_object"}',
    )
    request.chat.parallel_tool_calls = False
    async with served(tmp_path) as (door, _, channel):
        stub = chat_pb2_grpc.ChatStub(channel)
        told = [part async for part in stub.Complete(request, metadata=BEARER)]
    (asked,) = door.chat.asked
    assert asked.sampling == chat.Sampling(
        max_tokens=5, temperature=0, top_p=0.5, n=2, stop=("a", "b"), seed=-3,
        frequency_penalty=0.25, presence_penalty=-0.25, logit_bias={7: 1.5}, top_logprobs=1,
    )  # fmt: skip
    assert asked.constraint == chat.Constraint()
    assert isinstance(asked.prompt, chat.Conversation)
    assert asked.prompt.tools == (TOOL,)
    assert asked.prompt.tool_choice == "required"
    assert not asked.prompt.parallel_tool_calls
    assert asked.prompt.messages == (
        {"role": "user", "content": "six times seven"},
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "multiply", "arguments": {"a": 6}},
                }
            ],
        },
        {"role": "tool", "content": "42", "tool_call_id": "call_1"},
        {"role": "user", "content": "", "name": "Ada"},
    )
    logprob = told[1].piece.logprobs[0]
    assert (logprob.token.text, logprob.token.data, logprob.token.logprob) == ("You", b"You", -0.5)
    assert [likely.text for likely in logprob.top] == ["other"]
    assert {part.finished.index for part in told if part.WhichOneof("part") == "finished"} == {0, 1}


async def test_what_is_left_out_has_openais_default(tmp_path: Path) -> None:
    async with served(tmp_path) as (door, _, channel):
        stub = chat_pb2_grpc.ChatStub(channel)
        for request in (
            chat_pb2.CompleteRequest(model=BASE, text="Once", echo=True),
            chat_pb2.CompleteRequest(model=BASE, tokens=chat_pb2.TokenIds(ids=[5, 6])),
            asking(),
        ):
            async for _ in stub.Complete(request, metadata=BEARER):
                pass
    text, tokens, talk = door.chat.asked
    assert (text.prompt, text.echo) == (chat.Text(text="Once"), True)
    assert (tokens.prompt, tokens.echo) == (chat.Tokens(ids=(5, 6)), False)
    assert isinstance(talk.prompt, chat.Conversation)
    assert talk.prompt.parallel_tool_calls
    assert [one.sampling for one in door.chat.asked] == [chat.Sampling()] * 3
    assert talk.constraint is None


async def test_calls_of_tools_come_whole(tmp_path: Path) -> None:
    async with served(tmp_path) as (door, _, channel):
        door.chat.calls = (chat.ToolCall(id="call_1", name="multiply", arguments='{"a": 6}'),)
        stub = chat_pb2_grpc.ChatStub(channel)
        told = [part async for part in stub.Complete(asking(), metadata=BEARER)]
    (call,) = [call for part in told for call in part.piece.tool_calls]
    assert (call.id, call.name, call.arguments) == ("call_1", "multiply", '{"a": 6}')
    assert told[-2].finished.reason == "tool_calls"


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (chat_pb2.CompleteRequest(model=BASE), "prompt"),
        (chat_pb2.CompleteRequest(model=BASE, chat=chat_pb2.Conversation()), "messages"),
        (chat_pb2.CompleteRequest(model=BASE, tokens=chat_pb2.TokenIds()), "prompt"),
        (asking(chat_pb2.ChatMessage(role="bot", content="x")), "messages[0].role"),
        (asking(chat_pb2.ChatMessage(role="user")), "messages[0].content"),
        (asking(tools_json="[{]"), "tools_json"),
        (asking(tools_json="[NaN]"), "tools_json"),
        (asking(tools_json="[" * 100_000), "tools_json"),
        (asking(tools_json='["\\ud800"]'), "tools_json"),
        (asking(tools_json="{}"), "tools"),
        (asking(tool_choice_json="required"), "tool_choice_json"),
        (asking(tool_choice_json='"required"'), "tool_choice"),
        (asking(response_format_json="json"), "response_format_json"),
        (asking(response_format_json='{"type": "xml"}'), "response_format.type"),
        (asking(sampling=chat_pb2.Sampling(temperature=3)), "temperature"),
        (asking(sampling=chat_pb2.Sampling(temperature=float("nan"))), "temperature"),
        (asking(sampling=chat_pb2.Sampling(n=0)), "n"),
        (asking(sampling=chat_pb2.Sampling(max_tokens=0)), "max_tokens"),
        (asking(echo=True), "echo"),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_is_told(
    tmp_path: Path, request_: chat_pb2.CompleteRequest, param: str
) -> None:
    async with served(tmp_path) as (door, _, channel):
        call = chat_pb2_grpc.ChatStub(channel).Complete(request_, metadata=BEARER)
        code, message, said = await refused(anext(aiter(call)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert said["ftd-param"].replace("%5B", "[").replace("%5D", "]") == param
    assert message
    assert door.chat.asked == []


async def test_an_unknown_model(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, _, channel):
        call = chat_pb2_grpc.ChatStub(channel).Complete(asking(model="gpt-9"), metadata=BEARER)
        code, _, said = await refused(anext(aiter(call)))
    assert (code, said["ftd-code"]) == (grpc.StatusCode.NOT_FOUND, "model_not_found")


async def test_a_client_that_goes_ends_the_work(tmp_path: Path) -> None:
    async with served(tmp_path) as (door, _, channel):
        door.chat.stall_at = 2
        call = chat_pb2_grpc.ChatStub(channel).Complete(asking(), metadata=BEARER)
        told = aiter(call)
        assert (await anext(told)).began.prompt_tokens == 7
        assert (await anext(told)).piece.text == "You"
        assert door.chat.running == 1
        call.cancel()
        await until(lambda: door.chat.running == 0)


async def test_a_worker_that_ends_midway_ends_the_stream_with_a_reason(tmp_path: Path) -> None:
    async with served(tmp_path) as (door, _, channel):
        door.chat.die_at = 1
        told = aiter(chat_pb2_grpc.ChatStub(channel).Complete(asking(), metadata=BEARER))
        assert [(await anext(told)).WhichOneof("part") for _ in range(2)] == ["began", "piece"]
        code, message, said = await refused(anext(told))
        assert door.chat.running == 0
    assert (code, said["ftd-kind"]) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
    assert int(said["grpc-retry-pushback-ms"]) > 0
    assert message == "The inference worker has ended; try again."
