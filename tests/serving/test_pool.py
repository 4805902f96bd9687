"""Requests and the workers that answer them: waiting, sharing, cancelling, and every way to end."""

import asyncio
import dataclasses
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest

from ftd.config import Serving
from ftd.core import chat
from ftd.core.errors import FtdError, Kind
from ftd.core.models import Model, ModelKind
from ftd.launch.base import Refused
from ftd.serving import pool as pool_module
from ftd.serving import worker as worker_module
from ftd.store.store import Store
from tests.launch.conftest import processes
from tests.serving.conftest import BASE, CHECKPOINT, DEVICE, FAKE, TUNED, Bench, until

Answers = AsyncGenerator[chat.Answer, None]


async def begin(bench: Bench, text: str, adapter: Model | None = None) -> Answers:
    """An answer of which two parts are read: Began, and a piece."""
    answers = bench.pool.generate(await bench.base(), adapter, bench.request(text))
    assert isinstance(await anext(answers), chat.Began)
    assert isinstance(await anext(answers), chat.Piece)
    return answers


async def asked(bench: Bench) -> list[str]:
    return [line.split()[0] for line in (await bench.out() / "asked").read_text().splitlines()]


async def all_ended(bench: Bench) -> None:
    while await bench.rows() or bench.pool.servers():  # noqa: ASYNC110 - rows ring no bell here
        await asyncio.sleep(0.01)


def assert_nothing_left(bench: Bench) -> None:
    """No worker, no shim, no wish, no task but the test's own."""
    assert bench.pool.servers() == ()
    assert bench.pool.wanted() == ()
    assert bench.pool._wishes == {}
    assert bench.pool._lives == {}
    assert processes(bench.shelf.home.root) == []
    names = {task.get_coro().__qualname__ for task in asyncio.all_tasks()}  # type: ignore[union-attr]
    assert not {name for name in names if name.startswith(("Worker", "Line", "Pool"))}


async def test_a_request_gets_a_worker_and_its_answer(bench: Bench) -> None:
    assert await bench.ask("count 3") == "1 2 3 "
    (server,) = bench.pool.servers()
    assert (server.weights, server.device, server.busy, server.yielding) == (
        BASE, DEVICE.id, False, False,
    )  # fmt: skip
    assert 0 <= server.idle_s < 5
    (row,) = await bench.rows()
    assert (row.weights, row.device) == (BASE, DEVICE.id)
    assert bench.pool.wanted() == ()


async def test_many_requests_share_the_worker(bench: Bench) -> None:
    answers = await asyncio.gather(*(bench.ask(f"count {n}") for n in range(1, 41)))
    assert answers == ["".join(f"{i} " for i in range(1, n + 1)) for n in range(1, 41)]
    assert len(await bench.rows()) == 1


async def test_adapters_are_put_where_the_worker_looks_once_each(bench: Bench) -> None:
    tuned = await bench.shelf.put(TUNED)
    checkpoint = await bench.shelf.put(CHECKPOINT, kind=ModelKind.CHECKPOINT)
    told = await asyncio.gather(
        *(bench.ask("adapter", model) for model in (tuned, checkpoint, None) for _ in range(5))
    )
    assert told == [TUNED] * 5 + [CHECKPOINT] * 5 + [BASE] * 5
    adapters = (await bench.out()).parent / "in" / "adapters"
    assert len(list(adapters.iterdir())) == 2


async def test_a_model_that_was_trained_whole_is_weights_of_its_own(bench: Bench) -> None:
    whole = await bench.shelf.put("ft:tiny::whole", form="full")
    assert await bench.answer(whole, "adapter") == "ft:tiny::whole"
    assert [row.weights for row in await bench.rows()] == ["ft:tiny::whole"]


async def test_an_adapter_whose_bytes_have_gone_is_no_model(bench: Bench) -> None:
    tuned = await bench.shelf.put(TUNED)
    (bench.shelf.home.root / tuned.path).rename(bench.shelf.home.root / "elsewhere")
    with pytest.raises(FtdError) as caught:
        await bench.ask("adapter", tuned)
    assert (caught.value.kind, caught.value.code) == (Kind.NOT_FOUND, "model_not_found")
    (bench.shelf.home.root / "elsewhere").rename(bench.shelf.home.root / tuned.path)
    assert await bench.ask("adapter", tuned) == TUNED


async def test_a_base_that_is_added_anew_is_loaded_anew(bench: Bench) -> None:
    old = await bench.base()
    assert await bench.answer(old, "adapter") == BASE
    new = await bench.shelf.put("other", kind=ModelKind.BASE)
    replaced = Model(
        name=BASE, project=new.project, kind=new.kind, base=BASE, path=new.path,
        sha256=new.sha256, created_at=2,
    )  # fmt: skip
    assert await bench.answer(replaced, "adapter") == "other"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("context_length_exceeded", Kind.INVALID),
        ("overloaded", Kind.UNAVAILABLE),
        ("server_error", Kind.INTERNAL),
    ],
)
async def test_a_refusal_is_raised_before_anything_is_answered(
    bench: Bench, code: str, kind: Kind
) -> None:
    answers = bench.pool.generate(await bench.base(), None, bench.request(f"refuse {code}"))
    with pytest.raises(FtdError, match="no") as caught:
        await anext(answers)
    assert (caught.value.kind, caught.value.code, caught.value.param) == (kind, code, "messages")
    assert await bench.ask("count 1") == "1 "


async def test_text_that_is_no_unicode_is_invalid(bench: Bench) -> None:
    request = bench.request("count 1").model_copy(
        update={"prompt": chat.Conversation(messages=({"role": "user", "content": "\ud800"},))}
    )
    with pytest.raises(FtdError) as caught:
        await anext(bench.pool.generate(await bench.base(), None, request))
    assert caught.value.kind is Kind.INVALID


async def test_who_leaves_is_cancelled_and_the_neighbour_goes_on(bench: Bench) -> None:
    leaving, staying = await begin(bench, "hold"), await begin(bench, "hold")
    await leaving.aclose()
    out = await bench.out()
    await until(lambda: "cancel" in (out / "asked").read_text())
    (out / "go").touch()
    assert [type(answer) for answer in [a async for a in staying]] == [
        chat.Piece, chat.Finished, chat.Ended,
    ]  # fmt: skip
    assert await asked(bench) == ["generate", "generate", "cancel"]


async def test_who_is_cancelled_while_nothing_is_answered_leaves_nothing(bench: Bench) -> None:
    await bench.ask("count 1")
    waiting = asyncio.create_task(bench.ask("mute"))
    out = await bench.out()
    await until(lambda: (out / "asked").read_text().count("generate") == 2)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await until(lambda: "cancel" in (out / "asked").read_text())
    (server,) = bench.pool.servers()
    assert not server.busy
    assert bench.number("ftd_inference_requests", state="waiting") == 0


async def test_a_complete_answer_is_not_cancelled(bench: Bench) -> None:
    await bench.ask("count 3")
    await bench.ask("count 3")
    assert await asked(bench) == ["generate", "generate"]


async def test_a_reader_that_is_slow_keeps_nobody_waiting(bench: Bench) -> None:
    slow = await begin(bench, "count 5000")
    assert await bench.ask("count 3") == "1 2 3 "
    rest = [answer async for answer in slow]
    assert sum(isinstance(answer, chat.Piece) for answer in rest) == 5000 - 1


async def test_without_a_device_the_reason_is_told_in_time(bench: Bench, serving: Serving) -> None:
    bench.granting = False
    loop = asyncio.get_running_loop()
    started = loop.time()
    waiting = asyncio.create_task(bench.ask("count 1"))
    await until(lambda: bench.pool.wanted() == (BASE,))
    bench.pool.hold(BASE, "cpu runs ftjob-1")
    with pytest.raises(FtdError, match="tiny has no device: cpu runs ftjob-1") as caught:
        await waiting
    assert caught.value.kind is Kind.UNAVAILABLE
    assert serving.wait_s <= loop.time() - started < serving.wait_s + 2
    assert bench.pool.wanted() == ()


@pytest.fixture
def serving(request: pytest.FixtureRequest) -> Serving:
    """Short waits where a test waits for them to pass."""
    short = ("without_a_device", "loading_does_not_count")
    wait_s = 0.6 if any(word in request.node.name for word in short) else 60.0
    return Serving(wait_s=wait_s, threads=1, yield_s=0.3 if "is_cut" in request.node.name else 60.0)


async def test_wishes_are_the_oldest_first(bench: Bench) -> None:
    bench.granting = False
    whole = await bench.shelf.put("ft:tiny::whole", form="full")
    first = asyncio.create_task(bench.answer(whole, "count 1"))
    await until(lambda: bench.pool.wanted() == ("ft:tiny::whole",))
    second = asyncio.create_task(bench.ask("count 2"))
    await until(lambda: bench.pool.wanted() == ("ft:tiny::whole", BASE))
    third = asyncio.create_task(bench.ask("count 3"))
    bench.granting = True
    bench.rooms.bell.ring()
    assert await asyncio.gather(first, second, third) == ["1 ", "1 2 ", "1 2 3 "]


async def test_loading_does_not_count_as_waiting(bench: Bench, serving: Serving) -> None:
    slow = await bench.shelf.put("slow", kind=ModelKind.BASE, base="slow", script="slow")
    waiting = asyncio.create_task(bench.answer(slow, "count 1"))
    await until(bench.pool.servers)
    assert bench.pool.servers()[0].busy
    assert bench.pool.wanted() == ()
    await asyncio.wait([waiting], timeout=3 * serving.wait_s)
    assert not waiting.done()
    (await bench.out() / "ready").touch()
    assert await waiting == "1 "


async def test_nobody_waits_any_more_and_no_worker_is_opened(bench: Bench) -> None:
    await bench.pool.open(BASE, DEVICE)
    assert bench.pool.servers() == ()
    assert await bench.rows() == ()


@pytest.mark.parametrize(
    ("script", "kind", "match"),
    [
        ("unfit", Kind.INVALID, "This architecture cannot be served here"),
        ("oom", Kind.UNAVAILABLE, "no memory left"),
        ("crash", Kind.UNAVAILABLE, "ended while it was loading"),
        ("stray", Kind.UNAVAILABLE, "it said what makes no sense"),
    ],
)
async def test_a_model_that_cannot_be_served_is_not_tried_again_at_once(
    bench: Bench, script: str, kind: Kind, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "FAULT_S", 1.5)
    bad = await bench.shelf.put("bad", kind=ModelKind.BASE, base="bad", script=script)
    together = await asyncio.gather(
        *(bench.answer(bad, "count 1") for _ in range(3)), return_exceptions=True
    )
    for error in together:
        assert isinstance(error, FtdError)
        assert error.kind is kind
        assert match in error.message
    assert len(list((bench.shelf.home.root / "runs").iterdir())) == 1
    with pytest.raises(FtdError, match=match):
        await bench.answer(bad, "count 1")
    await all_ended(bench)
    runs = bench.shelf.home.root / "runs"
    assert len(list(runs.iterdir())) == 1
    loop = asyncio.get_running_loop()
    forgotten = loop.time() + 1.6
    await until(lambda: loop.time() > forgotten)
    with pytest.raises(FtdError, match=match):
        await bench.answer(bad, "count 1")
    assert len(list(runs.iterdir())) == 2


async def test_a_worker_that_dies_ends_every_answer_and_the_next_gets_another(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    holding = [await begin(bench, "hold") for _ in range(3)]
    (row,) = await bench.rows()
    dying = asyncio.create_task(bench.ask("die"))
    for answers in holding:
        with pytest.raises(FtdError, match="The inference worker has ended; try again") as caught:
            await anext(answers)
        assert caught.value.kind is Kind.UNAVAILABLE
    with pytest.raises(FtdError, match="has ended"):
        await dying
    assert await bench.ask("count 2") == "1 2 "
    await until(lambda: "inference worker lost" in caplog.text)
    lost = next(record for record in caplog.records if "lost" in record.message)
    assert lost.log == str(bench.rooms.launcher.log(row.launch))  # type: ignore[attr-defined]
    while row in await bench.rows():  # noqa: ASYNC110 - rows ring no bell here
        await asyncio.sleep(0.01)
    assert len(await bench.rows()) == 1


async def test_a_shim_that_dies_is_as_good(bench: Bench) -> None:
    answers = await begin(bench, "hold")
    for process in processes(bench.shelf.home.root):
        process.kill()
    with pytest.raises(FtdError, match="has ended"):
        await anext(answers)
    assert await bench.ask("count 2") == "1 2 "


async def test_a_worker_that_babbles_is_ended(bench: Bench) -> None:
    with pytest.raises(FtdError, match="has ended"):
        await bench.ask("babble nonsense")
    assert await bench.ask("count 2") == "1 2 "


def impatient(bench: Bench, serving: Serving) -> None:
    """From now on workers that begin may say nothing for a moment only."""
    quick = serving.model_copy(update={"silence_s": 0.3})
    bench.rooms = dataclasses.replace(
        bench.rooms, settings=bench.rooms.settings.model_copy(update={"serving": quick})
    )
    bench.pool._rooms = bench.rooms


async def test_a_worker_that_hangs_is_ended_and_its_stack_is_in_its_log(
    bench: Bench, serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    impatient(bench, serving)
    answers = await begin(bench, "hold")
    log = bench.rooms.launcher.log((await bench.rows())[0].launch)
    with pytest.raises(FtdError, match="has ended; try again") as caught:
        await bench.ask("hang")
    assert caught.value.kind is Kind.UNAVAILABLE
    with pytest.raises(FtdError, match="has ended; try again"):
        await anext(answers)
    assert await bench.ask("count 2") == "1 2 "
    await until(lambda: "inference worker lost" in caplog.text)
    lost = next(record for record in caplog.records if "lost" in record.message)
    assert "nothing for 0.3 seconds" in lost.why  # type: ignore[attr-defined]
    assert "in answer" in log.read_text()


async def test_a_frozen_worker_is_ended(
    bench: Bench, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "STACK_S", 0.1)
    impatient(bench, serving)
    await bench.ask("count 1")
    (row,) = await bench.rows()
    (worker,) = [p for p in processes(bench.shelf.home.root) if tuple(p.cmdline()) == FAKE]
    worker.suspend()
    with pytest.raises(FtdError, match="has ended; try again"):
        await bench.ask("count 2")
    assert await bench.ask("count 2") == "1 2 "
    while row in await bench.rows():  # noqa: ASYNC110 - rows ring no bell here
        await asyncio.sleep(0.01)
    assert not worker.is_running()


async def test_so_is_one_whose_shim_is_frozen_too(
    bench: Bench, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "STACK_S", 0.1)
    monkeypatch.setattr(worker_module, "END_S", 0.2)
    impatient(bench, serving)
    await bench.ask("count 1")
    bench.granting = False
    for process in processes(bench.shelf.home.root):
        process.suspend()
    with pytest.raises(FtdError, match="has ended; try again"):
        await bench.ask("count 2")
    await all_ended(bench)
    assert_nothing_left(bench)


async def test_those_who_ask_it_and_leave_do_not_hide_that_it_hangs(
    bench: Bench, serving: Serving
) -> None:
    impatient(bench, serving)
    answers = await begin(bench, "hold")
    (row,) = await bench.rows()
    hanging = asyncio.create_task(bench.ask("hang"))
    await until(lambda: len(bench.pool._workers[row.id]._line._open) == 2)  # type: ignore[union-attr]
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)
    await answers.aclose()
    while row in await bench.rows():  # noqa: ASYNC110 - rows ring no bell here
        await asyncio.sleep(0.01)


async def test_one_that_works_long_and_says_so_goes_on(bench: Bench, serving: Serving) -> None:
    impatient(bench, serving)
    asking = asyncio.create_task(bench.ask("beat"))
    loop = asyncio.get_running_loop()
    late = loop.time() + 1.0
    await until(lambda: loop.time() > late)
    (await bench.out() / "go").touch()
    assert await asking == "ab"


async def test_so_does_one_that_owes_nothing(bench: Bench, serving: Serving) -> None:
    impatient(bench, serving)
    await bench.ask("count 1")
    (row,) = await bench.rows()
    loop = asyncio.get_running_loop()
    late = loop.time() + 1.0
    await until(lambda: loop.time() > late)
    assert await bench.ask("count 2") == "1 2 "
    assert await bench.rows() == (row,)


async def test_a_refused_assignment_is_tried_again_after_a_rest(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "REST_S", 0.2)
    launches: list[str] = []
    real = bench.rooms.launcher.assign

    async def refuse_once(launch: str, assignment: object) -> None:
        launches.append(launch)
        if len(launches) == 1:
            raise Refused("cuda.lock is held by process 7")
        await real(launch, assignment)  # type: ignore[arg-type]

    monkeypatch.setattr(bench.rooms.launcher, "assign", refuse_once)
    ringing = asyncio.create_task(ring(bench))  # as the engine's tick would look again
    assert await bench.ask("count 2") == "1 2 "
    ringing.cancel()
    assert len(launches) == 2


async def ring(bench: Bench) -> None:
    while True:
        bench.rooms.bell.ring()
        await asyncio.sleep(0.05)


async def test_a_worker_that_gives_way_answers_what_it_began(bench: Bench) -> None:
    answers = await begin(bench, "hold")
    out = await bench.out()
    (server,) = bench.pool.servers()
    bench.pool.close(server.id, "ftjob-1 needs cpu")
    assert bench.pool.servers()[0].yielding
    fresh = asyncio.create_task(bench.ask("count 2"))  # begins at another worker
    assert await fresh == "1 2 "
    assert "generate" in (out / "asked").read_text()
    assert (out / "asked").read_text().count("generate") == 1
    (out / "go").touch()
    assert [type(answer) for answer in [a async for a in answers]] == [
        chat.Piece, chat.Finished, chat.Ended,
    ]  # fmt: skip
    await until(lambda: server.id not in {s.id for s in bench.pool.servers()})
    assert (out / "stopped").exists()  # it was asked before it was killed
    assert len(await bench.rows()) == 1


async def test_an_answer_that_takes_too_long_then_is_cut(bench: Bench, serving: Serving) -> None:
    answers = await begin(bench, "hold")
    (server,) = bench.pool.servers()
    bench.pool.close(server.id, "ftjob-1 needs cpu")
    with pytest.raises(FtdError, match=r"given way \(ftjob-1 needs cpu\)") as caught:
        await anext(answers)
    assert caught.value.kind is Kind.UNAVAILABLE
    await all_ended(bench)
    assert_nothing_left(bench)


async def test_one_that_still_loads_gives_way_and_the_wish_stays(bench: Bench) -> None:
    slow = await bench.shelf.put("slow", kind=ModelKind.BASE, base="slow", script="slow")
    waiting = asyncio.create_task(bench.answer(slow, "count 1"))
    await until(bench.pool.servers)
    bench.granting = False
    (server,) = bench.pool.servers()
    bench.pool.close(server.id, "ftjob-1 needs cpu")
    assert bench.pool.wanted() == ("slow",)
    await all_ended(bench)
    bench.granting = True
    bench.rooms.bell.ring()
    await until(bench.pool.servers)
    (await bench.out() / "ready").touch()
    assert await waiting == "1 "


async def test_an_idle_one_ends_at_once(bench: Bench) -> None:
    await bench.ask("count 1")
    bench.granting = False
    (server,) = bench.pool.servers()
    bench.pool.close(server.id, "it was idle")
    await all_ended(bench)
    assert_nothing_left(bench)
    bench.pool.close(server.id, "again")  # nobody there any more


async def test_one_that_is_asked_again_before_it_is_told_stays(bench: Bench) -> None:
    answers = await begin(bench, "hold")
    (server,) = bench.pool.servers()
    bench.pool.close(server.id, "it was idle", if_idle=True)
    assert not bench.pool.servers()[0].yielding
    await answers.aclose()


async def test_a_lease_is_given_back_when_the_disk_takes_it_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "FREE_AGAIN_S", 0.01)
    await bench.ask("count 1")
    served, refused = Store.served, []

    async def full_at_first(store: Store, server: int, note: str) -> bool:
        if len(refused) < 3:
            refused.append(server)
            raise FtdError(Kind.NO_SPACE, "The disk is full: nothing was stored.")
        return await served(store, server, note)

    monkeypatch.setattr(Store, "served", full_at_first)
    bench.granting = False
    bench.pool.close(bench.pool.servers()[0].id, "it was idle")
    await all_ended(bench)
    assert len(refused) == 3
    assert_nothing_left(bench)


async def test_a_worker_that_will_not_stop_is_killed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "STOP_S", 0.1)
    await bench.ask("count 1")
    (worker,) = [p for p in processes(bench.shelf.home.root) if tuple(p.cmdline()) == FAKE]
    worker.suspend()
    bench.pool.close(bench.pool.servers()[0].id, "it was idle")
    bench.granting = False
    await all_ended(bench)
    assert_nothing_left(bench)


async def test_the_end_of_the_daemon_tells_everybody_and_leaves_nothing(bench: Bench) -> None:
    slow = await bench.shelf.put("slow", kind=ModelKind.BASE, base="slow", script="slow")
    running = await begin(bench, "hold")
    loading = asyncio.create_task(bench.answer(slow, "count 1"))
    await until(lambda: len(bench.pool.servers()) == 2)
    loop = asyncio.get_running_loop()
    started = loop.time()
    await bench.pool.stop()
    assert loop.time() - started < 2
    with pytest.raises(FtdError, match="ftd is stopping") as caught:
        await anext(running)
    assert caught.value.kind is Kind.UNAVAILABLE
    with pytest.raises(FtdError, match="ftd is stopping"):
        await loading
    with pytest.raises(FtdError, match="ftd is stopping"):
        await bench.ask("count 1")
    await until(lambda: not processes(bench.shelf.home.root))
    assert_nothing_left(bench)
    assert await bench.rows() == ()


async def test_descriptors_do_not_leak(bench: Bench) -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counts, does not look

    async def life() -> None:
        await bench.ask("count 1")
        async with aclosing(await begin(bench, "hold")):
            pass
        bench.granting = False
        bench.pool.close(bench.pool.servers()[0].id, "it was idle")
        await all_ended(bench)
        bench.granting = True

    await life()
    before = opened()
    for _ in range(3):
        await life()
    assert opened() <= before


async def test_inputs_go_with_the_worker(bench: Bench) -> None:
    await bench.ask("count 1")
    run: Path = (await bench.out()).parent
    weights = bench.shelf.home.models / BASE / "weights"
    assert weights.stat().st_nlink == 2
    bench.granting = False
    bench.pool.close(bench.pool.servers()[0].id, "it was idle")
    await all_ended(bench)
    assert weights.stat().st_nlink == 1
    assert [path.name for path in (run / "in").iterdir()] == ["spec.json"]


async def test_what_is_counted(bench: Bench) -> None:
    answers = await begin(bench, "hold")
    assert bench.number("ftd_inference_requests", state="running", base=BASE) == 1
    await answers.aclose()
    await bench.ask("count 4")
    await until(lambda: bench.number("ftd_inference_adapters", base=BASE) == 1)
    assert bench.number("ftd_inference_requests", state="running", base=BASE) == 0
    assert bench.number("ftd_inference_requests", state="waiting", base=BASE) == 0
    assert bench.number("ftd_inference_workers", base=BASE) == 1
    assert bench.number("ftd_inference_tokens_total", kind="prompt", base=BASE) == 6
    assert bench.number("ftd_inference_tokens_total", kind="cached", base=BASE) == 4
    assert bench.number("ftd_inference_tokens_total", kind="completion", base=BASE) == 4
    assert bench.number("ftd_inference_time_to_first_token_seconds_count", base=BASE) == 2
    assert bench.number("ftd_inference_inter_token_latency_seconds_count", base=BASE) == 3
    bench.granting = False
    bench.pool.close(bench.pool.servers()[0].id, "it was idle")
    await all_ended(bench)
    assert bench.number("ftd_inference_workers", base=BASE) == 0
    assert bench.number("ftd_inference_adapters", base=BASE) == 0
