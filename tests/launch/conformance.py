"""What every launcher must do, told once: a class of tests that a launcher's own tests inherit.

A launcher that has no processes of its own plays the scripts of fakeworker.py in its own way.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ftd.core.device import Device
from ftd.core.job import Exit
from ftd.core.wire import Stop
from ftd.launch.base import (
    Assignment,
    BadInputs,
    Channel,
    Frame,
    Gone,
    Launcher,
    Refused,
    Role,
)

CPU = Device(id="cpu", kind="cpu", name="processor", memory_bytes=2**30)
CARD = Device(id="GPU-1", kind="cuda", name="card", memory_bytes=2**30)
PATIENCE_S = 20.0


def job(
    *script: list[Any],
    name: str = "ftjob-1",
    devices: tuple[Device, ...] = (CPU,),
    inputs: dict[str, Path] | None = None,
    shared: bool = False,
) -> Assignment:
    """A job whose worker does what fakeworker.py calls a script."""
    spec = json.dumps({"script": script}).encode()
    return Assignment(
        job=name, attempt=1, spec=spec, inputs=inputs or {}, devices=devices, shared=shared
    )


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.01)


async def run(launcher: Launcher, launch: str, assignment: Assignment) -> None:
    await launcher.launch(launch)
    await launcher.assign(launch, assignment)


async def serve(
    launcher: Launcher,
    launch: str,
    *script: list[Any],
    devices: tuple[Device, ...] = (CPU,),
) -> None:
    """Launch an inference worker; its lock has the launch's name."""
    await launcher.launch(launch, Role.INFER)
    await launcher.assign(launch, job(*script, name=launch, devices=devices, shared=True))


async def ended(launcher: Launcher, launch: str, name: str = "ftjob-1") -> Exit | None:
    """Wait as the daemon does: until nobody holds the job's lock."""

    async def free() -> bool:
        return not await launcher.alive(name)

    await until(free)
    return launcher.exit_record(launch)


async def opened(launcher: Launcher, launch: str) -> Channel:
    channel = await launcher.connect(launch)
    assert channel is not None
    return channel


def frames(launcher: Launcher, launch: str) -> list[Frame]:
    """The whole spool, in reads as small as there are."""
    found: list[Frame] = []
    offset = 0
    while (spooled := launcher.read(launch, offset, 1)).frames:
        found += spooled.frames
        offset = spooled.offset
        assert spooled.corrupt is None
    return found


def kinds(launcher: Launcher, launch: str) -> list[str]:
    return [json.loads(frame.line)["kind"] for frame in frames(launcher, launch)]


async def said(launcher: Launcher, launch: str, kind: str, times: int = 1) -> None:
    """Wait until the worker has said this so often."""

    async def enough() -> bool:
        return kinds(launcher, launch).count(kind) >= times

    await until(enough)


class LauncherConformance:
    """Inherit it and give a fixture `launcher`."""

    async def test_a_job_from_launch_to_exit(self, launcher: Launcher) -> None:
        await launcher.launch("run-1")
        assert not launcher.assigned("run-1")
        assert not await launcher.alive("ftjob-1")
        await launcher.assign("run-1", job(["steps", 3]))
        assert launcher.assigned("run-1")
        assert await ended(launcher, "run-1") == Exit(code=0)
        told = ["started", "accepted", "step", "step", "step", "done"]
        assert kinds(launcher, "run-1") == told
        assert [frame.seq for frame in frames(launcher, "run-1")] == [1, 2, 3, 4, 5, 6]
        assert await launcher.connect("run-1") is None

    async def test_a_running_job_is_alive_and_listens(self, launcher: Launcher) -> None:
        await run(launcher, "run-1", job(["pause", 0.01], ["steps", 100_000]))
        await said(launcher, "run-1", "step")
        assert await launcher.alive("ftjob-1")
        assert launcher.exit_record("run-1") is None
        channel = await opened(launcher, "run-1")
        await channel.command(Stop(save=True))
        assert await ended(launcher, "run-1") == Exit(code=0)
        assert kinds(launcher, "run-1")[-1] == "stopped"
        await channel.close()

    async def test_a_poke_says_that_there_is_something_to_read(self, launcher: Launcher) -> None:
        await run(launcher, "run-1", job(["steps", 1], ["hang"]))
        await said(launcher, "run-1", "step")
        channel = await opened(launcher, "run-1")
        assert await channel.changed(PATIENCE_S), "a new channel may have missed something"
        began = asyncio.get_running_loop().time()
        assert await channel.changed(0.05), "the time is up: it lives all the same"
        assert asyncio.get_running_loop().time() - began >= 0.04
        await channel.signal("KILL")
        assert await channel.changed(PATIENCE_S), "its end is news"
        while await channel.changed(PATIENCE_S):
            pass
        with pytest.raises(Refused):
            await channel.command(Stop())
        with pytest.raises(Refused):
            await channel.signal("TERM")
        await channel.close()

    @pytest.mark.parametrize(
        ("script", "exit_"),
        [(["exit", 3], Exit(code=3)), (["kill", 9], Exit(signal=9)), (["kill", 6], Exit(signal=6))],
    )
    async def test_how_it_ended_is_recorded(
        self, launcher: Launcher, script: list[Any], exit_: Exit
    ) -> None:
        await run(launcher, "run-1", job(script))
        assert await ended(launcher, "run-1") == exit_
        assert kinds(launcher, "run-1") == ["started", "accepted"]

    async def test_a_worker_that_waits_in_vain_is_taken_back(self, launcher: Launcher) -> None:
        await launcher.launch("run-1")
        await launcher.launch("run-2")
        assert await launcher.abandoned() == (), "they live"
        channel = await opened(launcher, "run-1")
        for launch in ("run-1", "run-1", "run-9"):
            await launcher.undo(launch)
        while await channel.changed(PATIENCE_S):
            pass
        await channel.close()
        assert await launcher.connect("run-1") is None
        assert not launcher.out("run-1").parent.exists()
        await launcher.assign("run-2", job(["steps", 1]))
        assert await ended(launcher, "run-2") == Exit(code=0)
        assert await launcher.abandoned() == (), "it had a job"

    async def test_who_has_ended_before_its_job_is_gone_and_its_name_is_free(
        self, launcher: Launcher
    ) -> None:
        await launcher.launch("run-1")
        await said(launcher, "run-1", "started")
        channel = await opened(launcher, "run-1")
        assert await channel.changed(PATIENCE_S), "it is heard from now on"
        await channel.signal("KILL")
        with pytest.raises(Gone):
            await launcher.assign("run-1", job(["steps", 1]))
        assert not launcher.assigned("run-1")
        await channel.close()
        await launcher.undo("run-1")
        await run(launcher, "run-1", job(["steps", 1]))
        assert await ended(launcher, "run-1") == Exit(code=0)
        assert kinds(launcher, "run-1") == ["started", "accepted", "step", "done"]

    async def test_signals_reach_the_worker(self, launcher: Launcher) -> None:
        for launch, name, number in (("run-1", "TERM", 15), ("run-2", "KILL", 9)):
            await run(launcher, launch, job(["steps", 1], ["hang"]))
            await said(launcher, launch, "step")
            channel = await opened(launcher, launch)
            await channel.signal(name)
            assert await ended(launcher, launch) == Exit(signal=number)
            await channel.close()

    async def test_a_job_runs_once(self, launcher: Launcher) -> None:
        await run(launcher, "run-1", job(["hang"]))
        with pytest.raises(Refused, match=r"ftjob-1\.lock is held by run-1") as refused:
            await run(launcher, "run-2", job(["hang"]))
        assert not isinstance(refused.value, Gone), "another launch would do no better"
        assert not launcher.assigned("run-2")
        channel = await opened(launcher, "run-1")
        await channel.signal("KILL")
        assert await ended(launcher, "run-1") == Exit(signal=9)
        await channel.close()
        await run(launcher, "run-3", job(["steps", 1]))
        assert await ended(launcher, "run-3") == Exit(code=0)

    @pytest.mark.parametrize("device", [CPU, CARD], ids=lambda device: str(device.id))
    async def test_a_device_has_one_job(self, launcher: Launcher, device: Device) -> None:
        await run(launcher, "run-1", job(["hang"], devices=(device,)))
        with pytest.raises(Refused, match=rf"{device.id}.*\.lock is held by run-1"):
            await run(launcher, "run-2", job(name="ftjob-2", devices=(device,)))
        assert not await launcher.alive("ftjob-2")
        assert await launcher.alive("ftjob-1")

    @pytest.mark.parametrize("first", [Role.TRAIN, Role.INFER])
    async def test_training_and_serving_share_the_cpu(
        self, launcher: Launcher, first: Role
    ) -> None:
        if first is Role.TRAIN:
            await run(launcher, "run-1", job(["hang"]))
        await serve(launcher, "run-2", ["hang"])
        await serve(launcher, "run-3", ["hang"])
        if first is Role.INFER:
            await run(launcher, "run-1", job(["hang"]))
        for name in ("ftjob-1", "run-2", "run-3"):
            assert await launcher.alive(name)

    async def test_a_card_is_shared_by_servers_alone(self, launcher: Launcher) -> None:
        await serve(launcher, "run-1", ["hang"], devices=(CARD,))
        await serve(launcher, "run-2", ["hang"], devices=(CARD,))
        with pytest.raises(Refused, match=r"GPU-1\.lock is held by run-2"):
            await run(launcher, "run-3", job(devices=(CARD,)))
        for launch in ("run-1", "run-2"):
            await launcher.hang_up(launch)
            await ended(launcher, launch, launch)
        await run(launcher, "run-4", job(["hang"], devices=(CARD,)))
        with pytest.raises(Refused, match=r"GPU-1\.lock is held by run-4"):
            await serve(launcher, "run-5", devices=(CARD,))
        assert not await launcher.alive("run-5")

    async def test_a_server_is_spoken_to_on_its_own_socket(self, launcher: Launcher) -> None:
        with pytest.raises(FileNotFoundError):
            await launcher.dial("run-1", "serve.sock")
        await serve(launcher, "run-1", ["echo"])
        await said(launcher, "run-1", "ready")
        reader, writer = await launcher.dial("run-1", "serve.sock")
        writer.write(b"x" * 100_000)
        writer.write_eof()
        assert await reader.read() == b"x" * 100_000
        writer.close()
        await writer.wait_closed()
        assert await ended(launcher, "run-1", "run-1") == Exit(code=0)
        with pytest.raises(ConnectionRefusedError):
            await launcher.dial("run-1", "serve.sock")

    async def test_a_server_ends_when_it_is_hung_up_on(self, launcher: Launcher) -> None:
        await launcher.launch("run-1", Role.INFER)
        await serve(launcher, "run-2", ["deaf"], ["steps", 1], ["hang"])
        await said(launcher, "run-2", "step")
        channel = await opened(launcher, "run-2")
        for launch in ("run-1", "run-2", "run-2", "run-9"):
            await launcher.hang_up(launch)
        assert await ended(launcher, "run-2", "run-2") == Exit(signal=9)
        while await channel.changed(PATIENCE_S):
            pass
        await channel.close()

        async def recorded() -> bool:
            return launcher.exit_record("run-1") == Exit(signal=9)

        await until(recorded)

    async def test_a_job_is_not_ended_by_hanging_up(self, launcher: Launcher) -> None:
        await run(launcher, "run-1", job(["pause", 0.01], ["steps", 100_000]))
        await said(launcher, "run-1", "step")
        await launcher.hang_up("run-1")
        await said(launcher, "run-1", "step", kinds(launcher, "run-1").count("step") + 10)

    async def test_a_server_is_lent_more_while_it_runs(
        self, launcher: Launcher, tmp_path: Path
    ) -> None:
        adapter = tmp_path / "adapter"
        adapter.mkdir()
        (adapter / "weights").write_bytes(b"w")
        (tmp_path / "odd").symlink_to(adapter)
        await serve(launcher, "run-1", ["hang"])
        await asyncio.gather(*(launcher.lend("run-1", "adapters/a", adapter) for _ in range(5)))
        inside = launcher.out("run-1").parent / "in"
        assert (inside / "adapters" / "a" / "weights").read_bytes() == b"w"
        (adapter / "weights").unlink()
        adapter.rmdir()
        await launcher.lend("run-1", "adapters/a", adapter)
        assert (inside / "adapters" / "a" / "weights").read_bytes() == b"w", "it has it already"
        for missing in (adapter, tmp_path / "odd"):
            with pytest.raises(BadInputs):
                await launcher.lend("run-1", "adapters/b", missing)
        assert sorted(entry.name for entry in inside.iterdir()) == ["adapters", "spec.json"]
        assert [entry.name for entry in (inside / "adapters").iterdir()] == ["a"]
        await launcher.hang_up("run-1")
        await ended(launcher, "run-1", "run-1")
        await launcher.discard("run-1")
        assert [entry.name for entry in inside.iterdir()] == ["spec.json"]

    async def test_inputs_are_there(self, launcher: Launcher, tmp_path: Path) -> None:
        model = tmp_path / "model"
        (model / "deep").mkdir(parents=True)
        (model / "deep" / "weights").write_bytes(b"w")
        data = tmp_path / "data.jsonl"
        data.write_text("{}\n")
        inputs = {"training.jsonl": data, "model": model}
        await run(launcher, "run-1", job(["hang"], inputs=inputs))
        data.unlink()
        inside = launcher.out("run-1").parent / "in"
        assert (inside / "training.jsonl").read_text() == "{}\n", "it outlives a delete"
        assert (inside / "model" / "deep" / "weights").read_bytes() == b"w"

    async def test_inputs_that_are_links_are_refused(
        self, launcher: Launcher, tmp_path: Path
    ) -> None:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "weights").symlink_to("/etc/hostname")
        with pytest.raises(BadInputs, match="neither a file nor a directory"):
            await run(launcher, "run-1", job(inputs={"model": tmp_path / "model"}))
        assert not await launcher.alive("ftjob-1")

    async def test_what_the_worker_writes_is_found(self, launcher: Launcher) -> None:
        await run(launcher, "run-1", job(["print", 2]))
        assert await ended(launcher, "run-1") == Exit(code=0)
        assert launcher.log("run-1").read_bytes() == (b"x" * 1023 + b"\n") * 2
        assert (launcher.out("run-1") / "environment.json").is_file()

    async def test_nothing_is_known_of_a_launch_that_never_was(self, launcher: Launcher) -> None:
        assert await launcher.connect("run-9") is None
        assert launcher.exit_record("run-9") is None
        assert not launcher.assigned("run-9")
        assert launcher.read("run-9", 0, 1000).frames == ()
        with pytest.raises(Refused):
            await launcher.assign("run-9", job())
