"""A thousand bodies that nobody should send: each is answered, in OpenAI's shape, and soon."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx2

from tests.api.rest.face import BASE, Face
from tests.api.rest.test_errors import error_of

BODIES = 1000
SEED = 20261125
AT_ONCE = 4
LIMIT_S = 20.0  # for one answer, on a machine that does other things too

Make = Callable[[random.Random], Any]

TEXTS = ["", "a", "Hello!", "<|im_end|>", "\0", "\u202e", "\U0001f600" * 9, "x" * 5000, "{", "null"]
NUMBERS = [
    0,
    1,
    -1,
    2,
    3,
    0.5,
    1.0,
    2.0,
    129,
    2**31,
    2**63,
    -(2**63) - 1,
    10**30,
    1e308,
    -0.0,
    5e-324,
]


LONG: list[Any] = ["word " * 200_000, [7] * 200_000]


def nested(depth: int, *, arrays: bool) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if arrays else {"a": value}
    return value


def anything(chance: random.Random, depth: int = 3) -> Any:
    sorts = 9 if depth else 6
    match chance.randrange(sorts):
        case 0:
            return None
        case 1:
            return chance.choice([True, False])
        case 2 | 3:
            return chance.choice(NUMBERS)
        case 4 | 5:
            return chance.choice(TEXTS)
        case 6:
            return [anything(chance, depth - 1) for _ in range(chance.randrange(5))]
        case 7:
            keys = ["type", "role", "content", "function", "name", "a", ""]
            return {chance.choice(keys): anything(chance, depth - 1) for _ in range(3)}
        case _:
            return nested(chance.choice([5, 60, 64, 150, 190]), arrays=chance.random() < 0.5)


def message(chance: random.Random) -> Any:
    if chance.random() < 0.1:
        return anything(chance)
    told: dict[str, Any] = {
        "role": chance.choice(
            ["user", "user", "system", "assistant", "developer", "tool", "function", "robot", 7]
        )
    }
    if chance.random() < 0.9:
        told["content"] = chance.choice(
            [
                *TEXTS,
                None,
                [],
                [{"type": "text", "text": "a"}],
                [{"type": "text", "text": 7}],
                [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}],
                [{"type": "input_audio"}],
                [{"type": ["text"]}],
                [7],
                {"type": "text"},
            ]
        )
    if chance.random() < 0.2:
        told["tool_calls"] = chance.choice([[], [call(chance)], [call(chance)] * 2, {}, "x", [[]]])
    if chance.random() < 0.2:
        told["tool_call_id"] = chance.choice(["call_1", "", 7])
    if chance.random() < 0.2:
        told["name"] = chance.choice(["ann", "", 7, []])
    return told


def call(chance: random.Random) -> Any:
    arguments = chance.choice(
        ["{}", '{"a": NaN}', "nonsense", 7, None, json.dumps(nested(195, arrays=False)),
         json.dumps(nested(150, arrays=False)), '{"a": "\\ud800"}', '{"a": 1e999}']
    )  # fmt: skip
    return {
        "id": chance.choice(["call_1", "call_1", "", None]),
        "type": chance.choice(["function", "function", "tool"]),
        "function": {"name": chance.choice(["weather", ""]), "arguments": arguments},
    }


def tool(chance: random.Random) -> Any:
    return chance.choice(
        [
            {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}},
            {"type": "function", "function": {"name": "auto"}},
            {"type": "function", "function": {"name": "", "parameters": []}},
            {"type": "function", "function": {"parameters": nested(50, arrays=False)}},
            {"type": "retrieval"},
            7,
        ]
    )


def messages(chance: random.Random) -> Any:
    match chance.randrange(20):
        case 0:
            return []
        case 1:
            return anything(chance)
        case 2:
            return [{"role": "user", "content": LONG[0]}]
        case 3:
            return [{"role": "user", "content": ""}] * 3000
        case _:
            return [message(chance) for _ in range(chance.randrange(1, 6))]


def prompt(chance: random.Random) -> Any:
    return chance.choice(
        [
            "Once",
            "",
            ["a", "b"],
            [1, 2, 3],
            [[1], [2, 3]],
            [[1], "a"],
            [-1],
            [2**31],
            [[]],
            ["a"] * 500,
            anything(chance),
            LONG[chance.randrange(2)] if chance.random() < 0.3 else "a",
        ]
    )


COMMON: dict[str, Make] = {
    "model": lambda c: c.choice([BASE] * 12 + ["", "gpt-9", "../..", "ft:tiny::x", "x" * 9999, 7]),
    "n": lambda c: c.choice([1, 2, 3, 128, 0, 10**9, 10**30, 1.5, "2", None]),
    "temperature": lambda c: c.choice([0, 1, 2, 0.7, 2.1, -1, 10**400, "hot", None]),
    "top_p": lambda c: c.choice([0, 1, 0.5, 1.1, [], None]),
    "max_tokens": lambda c: c.choice([1, 16, 0, -1, 10**12, "many", None]),
    "stop": lambda c: c.choice(["a", ["a"], ["a"] * 5, [""], "", [], [1], {}, None]),
    "seed": lambda c: c.choice([0, -1, 2**63, 2**63 - 1, "x", None]),
    "stream": lambda c: c.choice([True, False, "yes", None]),
    "stream_options": lambda c: c.choice([{"include_usage": True}, {}, 7, None]),
    "logit_bias": lambda c: c.choice(
        [{"5": 1}, {"5": 1000}, {"a": 1}, {"-5": 1}, {str(n): 1 for n in range(2000)}, [], None]
    ),
    "frequency_penalty": lambda c: c.choice([0, 2, -3, True, None]),
    "presence_penalty": lambda c: c.choice([0, -2, 3, "x", None]),
    "user": anything,
    "top_k": lambda c: c.choice([-1, 5, "x"]),
    "no_such_key": anything,
}
OF_CHAT: dict[str, Make] = {
    "messages": messages,
    "max_completion_tokens": lambda c: c.choice([1, 16, 0, {}, None]),
    "logprobs": lambda c: c.choice([True, False, 5, None]),
    "top_logprobs": lambda c: c.choice([0, 20, 21, -1, "x", None]),
    "tools": lambda c: c.choice([[tool(c)], [tool(c)] * 200, [], {}, anything(c), None]),
    "tool_choice": lambda c: c.choice(
        ["auto", "none", "required", "weather", {"type": "function"}, 7,
         {"type": "function", "function": {"name": "nobody"}}, anything(c), None]
    ),
    "parallel_tool_calls": lambda c: c.choice([True, False, 7, None]),
    "response_format": lambda c: c.choice(
        [{"type": "text"}, {"type": "json_object"}, {"type": "json_schema"}, {"type": 7},
         {"type": "json_schema", "json_schema": {"name": "a", "schema": nested(40, arrays=False)}},
         {"type": "json_schema", "json_schema": {"name": "a", "schema": []}}, anything(c), None]
    ),
    "store": lambda c: c.choice([True, False, 7, None]),
    "functions": anything,
    "service_tier": anything,
    "reasoning_effort": anything,
}  # fmt: skip
OF_TEXT: dict[str, Make] = {
    "prompt": prompt,
    "echo": lambda c: c.choice([True, False, 7, None]),
    "logprobs": lambda c: c.choice([0, 5, 6, -1, True, None]),
    "best_of": lambda c: c.choice([1, 2, 200, "x", None]),
    "suffix": lambda c: c.choice(["", "x", 7, None]),
}


def spoiled(chance: random.Random, text: str) -> bytes:
    """The body as text, now and then no JSON of anybody's."""
    match chance.randrange(40):
        case 0:
            return text.replace("1", "NaN", 1).encode()
        case 1:
            return text.replace('"', '"\\ud800', 3).encode()
        case 2:
            return text.encode()[: chance.randrange(len(text))]
        case 3:
            return text.encode().replace(b"a", b"\xff", 1)
        case 4:
            return text.replace("1", "1e999", 1).encode()
        case 5:
            return b"[" * 100_000
        case 6:
            return b'{"a":' * 500 + b"1" + b"}" * 500
        case 7 if chance.random() < 0.3:
            return json.dumps({"model": BASE, "messages": "x" * (8 * 2**20)}).encode()
        case _:
            return text.encode()


def body(chance: random.Random) -> tuple[str, bytes]:
    route, own = chance.choice([("/v1/chat/completions", OF_CHAT), ("/v1/completions", OF_TEXT)])
    made = COMMON | own
    needed = ["model", "messages" if own is OF_CHAT else "prompt"]
    names = [name for name in needed if chance.random() < 0.97]
    names += chance.sample(sorted(made), chance.choice([0, 0, 1, 1, 2, 4]))
    given = {name: made[name](chance) for name in names}
    return route, spoiled(chance, json.dumps(given))


async def test_a_thousand_random_bodies(face: Face, http: httpx2.AsyncClient) -> None:
    chance = random.Random(SEED)
    bodies = [body(chance) for _ in range(BODIES)]
    seen: Counter[int] = Counter()
    slots = asyncio.Semaphore(AT_ONCE)

    async def send(number: int, route: str, content: bytes) -> None:
        async with slots:
            started = time.monotonic()
            answer = await http.post(
                route,
                content=content,
                headers={"Content-Type": "application/json"},
                timeout=LIMIT_S,
            )
        told = (number, route, content[:300], answer.text[:300])
        assert time.monotonic() - started < LIMIT_S, told
        seen[answer.status_code] += 1
        if answer.status_code != 200:
            assert 400 <= answer.status_code < 500, told
            error = error_of(answer)
            assert error["type"] == "invalid_request_error", told
            assert error["message"], told
            assert len(answer.content) < 20_000, told

    async with asyncio.TaskGroup() as group:
        for number, (route, content) in enumerate(bodies):
            group.create_task(send(number, route, content))
    assert seen.keys() == {200, 400, 404, 413}
    assert seen[200] > BODIES / 10
    assert seen[400] > BODIES / 3
    assert face.pool.open == 0
