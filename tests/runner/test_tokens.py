"""Tokens are made once per file and tokenizer, kept however the attempt ended, never trusted."""

import asyncio
import errno
import json
import signal
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from ftd.core.job import State
from ftd.core.spec import Optimizer, TrainSpec
from ftd.host import blobs
from ftd.host.shelf import Shelf
from ftd.runner import tokens
from ftd.store import jobs, models
from tests.host.test_shelf import contents, make
from tests.runner.test_runner import PATIENCE_S, World, world

__all__ = ["world"]

MADE, LENT = "made tokens", "took lent tokens"


@pytest.fixture
def shelf(world: World) -> Shelf:
    return Shelf(world.home.tokens, 10_000)


async def submit(world: World, *script: list[object], name: str = "ftjob-1") -> str:
    """A job of that script; the hash of its file, which is the same for the same script."""
    await world.submit(*script, name=name)
    hash_ = sha256(world.home.file(f"file-{name}").read_bytes()).hexdigest()
    await world.store.db.write(
        lambda tx: (
            tx.execute("UPDATE files SET sha256 = ? WHERE id = ?", (hash_, f"file-{name}")) and None
        )
    )
    return hash_


async def planned(world: World, context_tokens: int = 128, name: str = "ftjob-1") -> None:
    """As after the first attempt's plan."""
    spec = TrainSpec(
        job=name, attempt=1, seed=1, n_epochs=1, batch_size=1, lora=None, device="cpu",
        optimizer=Optimizer(learning_rate=1), context_tokens=context_tokens, dtype="float32",
        micro_batch_tokens=8, threads=1, memory_bytes=2**30,
    )  # fmt: skip
    await world.store.db.write(lambda tx: jobs.keep_spec(tx, name, spec.model_dump_json()))


def launched(world: World, launch: str = "run-1") -> Path:
    run = world.home.runs / launch
    (run / "in").mkdir(parents=True)
    (run / "out").mkdir()
    return run


async def kept(world: World, shelf: Shelf, out: Path) -> None:
    await tokens.keep(world.store.db, shelf, out, "ftjob-1")


async def lent(world: World, shelf: Shelf, run: Path) -> bool:
    await tokens.lend(world.store.db, shelf, world.rooms.launcher, run.name, "ftjob-1")
    return (run / "in" / "tokens" / "training").is_dir()


async def test_what_one_attempt_made_the_next_is_given(world: World, shelf: Shelf) -> None:
    file = await submit(world, ["hang"])
    await planned(world)
    first, second = launched(world), launched(world, "run-2")
    assert not await lent(world, shelf, first)
    made = make(first / "out" / "tokens" / "training", source=file)
    expected = contents(made)
    await kept(world, shelf, first / "out")
    assert not (first / "out" / "tokens").exists()
    assert await lent(world, shelf, second)
    assert contents(second / "in" / "tokens" / "training") == expected


@pytest.mark.parametrize("change", ["context", "model", "file"])
async def test_something_else_is_given_nothing(world: World, shelf: Shelf, change: str) -> None:
    file = await submit(world, ["hang"])
    await planned(world)
    first, second = launched(world), launched(world, "run-2")
    make(first / "out" / "tokens" / "training", source=file)
    await kept(world, shelf, first / "out")
    match change:
        case "context":
            await world.store.db.write(
                lambda tx: tx.execute("UPDATE jobs SET spec = NULL") and None
            )
            await planned(world, context_tokens=64)
        case "model":
            base = await models.any_named(world.store.db, "m")
            assert base is not None
            other = replace(base, sha256="1")
            await world.store.db.write(lambda tx: models.replace(tx, other))
        case "file":
            await world.store.db.write(
                lambda tx: tx.execute("UPDATE files SET sha256 = 'other'") and None
            )
    assert not await lent(world, shelf, second)


async def test_broken_tokens_are_refused_and_removed(
    world: World, shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    file = await submit(world, ["hang"])
    await planned(world)
    run = launched(world)
    made = make(run / "out" / "tokens" / "training", source=file)
    (made / "ids.bin").write_bytes(b"x" * 40)
    make(run / "out" / "tokens" / "odd", source=file)
    await kept(world, shelf, run / "out")
    assert not (run / "out" / "tokens").exists()
    assert not shelf.sources()
    assert "tokens not kept" in caplog.text


async def test_a_link_out_of_the_run_is_not_followed(world: World, shelf: Shelf) -> None:
    file = await submit(world, ["hang"])
    await planned(world)
    run = launched(world)
    elsewhere = make(world.home.root / "elsewhere" / "training", source=file)
    (run / "out" / "tokens").symlink_to(elsewhere.parent)
    await kept(world, shelf, run / "out")
    assert not shelf.sources()
    assert len(contents(elsewhere)) == 5


async def test_a_full_disk_costs_the_tokens_alone(
    world: World, shelf: Shelf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = await submit(world, ["hang"])
    await planned(world)
    run = launched(world)
    make(run / "out" / "tokens" / "training", source=file)
    with monkeypatch.context() as patched:
        patched.setattr(blobs, "publish", full)
        await kept(world, shelf, run / "out")
    assert not (run / "out" / "tokens").exists()
    assert "tokens not kept" in caplog.text
    assert not await lent(world, shelf, run)


async def test_tokens_that_go_meanwhile_are_not_lent_by_half(
    world: World, shelf: Shelf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await submit(world, ["hang"])
    await planned(world)
    run = launched(world)
    monkeypatch.setattr(Shelf, "find", lambda *_: True)
    assert not await lent(world, shelf, run)
    assert "tokens not lent" in caplog.text
    assert not list((run / "in").rglob("*.bin"))


async def test_the_tokens_of_a_job_that_is_gone_are_removed(world: World, shelf: Shelf) -> None:
    run = launched(world)
    make(run / "out" / "tokens" / "training")
    await kept(world, shelf, run / "out")
    assert not (run / "out" / "tokens").exists()
    assert not shelf.sources()


def notices(told: list[str]) -> list[str]:
    return [message for message in told if message in (MADE, LENT)]


async def test_a_lost_attempt_leaves_its_tokens_to_the_next(world: World, tmp_path: Path) -> None:
    """Three attempts, each killed: one makes tokens, and two take them."""
    script: list[list[object]] = [
        ["tokens", str(tmp_path / "made")], ["kill", int(signal.SIGKILL)],
    ]  # fmt: skip
    make(tmp_path / "made", source=sha256(json.dumps(script).encode()).hexdigest())
    await submit(world, *script)
    world.start()
    await world.until(State.FAILED)
    await world.until_free()
    assert notices(await world.told()) == [MADE, LENT], "a notice is told once"
    assert not list(world.home.runs.glob("*/out/tokens"))


@pytest.mark.parametrize(
    "end",
    [
        [["checkpoint", 1], ["done", 1]],
        [["say", json.dumps({"kind": "failed", "code": "diverged", "message": "No."})]],
        [["say", json.dumps({"kind": "stopped", "step": 0})]],
        [["say", "nonsense"], ["hang"]],
    ],
    ids=["done", "failed", "stopped", "nonsense"],
)
async def test_however_it_ends_its_tokens_are_kept(
    world: World, tmp_path: Path, end: list[list[object]]
) -> None:
    script = [["tokens", str(tmp_path / "made")], *end, ["exit", 0]]
    file = sha256(json.dumps(script).encode()).hexdigest()
    make(tmp_path / "made", source=file)
    await submit(world, *script)
    world.start()
    await world.until_told(MADE)
    await until_kept(world, file)


async def until_kept(world: World, file: str) -> None:
    """An attempt that settled is told by the bell, and its tokens lie there before."""
    shelf = Shelf(world.home.tokens, 0)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            heard = world.bell.listen()
            if shelf.sources() == (file,):
                return
            await heard.wait()


@pytest.mark.parametrize(
    "harm",
    [
        lambda made: (made / "manifest.json").write_text("[" * 10_000),
        lambda made: (made / "manifest.json").symlink_to("/etc/passwd"),
    ],
)
async def test_a_job_whose_tokens_are_refused_succeeds(
    world: World, tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    make(tmp_path / "made")
    (tmp_path / "made" / "manifest.json").unlink()
    harm(tmp_path / "made")
    await submit(world, ["tokens", str(tmp_path / "made")], ["checkpoint", 1], ["done", 1])
    world.start()
    await world.until(State.SUCCEEDED)
    await world.until_free()
    assert not list(world.home.tokens.glob("[!.]*"))
