"""Whom a name means, every bound of a request met once, and the answer that comes back."""

import re
from typing import Any

import pytest

from ftd import config
from ftd.core import chat
from ftd.core.errors import FtdError, Kind
from ftd.core.models import ModelKind
from ftd.service.actor import Actor
from ftd.service.chat import Chat, ChatRequest, check
from tests.serving.conftest import BASE, CHECKPOINT, TUNED, Bench, until

US = Actor(project="default", name="admin")
THEM = Actor(project="theirs", name="admin")
CONVERSATION = chat.Conversation(messages=({"role": "user", "content": "hi"},))


def request(
    *, model: str = BASE, prompt: chat.Prompt = CONVERSATION, echo: bool = False, **sampling: Any
) -> ChatRequest:
    return ChatRequest(model=model, prompt=prompt, sampling=chat.Sampling(**sampling), echo=echo)


def text(words: str, model: str = BASE, **more: Any) -> ChatRequest:
    return request(model=model, prompt=chat.Text(text=words), **more)


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"temperature": -0.1}, "temperature", "decimal_below_min_value"),
        ({"temperature": 2.1}, "temperature", "decimal_above_max_value"),
        ({"temperature": float("nan")}, "temperature", "invalid_type"),
        ({"top_p": -0.01}, "top_p", "decimal_below_min_value"),
        ({"top_p": 1.01}, "top_p", "decimal_above_max_value"),
        ({"frequency_penalty": 2.5}, "frequency_penalty", "decimal_above_max_value"),
        ({"presence_penalty": -2.5}, "presence_penalty", "decimal_below_min_value"),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"n": 129}, "n", "integer_above_max_value"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"max_tokens": -1, "prompt": chat.Text(text="a")}, "max_tokens",
         "integer_below_min_value"),
        ({"max_tokens": 2**31}, "max_tokens", "integer_above_max_value"),
        ({"seed": 2**63}, "seed", "integer_above_max_value"),
        ({"seed": -(2**63) - 1}, "seed", "integer_below_min_value"),
        ({"top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
        ({"top_logprobs": -1}, "top_logprobs", "integer_below_min_value"),
        ({"top_logprobs": 6, "prompt": chat.Text(text="a")}, "logprobs", "integer_above_max_value"),
        ({"top_logprobs": 0, "prompt": chat.Text(text="a"), "echo": True}, "logprobs",
         "unsupported_parameter"),
        ({"stop": ("a", "b", "c", "d", "e")}, "stop", "array_above_max_length"),
        ({"stop": ("a", "")}, "stop", "empty_string"),
        ({"logit_bias": {1: 100.5}}, "logit_bias", "decimal_above_max_value"),
        ({"logit_bias": {-1: 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": dict.fromkeys(range(1025), 1)}, "logit_bias",
         "object_above_max_properties"),
        ({"prompt": chat.Conversation(messages=())}, "messages", "empty_array"),
        ({"prompt": chat.Tokens(ids=())}, "prompt", "empty_array"),
        ({"prompt": chat.Tokens(ids=(1, -2))}, "prompt", "invalid_value"),
    ],
)  # fmt: skip
def test_beyond_a_bound_is_invalid_and_names_the_field(
    changes: dict[str, Any], param: str, code: str
) -> None:
    with pytest.raises(FtdError, match=param) as caught:
        check(request(**changes))
    assert (caught.value.kind, caught.value.param, caught.value.code) == (Kind.INVALID, param, code)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0, "top_p": 0, "frequency_penalty": -2, "presence_penalty": 2},
        {"temperature": 2, "top_p": 1, "n": 128, "max_tokens": 1, "top_logprobs": 20},
        {"seed": 2**63 - 1, "stop": ("a", "b", "c", "d")},
        {"logit_bias": dict.fromkeys(range(1024), -100)},
        {"top_logprobs": 5, "prompt": chat.Tokens(ids=(0,))},
        {"prompt": chat.Text(text=""), "echo": True, "max_tokens": 0},
    ],
)
def test_on_a_bound_is_fine(changes: dict[str, Any]) -> None:
    check(request(**changes))


def test_bounds_are_told_in_words_that_people_know() -> None:
    with pytest.raises(FtdError) as caught:
        check(request(temperature=3))
    assert caught.value.message == (
        "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 3.0 "
        "instead."
    )


@pytest.fixture
def service(bench: Bench) -> Chat:
    settings = bench.rooms.settings.model_copy(update={"aliases": {"gpt-4o": BASE}})
    return Chat(bench.shelf.store, settings, bench.pool)


async def told(service: Chat, asked: ChatRequest) -> str:
    reply = await service.generate(US, asked)
    return "".join([said.text async for said in reply if isinstance(said, chat.Piece)])


async def test_the_answer_and_its_names(service: Chat) -> None:
    reply = await service.generate(US, text("count 2", model="gpt-4o"))
    assert reply.model == "gpt-4o"
    assert re.fullmatch("cmpl-[A-Za-z0-9]{24}", reply.id)
    assert (reply.began.prompt_tokens, reply.began.cached_tokens) == (5, 2)
    assert reply.created_at > 1_700_000_000
    assert [said.kind async for said in reply] == ["piece", "piece", "finished", "ended"]
    assert await anext(reply, None) is None


async def test_every_kind_of_model_is_found(service: Chat, bench: Bench) -> None:
    await bench.shelf.put(TUNED)
    await bench.shelf.put(CHECKPOINT, kind=ModelKind.CHECKPOINT)
    await bench.shelf.put("ft:tiny::whole", form="full")
    for name, weights in (
        (BASE, BASE),
        ("gpt-4o", BASE),
        (TUNED, TUNED),
        (CHECKPOINT, CHECKPOINT),
        ("ft:tiny::whole", "ft:tiny::whole"),
    ):
        assert await told(service, text("adapter", model=name)) == weights
    assert {row.weights for row in await bench.rows()} == {BASE, "ft:tiny::whole"}


async def test_what_is_not_yours_or_not_there_is_no_model(service: Chat, bench: Bench) -> None:
    await bench.shelf.put(TUNED)
    await bench.shelf.put(CHECKPOINT, kind=ModelKind.CHECKPOINT)
    await bench.shelf.remove(CHECKPOINT)
    for actor, name in ((THEM, TUNED), (US, "gpt-5"), (US, CHECKPOINT), (US, "")):
        with pytest.raises(FtdError) as caught:
            await service.generate(actor, text("adapter", model=name))
        assert caught.value.kind is Kind.NOT_FOUND
        assert caught.value.code == "model_not_found"
        assert caught.value.message == (
            f"The model `{name}` does not exist or you do not have access to it."
        )
    assert await bench.rows() == ()


async def test_a_deleted_model_is_unknown_while_its_worker_lives(
    service: Chat, bench: Bench
) -> None:
    await bench.shelf.put(TUNED)
    await told(service, text("adapter", model=TUNED))
    await bench.shelf.remove(TUNED)
    with pytest.raises(FtdError, match="does not exist"):
        await service.generate(US, text("adapter", model=TUNED))


async def test_a_reply_that_is_closed_is_cancelled(service: Chat, bench: Bench) -> None:
    reply = await service.generate(US, text("hold"))
    await reply.aclose()
    asked = await bench.out() / "asked"
    await until(lambda: "cancel" in asked.read_text())
    await reply.aclose()
    assert not bench.pool.servers()[0].busy


async def test_more_choices_than_ever_fit_are_invalid(bench: Bench) -> None:
    serving = config.Serving(queue=4, rows=4)
    settings = bench.rooms.settings.model_copy(update={"serving": serving})
    service = Chat(bench.shelf.store, settings, bench.pool)
    with pytest.raises(FtdError, match="Expected a value <= 4, but got 5"):
        await service.generate(US, text("count 1", n=5))


async def test_nothing_is_handed_over_where_nobody_takes_it(service: Chat) -> None:
    assert await service.relay(US, "/v1/chat/completions", BASE, b"{}") is None
