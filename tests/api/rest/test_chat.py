"""Chat completions: what the SDK sends and reads, in OpenAI's shapes to the last key."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
import pytest

from ftd.core import chat
from ftd.core.errors import FtdError, Kind
from tests.api.rest.face import BASE, Face
from tests.api.rest.scripted import piece
from tests.api.rest.test_errors import error_of

CHAT = "/v1/chat/completions"
HELLO: list[Any] = [{"role": "user", "content": "Hello!"}]
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


def body(**more: Any) -> dict[str, Any]:
    return {"model": BASE, "messages": HELLO} | more


def events(text: str) -> list[Any]:
    """The data of each event; the last must be [DONE]."""
    parts = text.split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") for part in parts)
    assert parts.pop() == "data: [DONE]"
    return [json.loads(part.removeprefix("data: ")) for part in parts]


async def test_a_whole_answer(face: Face, http: httpx2.AsyncClient) -> None:
    answer = await http.post(CHAT, json=body())
    assert answer.headers["content-type"] == "application/json"
    told = answer.json()
    assert told.pop("id").startswith("chatcmpl-")
    assert told.pop("system_fingerprint").startswith("fp_")
    assert told == {
        "object": "chat.completion",
        "created": face.store.clock.now(),
        "model": BASE,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello there", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 3,
            "total_tokens": 10,
            "prompt_tokens_details": {"cached_tokens": 5},
        },
    }
    assert face.pool.open == 0


async def test_a_stream_with_its_usage(face: Face, http: httpx2.AsyncClient) -> None:
    asked = body(n=2, stream=True, stream_options={"include_usage": True})
    answer = await http.post(CHAT, json=asked)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    chunks = events(answer.text)
    for chunk in chunks:
        assert chunk.keys() == {
            "id", "object", "created", "model", "choices", "usage", "system_fingerprint"
        }  # fmt: skip
        assert chunk["id"] == chunks[0]["id"]
        assert chunk["object"] == "chat.completion.chunk"
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 7 + 6
    told: dict[int, list[Any]] = {0: [], 1: []}
    for chunk in chunks[:-1]:
        (choice,) = chunk["choices"]
        assert choice["logprobs"] is None
        told[choice["index"]].append((choice["delta"], choice["finish_reason"]))
    for deltas in told.values():
        assert deltas == [
            ({"role": "assistant", "content": ""}, None),
            ({"content": "Hello"}, None),
            ({"content": " there"}, None),
            ({}, "stop"),
        ]


async def test_a_stream_without_its_usage(http: httpx2.AsyncClient) -> None:
    answer = await http.post(CHAT, json=body(stream=True))
    assert all("usage" not in chunk and chunk["choices"] for chunk in events(answer.text))


async def test_the_sdk_is_content(face: Face, client: openai.AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(
        model="gpt-4o-mini", messages=HELLO, n=3, logprobs=True, top_logprobs=2
    )
    assert whole.model == "gpt-4o-mini"  # as it was asked for
    assert [choice.message.content for choice in whole.choices] == ["Hello there"] * 3
    (first, _) = whole.choices[2].logprobs.content  # type: ignore[union-attr, misc]
    assert (first.token, first.bytes, first.logprob) == ("Hello", list(b"Hello"), -0.25)
    assert [likely.token for likely in first.top_logprobs] == ["Hello", "Hello1"]
    async with client.chat.completions.stream(
        model=BASE, messages=HELLO, logprobs=True, stream_options={"include_usage": True}
    ) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "Hello there"
    assert final.usage.completion_tokens == 3  # type: ignore[union-attr]
    assert [model for model, _, _ in face.pool.asked] == [BASE, BASE]


async def test_a_tuned_model_is_its_base_and_an_adapter(
    face: Face, client: openai.AsyncOpenAI
) -> None:
    await face.put_model("ft:tiny:mine:abcdefgh")
    await client.chat.completions.create(model="ft:tiny:mine:abcdefgh", messages=HELLO)
    assert face.pool.asked[0][:2] == (BASE, "ft:tiny:mine:abcdefgh")
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model="gpt-9", messages=HELLO)
    assert caught.value.code == "model_not_found"
    assert "The model `gpt-9` does not exist or you do not have access to it." in str(caught.value)


async def test_tool_calls(face: Face, client: openai.AsyncOpenAI) -> None:
    async def calls(request: chat.Generate) -> AsyncIterator[chat.Answer]:
        yield chat.Began(id=request.id, prompt_tokens=1)
        for number in range(2):
            call = chat.ToolCall(id=f"call_{number}", name="weather", arguments='{"city": "Rome"}')
            yield chat.Piece(id=request.id, index=0, tool_calls=(call,))
        yield chat.Finished(id=request.id, index=0, reason="tool_calls")
        yield chat.Ended(id=request.id, completion_tokens=9)

    face.pool.script = calls
    asked: dict[str, Any] = {"model": BASE, "messages": HELLO, "tools": [WEATHER]}
    whole = (await client.chat.completions.create(**asked)).choices[0]
    assert whole.finish_reason == "tool_calls"
    assert whole.message.content is None
    assert whole.message.tool_calls is not None
    assert [call.to_dict() for call in whole.message.tool_calls] == [
        {
            "id": f"call_{number}",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
        }
        for number in range(2)
    ]
    async with client.chat.completions.stream(**asked) as stream:
        final = (await stream.get_final_completion()).choices[0]
    streamed = [call.to_dict() for call in final.message.tool_calls or ()]
    assert [call["id"] for call in streamed] == ["call_0", "call_1"]
    chunks = [chunk async for chunk in await client.chat.completions.create(**asked, stream=True)]
    assert [call.index for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()] == [
        0, 1
    ]  # fmt: skip


async def test_everything_that_can_be_asked(face: Face, http: httpx2.AsyncClient) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    answer = await http.post(
        CHAT,
        json=body(
            messages=[
                {"role": "developer", "content": [{"type": "text", "text": "Be "},
                                                  {"type": "text", "text": "brief."}]},
                {"role": "user", "content": "Hello!", "name": "ann"},
            ],
            temperature=0, top_p=0.5, n=2, stop="END", seed=-5, frequency_penalty=1,
            presence_penalty=-1, logit_bias={"50": -100, "7": 1.5}, logprobs=True, top_logprobs=3,
            max_completion_tokens=9, max_tokens=9, tools=[WEATHER], tool_choice="required",
            parallel_tool_calls=False,
            response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
            stream=False, user="me", metadata={"a": "b"}, service_tier="auto", store=False,
            modalities=["text"], safety_identifier="x", prompt_cache_key="y", audio=None,
            top_k=-1, nobody_knows={"this": 1},
        ),
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    (_, _, asked) = face.pool.asked[0]
    assert asked.sampling == chat.Sampling(
        max_tokens=9, temperature=0, top_p=0.5, n=2, stop=("END",), seed=-5, frequency_penalty=1,
        presence_penalty=-1, logit_bias={50: -100, 7: 1.5}, top_logprobs=3,
    )  # fmt: skip
    assert asked.constraint == chat.Constraint(json_schema=schema)
    assert asked.prompt == chat.Conversation(
        messages=(
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "Hello!", "name": "ann"},
        ),
        tools=(WEATHER,),
        tool_choice="required",
        parallel_tool_calls=False,
    )


async def test_null_is_the_same_as_absent(face: Face, http: httpx2.AsyncClient) -> None:
    names = (
        "temperature top_p n stop seed frequency_penalty presence_penalty logit_bias logprobs "
        "top_logprobs max_completion_tokens max_tokens tools tool_choice parallel_tool_calls "
        "response_format stream stream_options store audio functions function_call modalities "
        "prediction reasoning_effort service_tier verbosity web_search_options top_k"
    )
    answer = await http.post(CHAT, json=body(**dict.fromkeys(names.split())))
    assert answer.status_code == 200, answer.text
    assert (await http.post(CHAT, json=body())).status_code == 200
    first, second = (asked for _, _, asked in face.pool.asked)
    assert first.model_copy(update={"id": second.id}) == second


# (what is added, the answer's param, its code, words of its message)
WRONG: list[tuple[dict[str, Any], str, str | None, str]] = [
    ({"model": None}, "model", "invalid_type", "'model'"),
    ({"model": 7}, "model", "invalid_type", "'model'"),
    ({"messages": None}, "messages", "missing_required_parameter", "'messages'"),
    ({"messages": []}, "messages", "empty_array", "minimum length 1"),
    ({"messages": [7]}, "messages[0]", "invalid_type", "an object"),
    ({"messages": [{"role": "robot", "content": ""}]}, "messages[0].role", "invalid_value", ""),
    ({"messages": [*HELLO, {"role": "user", "content": 1}]}, "messages[1].content", "invalid_type",
     "content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
     "messages[0].content[0].type", "invalid_value", "text only"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id",
     "missing_required_parameter", "tool_call_id"),
    ({"temperature": 2.5}, "temperature", "decimal_above_max_value", "<= 2"),
    ({"temperature": "hot"}, "temperature", "invalid_type", "a number"),
    ({"temperature": True}, "temperature", "invalid_type", "a number"),
    ({"temperature": 10**300}, "temperature", "invalid_value", "too large"),
    ({"top_p": -1}, "top_p", "decimal_below_min_value", ">= 0"),
    ({"n": 0}, "n", "integer_below_min_value", ">= 1"),
    ({"n": 129}, "n", "integer_above_max_value", "<= 128"),
    ({"n": 10**30}, "n", "integer_above_max_value", "<= 128"),
    ({"n": "2"}, "n", "invalid_type", "an integer"),
    ({"n": 1.5}, "n", "invalid_type", "an integer"),
    ({"seed": 2**63}, "seed", "integer_above_max_value", "seed"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "array_above_max_length", "maximum length 4"),
    ({"stop": [1] * 90_000}, "stop", "invalid_type", "strings"),
    ({"stop": {"a": 1}}, "stop", "invalid_type", "a string or an array"),
    ({"logit_bias": {"cat": 1}}, "logit_bias", "invalid_value", "token's id"),
    ({"logit_bias": {"5": "much"}}, "logit_bias", "invalid_type", "a number"),
    ({"logit_bias": {"5": 101}}, "logit_bias", "decimal_above_max_value", "<= 100"),
    ({"logit_bias": [5]}, "logit_bias", "invalid_type", "an object"),
    ({"max_tokens": 0}, "max_tokens", "integer_below_min_value", "'max_tokens'"),
    ({"max_completion_tokens": 0}, "max_completion_tokens", "integer_below_min_value",
     "'max_completion_tokens'"),
    ({"max_completion_tokens": 1, "max_tokens": 2}, "max_tokens", None, "same time"),
    ({"logprobs": 5}, "logprobs", "invalid_type", "boolean"),
    ({"top_logprobs": 5}, "top_logprobs", None, "'logprobs'"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer_above_max_value", "<= 20"),
    ({"stream": "yes"}, "stream", "invalid_type", "boolean"),
    ({"stream_options": {}}, "stream_options", None, "'stream' is enabled"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage",
     "invalid_type", "boolean"),
    ({"tools": {}}, "tools", "invalid_type", "array"),
    ({"tool_choice": "required"}, "tool_choice", None, "'tools'"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "time"}}},
     "tool_choice.function.name", "invalid_value", "time"),
    ({"response_format": "json"}, "response_format", "invalid_type", "an object"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value", "xml"),
]  # fmt: skip

NO_JSON = [
    (b"NaN", "line 1 column"),
    (b'"\\ud800"', "hex escape"),
    (b"[" * 65 + b"]" * 65, "nests deeper than 64 levels"),
]

UNSUPPORTED: list[dict[str, Any]] = [
    {"store": True},
    {"audio": {"voice": "x"}},
    {"modalities": ["text", "audio"]},
    {"functions": [{"name": "f"}]},
    {"function_call": "auto"},
    {"web_search_options": {}},
    {"prediction": {"type": "content", "content": ""}},
    {"reasoning_effort": "low"},
    {"verbosity": "low"},
    {"service_tier": "flex"},
    {"moderation": {"model": "m"}},
    {"top_k": 40},
    {"min_p": 0.1},
    {"repetition_penalty": 1.1},
    {"guided_json": {}},
    {"chat_template_kwargs": {"enable_thinking": False}},
]


async def test_what_is_wrong_is_told_with_its_place(
    face: Face, http: httpx2.AsyncClient, subtests: pytest.Subtests
) -> None:
    for more, param, code, words in WRONG:
        with subtests.test(more=str(more)[:80]):
            answer = await http.post(CHAT, json=body(**more))
            assert answer.status_code == 400, answer.text
            error = error_of(answer)
            assert error["type"] == "invalid_request_error"
            assert error["param"] == param
            if code is not None:
                assert error["code"] == code
            assert words in str(error["message"])
    assert face.pool.asked == []


async def test_json_that_is_none_is_refused_wherever_it_stands(
    face: Face, http: httpx2.AsyncClient, subtests: pytest.Subtests
) -> None:
    text = json.dumps(body(tools=[WEATHER | {"odd": "HERE"}]))
    for odd, words in NO_JSON:
        with subtests.test(odd=odd[:9]):
            answer = await http.post(
                CHAT,
                content=text.encode().replace(b'"HERE"', odd),
                headers={"Content-Type": "application/json"},
            )
            error = error_of(answer)
            assert (answer.status_code, error["code"]) == (400, "invalid_json")
            assert words in str(error["message"])
    for number in (b"1e999", b"-" + b"9" * 400 + b".0"):  # which a parser takes for infinity
        answer = await http.post(
            CHAT,
            content=text.encode().replace(b'"HERE"', b'[{"a": [%s]}]' % number),
            headers={"Content-Type": "application/json"},
        )
        error = error_of(answer)
        assert (answer.status_code, error["code"]) == (400, "invalid_json")
        assert "out of range" in str(error["message"])


async def test_a_body_too_large(face: Face, http: httpx2.AsyncClient) -> None:
    limit = face.door.settings.limits.chat_bytes
    assert limit == 8 * 2**20
    long = [{"role": "user", "content": "x" * (limit - 200)}]
    assert (await http.post(CHAT, json=body(messages=long))).status_code == 200
    long[0]["content"] += "x" * 200
    answer = await http.post(CHAT, json=body(messages=long))
    assert answer.status_code == 413
    assert error_of(answer)["message"] == f"The request body is larger than {limit:,} bytes."


async def test_what_cannot_be_heeded_is_refused_by_its_name(
    face: Face, http: httpx2.AsyncClient, subtests: pytest.Subtests
) -> None:
    for more in UNSUPPORTED:
        (name,) = more
        with subtests.test(name=name):
            answer = await http.post(CHAT, json=body(**more))
            assert answer.status_code == 400
            error = error_of(answer)
            assert (error["param"], error["code"]) == (name, "unsupported_parameter")
            assert str(error["message"]).startswith(f"Unsupported parameter: '{name}'")
    assert face.pool.asked == []


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_before_the_first_token_has_a_status(
    face: Face, http: httpx2.AsyncClient, stream: bool
) -> None:
    async def refused(request: chat.Generate) -> AsyncIterator[chat.Answer | FtdError]:
        yield FtdError(
            Kind.INVALID, "'max_tokens' is too large.", param="max_tokens", code="too_long"
        )

    face.pool.script = refused
    answer = await http.post(CHAT, json=body(stream=stream, max_completion_tokens=99))
    assert answer.status_code == 400
    error = error_of(answer)  # in the words of the request
    assert error["param"] == "max_completion_tokens"
    assert error["message"] == "'max_completion_tokens' is too large."

    async def no_device(request: chat.Generate) -> AsyncIterator[chat.Answer | FtdError]:
        yield FtdError(Kind.UNAVAILABLE, "No device is free.")

    face.pool.script = no_device
    answer = await http.post(CHAT, json=body(stream=stream))
    assert answer.status_code == 503
    assert 0 < int(answer.headers["Retry-After"]) <= 60
    assert error_of(answer)["type"] == "server_error"
    assert face.pool.open == 0


async def lost(request: chat.Generate) -> AsyncIterator[chat.Answer | FtdError]:
    yield chat.Began(id=request.id, prompt_tokens=1)
    yield piece(request, "Hel")
    yield FtdError(Kind.UNAVAILABLE, "The inference worker has ended; try again.")


async def test_an_error_in_the_middle_is_the_last_event(
    face: Face, http: httpx2.AsyncClient, client: openai.AsyncOpenAI
) -> None:
    face.pool.script = lost
    answer = await http.post(CHAT, json=body(stream=True))
    assert answer.status_code == 200
    last = answer.text.removesuffix("\n\n").split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"] == {
        "message": "The inference worker has ended; try again.",
        "type": "server_error",
        "param": None,
        "code": None,
    }
    stream = await client.chat.completions.create(model=BASE, messages=HELLO, stream=True)
    said = [(await anext(stream)).choices[0].delta.content for _ in range(2)]
    assert said == ["", "Hel"]
    with pytest.raises(openai.APIError, match="has ended; try again"):
        await anext(stream)
    assert face.pool.open == 0


async def test_an_error_in_the_middle_of_a_whole_answer_has_a_status(
    face: Face, http: httpx2.AsyncClient
) -> None:
    face.pool.script = lost
    assert (await http.post(CHAT, json=body())).status_code == 503


async def test_pieces_without_words_make_no_chunks(face: Face, http: httpx2.AsyncClient) -> None:
    async def silent(request: chat.Generate) -> AsyncIterator[chat.Answer]:
        yield chat.Began(id=request.id, prompt_tokens=1)
        yield chat.Piece(id=request.id, index=0)
        yield chat.Finished(id=request.id, index=0, reason="length")
        yield chat.Ended(id=request.id, completion_tokens=1)

    face.pool.script = silent
    chunks = events((await http.post(CHAT, json=body(stream=True))).text)
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {},
    ]
    whole = (await http.post(CHAT, json=body())).json()
    assert whole["choices"][0]["message"]["content"] == ""


async def test_the_fingerprint_is_the_models(http: httpx2.AsyncClient) -> None:
    prints = [
        (await http.post(CHAT, json=body(model=model))).json()["system_fingerprint"]
        for model in (BASE, BASE, "gpt-4o-mini")
    ]
    assert prints[0] == prints[1] != prints[2]


async def test_a_key_is_needed(face: Face) -> None:
    async with face.http(headers={}) as stranger:
        assert (await stranger.post(CHAT, json=body())).status_code == 401
    assert face.pool.asked == []


async def test_the_document_tells_both_forms(http: httpx2.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    operation = document["paths"][CHAT]["post"]
    asked = operation["requestBody"]["content"]["application/json"]["schema"]
    described = document["components"]["schemas"][asked["$ref"].rpartition("/")[2]]
    assert described["required"] == ["model", "messages"]
    assert described["properties"]["max_tokens"]["deprecated"] is True
    content = operation["responses"]["200"]["content"]
    assert content.keys() == {"application/json", "text/event-stream"}
    whole = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
    schema = document["components"]["schemas"][whole]
    assert set(schema["required"]) == set(schema["properties"])
    message = document["components"]["schemas"]["Message"]
    assert set(message["required"]) == {"role", "content", "refusal"}
    assert "$ref" not in json.dumps(content["text/event-stream"])
    told, done = content["text/event-stream"]["itemSchema"]["properties"]["data"]["anyOf"]
    assert done == {"const": "[DONE]"}
    chunk, broken_off = told["contentSchema"]["anyOf"]
    assert set(chunk["properties"]) - set(chunk["required"]) == {"usage"}
    assert broken_off["required"] == ["error"]
