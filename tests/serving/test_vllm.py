"""The hand-off, to a server that speaks vLLM's documented calls."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr

from ftd.config import Serving
from ftd.core import chat
from ftd.core.errors import FtdError, Kind
from ftd.core.models import Model, ModelKind
from ftd.serving import vllm
from ftd.serving.vllm import Vllm
from tests.serving.conftest import CHECKPOINT, TUNED, Shelf, until
from tests.serving.standin import EVENTS, KEY, StandIn, serving

CHAT = "/v1/chat/completions"


@pytest_asyncio.fixture
async def server() -> AsyncIterator[StandIn]:
    async with serving(StandIn()) as server:
        yield server


@pytest_asyncio.fixture
async def handoff(server: StandIn, shelf: Shelf) -> AsyncIterator[Vllm]:
    async with handing_over(server, shelf) as handoff:
        yield handoff


@asynccontextmanager
async def handing_over(server: StandIn, shelf: Shelf) -> AsyncIterator[Vllm]:
    settings = Serving(backend="vllm", vllm_url=f"{server.url}/v1", vllm_key=SecretStr(KEY))
    handoff = Vllm(settings, shelf.store, shelf.home, shelf.bell)
    yield handoff
    await handoff.close()


def body(model: str, **more: Any) -> bytes:
    """With blanks and an order that no encoder of ours would write."""
    return json.dumps({"temperature": 0, "model": model, "messages": []} | more, indent=3).encode()


async def ask(handoff: Vllm, model: Model, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    relay = await handoff.relay(CHAT, model, sent, renamed=False)
    parts = [part async for part in relay]
    await relay.aclose()
    return relay.status, dict(relay.headers), b"".join(parts)


@asynccontextmanager
async def settling(handoff: Vllm) -> AsyncIterator[None]:
    running = asyncio.create_task(handoff.run())
    yield
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_body_and_answer_pass_byte_for_byte(
    server: StandIn, handoff: Vllm, shelf: Shelf
) -> None:
    tuned = await shelf.put(TUNED)
    sent = body(TUNED)
    assert await ask(handoff, tuned, sent) == (
        200,
        {"content-type": "application/json"},
        b'{"id" : "cmpl-1",  "choices":[ ]}',
    )
    assert server.bodies == [sent]
    assert server.heads[0]["authorization"] == f"Bearer {KEY}"


async def test_an_alias_in_the_body_becomes_the_name(
    server: StandIn, handoff: Vllm, shelf: Shelf
) -> None:
    tuned = await shelf.put(TUNED)
    relay = await handoff.relay(CHAT, tuned, body("gpt-4o", seed=2**63), renamed=True)
    await relay.aclose()
    assert relay.status == 200
    assert json.loads(server.bodies[0]) == json.loads(body(TUNED, seed=2**63))


async def test_a_stream_comes_as_it_is_made(server: StandIn, handoff: Vllm, shelf: Shelf) -> None:
    tuned = await shelf.put(TUNED)
    relay = await handoff.relay(CHAT, tuned, body(TUNED, stream=True), renamed=False)
    assert relay.headers["content-type"].startswith("text/event-stream")
    parts = aiter(relay)
    assert await anext(parts) == EVENTS[0]  # while the rest is not made yet
    server.go_on.set()
    assert b"".join([part async for part in parts]) == b"".join(EVENTS[1:])
    await relay.aclose()


async def test_who_leaves_a_stream_ends_it_there(
    server: StandIn, handoff: Vllm, shelf: Shelf
) -> None:
    tuned = await shelf.put(TUNED)
    relay = await handoff.relay(CHAT, tuned, body(TUNED, stream=True), renamed=False)
    await relay.aclose()  # without a look at the body
    async with asyncio.timeout(10):
        await server.left.wait()


async def test_its_refusal_is_passed_on(server: StandIn, handoff: Vllm, shelf: Shelf) -> None:
    tuned = await shelf.put(TUNED)
    status, headers, told = await ask(handoff, tuned, body(TUNED, temperature=3))
    assert (status, headers) == (400, {"content-type": "application/json"})
    assert json.loads(told)["error"]["message"] == "temperature must be in [0, 2]."


async def test_an_adapter_is_registered_before_it_is_asked(
    server: StandIn, handoff: Vllm, shelf: Shelf
) -> None:
    checkpoint = await shelf.put(CHECKPOINT, kind=ModelKind.CHECKPOINT)
    answers = await asyncio.gather(*(ask(handoff, checkpoint, body(CHECKPOINT)) for _ in range(5)))
    assert [status for status, _, _ in answers] == [200] * 5
    assert server.loads == [CHECKPOINT]
    assert server.adapters == {CHECKPOINT: str(shelf.home.root / checkpoint.path)}


async def test_a_server_that_was_started_anew_learns_the_adapter_again(
    server: StandIn, handoff: Vllm, shelf: Shelf
) -> None:
    tuned = await shelf.put(TUNED)
    await ask(handoff, tuned, body(TUNED))
    server.restart()
    status, _, _ = await ask(handoff, tuned, body(TUNED))
    assert status == 200
    assert server.loads == [TUNED, TUNED]


async def test_the_base_needs_no_registration(server: StandIn, handoff: Vllm, shelf: Shelf) -> None:
    base = await shelf.put("other", kind=ModelKind.BASE, base="other")
    server.base = "other"
    assert (await ask(handoff, base, body("other")))[0] == 200
    assert server.loads == []


async def test_rows_become_adapters_and_deleted_ones_go(
    server: StandIn, handoff: Vllm, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "PAUSE_S", 0.01)
    server.adapters["someone-elses"] = "/elsewhere/adapter"
    await shelf.put(TUNED)
    await shelf.put("ft:tiny::b2:ckpt-step-1", kind=ModelKind.CHECKPOINT)
    await shelf.put("ft:tiny::whole", form="full")
    await shelf.put("ft:other::c3", base="other")
    async with settling(handoff):
        await until(lambda: TUNED in server.adapters)  # from before the start
        await shelf.put("ft:tiny::d4")
        await until(lambda: "ft:tiny::d4" in server.adapters)
        await shelf.remove(TUNED)
        await until(lambda: TUNED not in server.adapters)
    assert set(server.adapters) == {"someone-elses", "ft:tiny::d4"}
    assert server.loads == [TUNED, "ft:tiny::d4"]


async def test_one_that_is_refused_keeps_no_other_back(
    server: StandIn, handoff: Vllm, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "PAUSE_S", 0.01)
    gone = await shelf.put(TUNED)
    (shelf.home.root / gone.path / "adapter_config.json").unlink()
    server.max_rank = True
    await shelf.put("ft:tiny::b2")
    async with settling(handoff):
        await until(lambda: "ft:tiny::b2" in server.loads)
    with pytest.raises(FtdError, match="rank 64 is greater") as caught:
        await ask(handoff, gone, body(TUNED))
    assert (caught.value.kind, caught.value.param) == (Kind.INVALID, "model")


async def test_a_server_that_is_away_is_said_clearly_and_found_again(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "PAUSE_S", 0.01)
    monkeypatch.setattr(vllm, "TICK_S", 0.05)
    tuned = await shelf.put(TUNED)
    stand_in = StandIn()
    async with serving(stand_in):
        pass
    async with handing_over(stand_in, shelf) as handoff, settling(handoff):
        with pytest.raises(FtdError, match=f"{stand_in.url} does not answer") as caught:
            await ask(handoff, tuned, body(TUNED))
        assert caught.value.kind is Kind.UNAVAILABLE
        async with serving(stand_in):
            await until(lambda: TUNED in stand_in.adapters)


async def test_one_that_falls_silent_holds_nobody(
    server: StandIn, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen in the middle of a stream, say, with its connections open."""
    monkeypatch.setattr(vllm, "SILENCE_S", 0.2)
    tuned = await shelf.put(TUNED)
    async with handing_over(server, shelf) as handoff:
        with pytest.raises(FtdError, match="does not answer") as caught:
            await ask(handoff, tuned, body(TUNED, stream=True))
    assert caught.value.kind is Kind.UNAVAILABLE
    async with asyncio.timeout(10):
        await server.left.wait()


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("ft:tiny::whole", {"form": "full"}, "trained in every weight"),
        ("ft:other::c3", {"base": "other"}, "built on other; the vLLM server .* serves tiny"),
    ],
)
async def test_what_it_cannot_serve_is_invalid(
    handoff: Vllm, shelf: Shelf, name: str, options: dict[str, Any], match: str
) -> None:
    model = await shelf.put(name, **options)
    with pytest.raises(FtdError, match=match) as caught:
        await ask(handoff, model, body(name))
    assert (caught.value.kind, caught.value.param) == (Kind.INVALID, "model")


async def test_a_server_without_runtime_adapters_is_told_apart(shelf: Shelf) -> None:
    tuned = await shelf.put(TUNED)
    async with serving(StandIn(runtime=False)) as server, handing_over(server, shelf) as handoff:
        with pytest.raises(FtdError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING") as caught:
            await ask(handoff, tuned, body(TUNED))
    assert caught.value.kind is Kind.UNAVAILABLE


def asked() -> chat.Generate:
    prompt = chat.Conversation(messages=({"role": "user", "content": "hi"},))
    return chat.Generate(id="chatcmpl-1", prompt=prompt)


async def test_a_face_of_other_words_is_answered_in_ours(
    server: StandIn, handoff: Vllm, shelf: Shelf
) -> None:
    tuned = await shelf.put(TUNED)
    answers = handoff.generate(tuned, asked())
    assert await anext(answers) == chat.Began(id="chatcmpl-1", prompt_tokens=7)
    server.go_on.set()
    assert [answer async for answer in answers] == [
        chat.Piece(id="chatcmpl-1", index=0, text="Par"),
        chat.Piece(id="chatcmpl-1", index=0, text="is"),
        chat.Finished(id="chatcmpl-1", index=0, reason="length"),
        chat.Ended(id="chatcmpl-1", completion_tokens=2),
    ]
    assert json.loads(server.bodies[0])["model"] == TUNED


async def test_a_line_ends_at_a_line_feed_alone(
    server: StandIn, handoff: Vllm, shelf: Shelf
) -> None:
    odd = "a\u2028b\u0085c\x0cd"
    event = json.dumps({"choices": [{"index": 0, "delta": {"content": odd}}]}, ensure_ascii=False)
    server.events = (EVENTS[0], f"data: {event}\r\n\r\n".encode(), *EVENTS[1:])
    server.go_on.set()
    said = [answer async for answer in handoff.generate(await shelf.put(TUNED), asked())]
    assert chat.Piece(id="chatcmpl-1", index=0, text=odd) in said


async def test_who_leaves_an_answer_in_our_words_ends_it_there(
    server: StandIn, handoff: Vllm, shelf: Shelf
) -> None:
    answers = handoff.generate(await shelf.put(TUNED), asked())
    await anext(answers)
    await answers.aclose()
    async with asyncio.timeout(10):
        await server.left.wait()


async def test_its_refusal_keeps_its_words(handoff: Vllm, shelf: Shelf) -> None:
    hot = asked().model_copy(update={"sampling": chat.Sampling(temperature=3)})
    with pytest.raises(FtdError, match="temperature must be in") as caught:
        await anext(handoff.generate(await shelf.put(TUNED), hot))
    assert caught.value.kind is Kind.INVALID


@pytest.mark.parametrize(
    ("events", "match"),
    [
        ((EVENTS[0],), "stream ends in the middle"),
        ((EVENTS[0], b"data: {not json\n\n"), r"makes no sense \(JSONDecodeError\)"),
        ((EVENTS[0], b'data: {"choices":[{}]}\n\n'), r"makes no sense \(KeyError\)"),
        ((EVENTS[0], b'data: {"error":{"message":"out of memory"}}\n\n'), "broke off; its log"),
    ],
)
async def test_a_stream_that_goes_wrong_ends_with_an_error(
    server: StandIn, handoff: Vllm, shelf: Shelf, events: tuple[bytes, ...], match: str
) -> None:
    server.events = events
    server.go_on.set()
    with pytest.raises(FtdError, match=match) as caught:
        async for _ in handoff.generate(await shelf.put(TUNED), asked()):
            pass
    assert caught.value.kind is Kind.UNAVAILABLE


async def test_an_address_that_is_none_is_said_at_the_start(shelf: Shelf) -> None:
    settings = Serving(backend="vllm", vllm_url="http://h:port")
    with pytest.raises(FtdError, match=r"serving\.vllm_url: 'http://h:port'"):
        Vllm(settings, shelf.store, shelf.home, shelf.bell)


@pytest.mark.parametrize("port", ["port", "1"])
async def test_a_password_in_the_address_is_told_nobody(
    shelf: Shelf, port: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = Serving(backend="vllm", vllm_url=f"http://user:can@ary@127.0.0.1:{port}/at/")
    model = await shelf.put(TUNED)
    with pytest.raises(FtdError, match=f"http://127.0.0.1:{port}/at") as caught:
        async for _ in Vllm(settings, shelf.store, shelf.home, shelf.bell).generate(model, asked()):
            pass
    for told in (caught.value.message, caplog.text):
        assert "can@ary" not in told
        assert "user" not in told


@pytest.mark.parametrize("key", ["canary\n", "canary\r\nX: y", "canary\u00e9"])
async def test_a_key_that_is_none_is_said_without_it(shelf: Shelf, key: str) -> None:
    settings = Serving(backend="vllm", vllm_url="http://h:1", vllm_key=SecretStr(key))
    with pytest.raises(FtdError, match="vllm_key is no key") as caught:
        Vllm(settings, shelf.store, shelf.home, shelf.bell)
    assert "canary" not in caught.value.message


async def test_a_fault_of_ours_does_not_end_the_loop(
    server: StandIn, handoff: Vllm, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "PAUSE_S", 0.01)
    monkeypatch.setattr(vllm, "TICK_S", 0.05)
    look, looks = vllm.models.adapters, []

    async def fail_once(*arguments: Any) -> tuple[Model, ...]:
        looks.append(arguments)
        if len(looks) == 1:
            raise OSError("disk I/O error")
        return await look(*arguments)

    monkeypatch.setattr(vllm.models, "adapters", fail_once)
    await shelf.put(TUNED)
    async with settling(handoff):
        await until(lambda: TUNED in server.adapters)


def test_the_address_is_that_of_the_server_or_of_its_v1() -> None:
    for url in ("http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"):
        assert Serving(backend="vllm", vllm_url=url).vllm_url == "http://h:1"
    with pytest.raises(ValueError, match="needs its vllm_url"):
        Serving(backend="vllm")
