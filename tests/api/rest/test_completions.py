"""Text completions: prompts of four forms, choices by prompt, logprobs side by side."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
import pytest

from ftd.core import chat
from ftd.core.errors import FtdError, invalid
from tests.api.rest.face import BASE, KEY, Face
from tests.api.rest.scripted import piece, small_talk
from tests.api.rest.test_chat import events
from tests.api.rest.test_errors import error_of

TEXT = "/v1/completions"


def body(**more: Any) -> dict[str, Any]:
    return {"model": BASE, "prompt": "Once"} | more


async def test_a_whole_answer(face: Face, http: httpx2.AsyncClient) -> None:
    told = (await http.post(TEXT, json=body())).json()
    assert told.pop("id").startswith("cmpl-")
    assert told.pop("system_fingerprint").startswith("fp_")
    assert told == {
        "object": "text_completion",
        "created": face.store.clock.now(),
        "model": BASE,
        "choices": [{"index": 0, "text": "Hello there", "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 3,
            "total_tokens": 10,
            "prompt_tokens_details": {"cached_tokens": 5},
        },
    }
    (_, _, asked) = face.pool.asked[0]
    assert asked.prompt == chat.Text(text="Once")
    assert asked.sampling == chat.Sampling(max_tokens=16)


async def test_the_forms_of_a_prompt(face: Face, http: httpx2.AsyncClient) -> None:
    one, two = chat.Text(text="a"), chat.Text(text="b")
    ids, more = chat.Tokens(ids=(1, 2)), chat.Tokens(ids=(3,))
    for prompt, expected in (
        ("a", [one]),
        (["a", "b"], [one, two]),
        ([1, 2], [ids]),
        ([[1, 2], [3]], [ids, more]),
    ):
        face.pool.asked.clear()
        answer = await http.post(TEXT, json=body(prompt=prompt))
        assert answer.status_code == 200, answer.text
        found = [asked.prompt for _, _, asked in face.pool.asked]
        assert sorted(found, key=repr) == sorted(expected, key=repr)  # they begin together


async def echo(request: chat.Generate) -> AsyncIterator[chat.Answer | FtdError]:
    """Says its prompt and the choice's number; a long prompt takes its time."""
    assert isinstance(request.prompt, chat.Text)
    yield chat.Began(id=request.id, prompt_tokens=1)
    for _ in range(len(request.prompt.text)):
        await asyncio.sleep(0)
    for index in range(request.sampling.n):
        yield piece(request, f"{request.prompt.text}{index}", index=index)
        yield chat.Finished(id=request.id, index=index, reason="length")
    yield chat.Ended(id=request.id, completion_tokens=request.sampling.n)


async def test_choices_go_by_prompt(face: Face, client: openai.AsyncOpenAI) -> None:
    face.pool.script = echo
    prompts = ["long" * 50, "b", "c"]
    expected = [f"{prompt}{choice}" for prompt in prompts for choice in range(2)]
    whole = await client.completions.create(model=BASE, prompt=prompts, n=2, best_of=2)
    assert [choice.index for choice in whole.choices] == list(range(6))
    assert [choice.text for choice in whole.choices] == expected
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (3, 6)
    assert face.pool.open == 0


async def test_a_stream_of_several_prompts(face: Face, http: httpx2.AsyncClient) -> None:
    face.pool.script = echo
    asked = body(prompt=["aa", "b"], n=2, stream=True, stream_options={"include_usage": True})
    *chunks, last = events((await http.post(TEXT, json=asked)).text)
    texts, reasons = {}, {}
    for chunk in chunks:
        assert chunk["usage"] is None
        assert chunk["object"] == "text_completion"
        (choice,) = chunk["choices"]
        if choice["finish_reason"] is None:
            texts[choice["index"]] = choice["text"]
        else:
            reasons[choice["index"]] = choice["finish_reason"]
    assert texts == {0: "aa0", 1: "aa1", 2: "b0", 3: "b1"}
    assert reasons == dict.fromkeys(range(4), "length")
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 2 + 4
    assert len({chunk["id"] for chunk in (*chunks, last)}) == 1
    assert face.pool.open == 0


async def test_the_sdk_streams(face: Face) -> None:
    """Not in strict mode: its type of a chunk has no null finish_reason, OpenAI's chunks have."""
    async with openai.AsyncOpenAI(base_url=f"{face.url}/v1", api_key=KEY, max_retries=0) as client:
        stream = await client.completions.create(model=BASE, prompt="Once", stream=True)
        choices = [chunk.choices[0] async for chunk in stream]
    assert "".join(choice.text for choice in choices) == "Hello there"
    assert choices[-1].finish_reason == "stop"


async def test_one_prompt_that_is_refused_ends_all(face: Face, http: httpx2.AsyncClient) -> None:
    begun = asyncio.Event()

    async def picky(request: chat.Generate) -> AsyncIterator[chat.Answer | FtdError]:
        if request.prompt == chat.Text(text="bad"):
            await begun.wait()
            yield invalid("too long", param="prompt")
        begun.set()
        yield chat.Began(id=request.id, prompt_tokens=1)
        await asyncio.Event().wait()

    face.pool.script = picky
    answer = await http.post(TEXT, json=body(prompt=["good", "bad"], stream=True))
    assert answer.status_code == 400
    assert error_of(answer)["param"] == "prompt"
    assert len(face.pool.asked) == 2
    assert face.pool.open == 0


async def test_one_prompt_that_is_lost_ends_all(face: Face, http: httpx2.AsyncClient) -> None:
    async def frail(request: chat.Generate) -> AsyncIterator[chat.Answer | FtdError]:
        yield chat.Began(id=request.id, prompt_tokens=1)
        if request.prompt == chat.Text(text="bad"):
            yield invalid("lost")
        await asyncio.Event().wait()

    face.pool.script = frail
    assert (await http.post(TEXT, json=body(prompt=["good", "bad"]))).status_code == 400
    assert face.pool.open == 0
    streamed = await http.post(TEXT, json=body(prompt=["good", "bad"], stream=True))
    assert streamed.status_code == 200
    assert '"message":"lost"' in streamed.text
    assert face.pool.open == 0


async def test_logprobs_side_by_side(face: Face, client: openai.AsyncOpenAI) -> None:
    async def split(request: chat.Generate) -> AsyncIterator[chat.Answer]:
        """An a, an e with an acute accent in two tokens, and a b."""
        yield chat.Began(id=request.id, prompt_tokens=1)
        for text, parts in (("a", [b"a"]), ("\u00e9b", [b"\xc3", b"\xa9", b"b"])):
            told = tuple(
                chat.TokenLogprob(token=part.decode(errors="replace"), bytes=tuple(part),
                                  logprob=-1.0, top=(chat.Likely(token="x", bytes=(120,),
                                                                 logprob=-0.5),))
                for part in parts
            )  # fmt: skip
            yield chat.Piece(id=request.id, index=0, text=text, logprobs=told)
        yield chat.Finished(id=request.id, index=0, reason="stop")
        yield chat.Ended(id=request.id, completion_tokens=4)

    face.pool.script = split
    whole = (await client.completions.create(model=BASE, prompt="", logprobs=1)).choices[0]
    assert whole.text == "a\u00e9b"
    assert whole.logprobs is not None
    assert whole.logprobs.tokens == ["a", "\ufffd", "\ufffd", "b"]
    assert whole.logprobs.token_logprobs == [-1.0] * 4
    assert whole.logprobs.text_offset == [0, 1, 1, 2]
    assert whole.logprobs.top_logprobs == [
        {"x": -0.5, token: -1.0} for token in ("a", "\ufffd", "\ufffd", "b")
    ]


async def test_offsets_go_on_through_a_stream(face: Face, http: httpx2.AsyncClient) -> None:
    chunks = events((await http.post(TEXT, json=body(stream=True, logprobs=0))).text)
    told = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [logprobs and logprobs["text_offset"] for logprobs in told] == [[0], [5], None]
    assert told[1]["top_logprobs"] == [{" there": -0.25}]


async def test_echo_and_max_tokens(face: Face, http: httpx2.AsyncClient) -> None:
    await http.post(TEXT, json=body(echo=True, max_tokens=3, suffix="", user="me"))
    (_, _, asked) = face.pool.asked[0]
    assert asked.echo
    assert asked.sampling.max_tokens == 3


WRONG: list[tuple[dict[str, Any], str, str | None]] = [
    ({"prompt": None}, "prompt", "missing_required_parameter"),
    ({"prompt": 7}, "prompt", "invalid_type"),
    ({"prompt": []}, "prompt", "empty_array"),
    ({"prompt": [[]]}, "prompt[0]", "empty_array"),
    ({"prompt": [[1], [True]]}, "prompt[1]", "invalid_type"),
    ({"prompt": ["a", 1]}, "prompt", "invalid_type"),
    ({"prompt": [-1]}, "prompt", "invalid_type"),
    ({"prompt": [2**31]}, "prompt", "invalid_type"),
    ({"prompt": [1.0]}, "prompt", "invalid_type"),
    ({"prompt": {"a": 1}}, "prompt", "invalid_type"),
    ({"prompt": ["a"] * 129}, "n", "integer_above_max_value"),
    ({"prompt": ["a"] * 2, "n": 65}, "n", "integer_above_max_value"),
    ({"n": -5, "prompt": ["a"] * 200}, "n", "integer_below_min_value"),
    ({"n": 0, "prompt": ["a"] * 200}, "n", "integer_below_min_value"),
    ({"best_of": 2}, "best_of", "unsupported_parameter"),
    ({"best_of": 1, "n": 2}, "best_of", "unsupported_parameter"),
    ({"suffix": "end"}, "suffix", "unsupported_parameter"),
    ({"top_k": 4}, "top_k", "unsupported_parameter"),
    ({"logprobs": 6}, "logprobs", "integer_above_max_value"),
    ({"logprobs": -1}, "logprobs", "integer_below_min_value"),
    ({"logprobs": True}, "logprobs", "invalid_type"),
    ({"logprobs": 1, "echo": True}, "logprobs", "unsupported_parameter"),
    ({"max_tokens": -1}, "max_tokens", "integer_below_min_value"),
    ({"echo": "yes"}, "echo", "invalid_type"),
    ({"stream_options": {"include_usage": True}}, "stream_options", None),
]


async def test_what_is_wrong_is_told_with_its_place(
    face: Face, http: httpx2.AsyncClient, subtests: pytest.Subtests
) -> None:
    for more, param, code in WRONG:
        with subtests.test(more=str(more)[:80]):
            answer = await http.post(TEXT, json=body(**more))
            assert answer.status_code == 400, answer.text
            error = error_of(answer)
            assert error["param"] == param
            if code is not None:
                assert error["code"] == code
    assert face.pool.asked == []


async def test_a_hundred_and_twenty_eight_prompts(face: Face, http: httpx2.AsyncClient) -> None:
    """As many as may be, all at once."""
    face.pool.script = small_talk
    told = (await http.post(TEXT, json=body(prompt=["a"] * 128))).json()
    assert [choice["index"] for choice in told["choices"]] == list(range(128))
    assert told["usage"]["completion_tokens"] == 3 * 128
    assert face.pool.open == 0
