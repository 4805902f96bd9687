"""Workers that hang or starve, and shims that do: what a launcher can do about them."""

from pathlib import Path

import psutil

from ftd.core.job import Exit
from ftd.launch.local import LocalLauncher
from tests.groups import limited
from tests.launch.conformance import ended, job, opened, run, said, until
from tests.launch.conftest import alive
from tests.launch.test_shim import pid_of, status, talk


async def worker_of(launcher: LocalLauncher) -> psutil.Process:
    line = await talk(launcher)
    pid = (await status(line))["worker"]
    await line.close()
    return psutil.Process(pid)


async def test_a_worker_alone_is_asked_for_its_stack_and_goes_on(launcher: LocalLauncher) -> None:
    await run(launcher, "run-1", job(["stack"], ["helper"], ["pause", 0.01], ["steps", 100_000]))
    await said(launcher, "run-1", "step")
    channel = await opened(launcher, "run-1")
    await channel.signal("USR1")

    async def written() -> bool:
        stack = "in steps" in launcher.log("run-1").read_text()
        return stack and (launcher.out("run-1") / "grandchild").exists()

    await until(written)
    helper = int((launcher.out("run-1") / "grandchild").read_text())
    assert alive(helper), "one that does not know this signal"
    assert launcher.log("run-1").read_text().count("(most recent call first)") == 1
    assert await launcher.alive("ftjob-1")
    await channel.signal("KILL")
    assert await ended(launcher, "run-1") == Exit(signal=9)
    await channel.close()


async def test_a_frozen_worker_can_be_killed(launcher: LocalLauncher) -> None:
    await run(launcher, "run-1", job(["hang"]))
    await said(launcher, "run-1", "accepted")
    (await worker_of(launcher)).suspend()
    channel = await opened(launcher, "run-1")
    await channel.signal("KILL")
    assert await ended(launcher, "run-1") == Exit(signal=9)
    await channel.close()


async def test_a_frozen_shim_is_ended_and_its_worker_with_it(launcher: LocalLauncher) -> None:
    await run(launcher, "run-1", job(["hang"]))
    await said(launcher, "run-1", "accepted")
    worker = await worker_of(launcher)
    channel = await opened(launcher, "run-1")
    psutil.Process(pid_of(launcher)).suspend()
    await channel.signal("KILL")
    await channel.end()
    assert await ended(launcher, "run-1") is None
    assert not alive(worker.pid)
    await channel.close()


async def test_a_worker_is_offered_to_a_kernel_that_needs_memory(launcher: LocalLauncher) -> None:
    await run(launcher, "run-1", job(["hang"]))
    worker = await worker_of(launcher)
    ours = int(Path("/proc/self/oom_score_adj").read_text())
    assert int(Path(f"/proc/{worker.pid}/oom_score_adj").read_text()) == max(500, ours)


async def test_a_worker_that_starves_is_told_from_one_that_is_killed(
    launcher: LocalLauncher,
) -> None:
    with limited(128 * 2**20):
        await run(launcher, "run-1", job(["eat", 512]))
        starved = await ended(launcher, "run-1")
        await run(launcher, "run-2", job(["hang"]))
        await said(launcher, "run-2", "accepted")
        channel = await opened(launcher, "run-2")
        await channel.signal("KILL")
        killed = await ended(launcher, "run-2")
        await channel.close()
    assert starved == Exit(signal=9, starved=True)
    assert starved.peak_memory_bytes is not None
    assert 100 * 2**20 < starved.peak_memory_bytes < 160 * 2**20
    assert killed == Exit(signal=9)
