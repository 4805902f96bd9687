"""ftctl events, watch, wait and logs, as processes: endings, interruptions, restarts."""

import asyncio
import json
import os
import pty
import signal
import sys
from collections.abc import Awaitable, Callable

import pytest

from ftd.core.hyperparams import Requested
from ftd.core.job import Job, JobError, State
from tests.ftctl.conftest import Daemon, ended

Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture
def job(daemon: Daemon) -> str:
    daemon.door.jobs.add(
        Job(
            seq=1,
            id="ftjob-1",
            project="default",
            created_at=1_700_000_000,
            model="smollm2",
            base="smollm2",
            minted="ft:smollm2::x",
            training_file="file-1",
            seed=1,
            requested=Requested(),
            state=State.RUNNING,
            phase="training",
        )
    )
    return "ftjob-1"


async def lines(process: asyncio.subprocess.Process, count: int) -> list[str]:
    assert process.stdout is not None
    found = [await asyncio.wait_for(process.stdout.readline(), 30) for _ in range(count)]
    return [line.decode() for line in found]


async def test_events_table_is_told_in_order_and_json_is_the_apis(daemon: Daemon, job: str) -> None:
    daemon.door.jobs.step(job, 1, 3, 2.5)
    table = await daemon.run("events", job)
    header, *rows = table.out.splitlines()
    assert header.split() == ["TIME", "LEVEL", "MESSAGE"]
    assert [row.rstrip() for row in rows] == [
        "2023-11-14 22:13:21  info   Created fine-tuning job: ftjob-1",
        "2023-11-14 22:13:22  info   Step 1/3: training loss=2.50",
    ]
    found = json.loads((await daemon.run("events", job, "-o", "json", "--limit", "1")).out)
    assert found["has_more"] is True
    assert found["data"] == [
        {
            "id": "ftevent-2",
            "object": "fine_tuning.job.event",
            "created_at": 1_700_000_002,
            "level": "info",
            "message": "Step 1/3: training loss=2.50",
            "type": "metrics",
            "data": {"step": 1, "total_steps": 3, "train_loss": 2.5, "tokens_per_second": 4321},
        }
    ]


async def test_events_follow_ends_with_the_job(daemon: Daemon, job: str) -> None:
    process = await daemon.begin("events", job, "--follow", "-o", "json")
    await lines(process, 1)
    daemon.door.jobs.step(job, 1, 1, 1.0)
    daemon.door.jobs.finish(job, State.SUCCEEDED)
    ran = await ended(process)
    assert ran.status == 0
    assert [json.loads(line)["id"] for line in ran.out.splitlines()] == ["ftevent-2"]


async def test_events_follow_from_a_known_event(daemon: Daemon, job: str) -> None:
    daemon.door.jobs.tell(job, "two")
    daemon.door.jobs.finish(job, State.SUCCEEDED)
    ran = await daemon.run("events", job, "-f", "-o", "name", "--after", "ftevent-1")
    assert ran.out == "ftevent-2\n"


@pytest.mark.parametrize("command", ["watch", "wait"])
@pytest.mark.parametrize(
    ("state", "status"),
    [(State.SUCCEEDED, 0), (State.FAILED, 5), (State.CANCELLED, 6)],
    ids=["succeeded", "failed", "cancelled"],
)
async def test_the_exit_status_is_the_jobs(
    daemon: Daemon, job: str, command: str, state: State, status: int
) -> None:
    changes: dict[str, object] = {}
    if state is State.FAILED:
        changes["error"] = JobError(code="x", message="It was bad.")
    if state is State.SUCCEEDED:
        changes["fine_tuned_model"] = "ft:smollm2::x"
    daemon.door.jobs.finish(job, state, **changes)
    ran = await daemon.run(command, job)
    assert ran.status == status
    assert (ran.out == "") is (command == "wait")
    said = {0: "succeeded: ft:smollm2::x", 5: "failed: It was bad.", 6: "is cancelled"}
    assert said[status] in ran.err


async def test_a_failed_watch_shows_the_faults_of_the_data(daemon: Daemon, job: str) -> None:
    error = JobError(code="invalid_training_file", message="Bad data.", param="training_file")
    faults = [{"line": 7, "path": "messages[1].role", "message": "No role.", "fix": "Add one."}]
    daemon.door.jobs.tell(job, "Bad data.", level="error", data={"errors": faults})
    daemon.door.jobs.finish(job, State.FAILED, error=error)
    ran = await daemon.run("watch", job)
    assert ran.status == 5
    assert "line 7, messages[1].role: No role. Add one." in ran.err


async def test_submit_watch_keeps_stdout_to_the_id(daemon: Daemon, until: Until) -> None:
    daemon.door.files.add("file-x", b"{}")
    process = await daemon.begin("submit", "file-x", "--model", "smollm2", "--watch")
    await until(lambda: daemon.door.jobs.watching == 1)
    daemon.door.jobs.finish("ftjob-1", State.CANCELLED)
    ran = await ended(process)
    assert (ran.status, ran.out) == (6, "ftjob-1\n")
    assert "Created fine-tuning job: ftjob-1" in ran.err


@pytest.mark.parametrize("command", [("watch",), ("wait",), ("events", "-f"), ("logs", "-f")])
async def test_an_interrupted_look_detaches_and_says_so(
    daemon: Daemon, job: str, until: Until, command: tuple[str, ...]
) -> None:
    daemon.door.jobs.logged[job] = b"loading\n"
    process = await daemon.begin(*command, job)
    if command[0] == "wait":
        await until(lambda: daemon.door.jobs.watching == 1)
    else:
        await lines(process, 1)
    process.send_signal(signal.SIGINT)
    ran = await ended(process)
    assert ran.status == 130
    assert f"detached; {job} goes on" in ran.err
    assert f"ftctl watch {job}" in ran.err
    assert "Traceback" not in ran.err
    assert not daemon.door.jobs.rows[job].final


async def test_wait_gives_up_after_its_timeout(daemon: Daemon, job: str) -> None:
    ran = await daemon.run("wait", job, "--timeout", "0.2")
    assert ran.status == 8
    assert f"{job} is not over yet" in ran.err


@pytest.mark.parametrize("way", ["before", "while"])
async def test_a_watch_survives_a_restart_of_the_daemon(daemon: Daemon, job: str, way: str) -> None:
    """Each event is shown once, whether it was told before the daemon went or while it was away."""
    process = await daemon.begin("watch", job)
    first = await lines(process, 1)
    if way == "before":
        daemon.door.jobs.step(job, 1, 2, 2.0)
        first += await lines(process, 1)
    await daemon.stop()
    if way == "while":
        daemon.door.jobs.step(job, 1, 2, 2.0)
    await asyncio.sleep(0)
    await daemon.start()
    daemon.door.jobs.step(job, 2, 2, 1.0)
    daemon.door.jobs.finish(job, State.SUCCEEDED)
    ran = await ended(process)
    assert ran.status == 0
    told = [line.split("info")[1].strip() for line in [*first, *ran.out.splitlines()]]
    assert told == [
        "Created fine-tuning job: ftjob-1",
        "Step 1/2: training loss=2.00",
        "Step 2/2: training loss=1.00",
    ]
    assert ran.err.count("the daemon has gone away") == 1


async def test_logs_are_text_whatever_the_trainer_wrote(daemon: Daemon, job: str) -> None:
    daemon.door.jobs.logged[job] = b"loading\r 10%\r100%\r\n\x1b[31mred\x1b[0m\xff\n"
    ran = await daemon.run("logs", job)
    assert ran.status == 0
    assert ran.out == "loading\n 10%\n100%\n\\x1b[31mred\\x1b[0m\ufffd\n"


async def test_logs_of_a_job_that_wrote_nothing_say_so(daemon: Daemon, job: str) -> None:
    ran = await daemon.run("logs", job)
    assert (ran.status, ran.out) == (0, "")
    assert ran.err == f"{job} has written nothing; `ftctl events {job}` shows what it told\n"


async def test_a_watch_on_a_terminal_is_a_live_bar(daemon: Daemon, job: str) -> None:
    terminal, ours = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ftctl",
        "watch",
        job,
        stdin=ours,
        stdout=ours,
        stderr=ours,
        env={**daemon.env, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(ours)
    shown = bytearray()

    def read() -> None:
        try:
            shown.extend(os.read(terminal, 65536))
        except OSError:  # the other side has closed
            asyncio.get_running_loop().remove_reader(terminal)

    asyncio.get_running_loop().add_reader(terminal, read)
    try:
        async with asyncio.timeout(30):
            for step in range(1, 1000):
                if b"loss 1.500" in shown and b"4,321 tokens/s" in shown:
                    break
                daemon.door.jobs.step(job, step, 1000, 1.5)
                await asyncio.sleep(0.05)
            daemon.door.jobs.finish(job, State.SUCCEEDED, fine_tuned_model="ft:smollm2::x")
            assert await process.wait() == 0
    finally:
        asyncio.get_running_loop().remove_reader(terminal)
        os.close(terminal)
    text = shown.decode()
    assert "training" in text
    assert "/1000" in text
    assert "Created fine-tuning job: ftjob-1" in text
    assert "succeeded: ft:smollm2::x" in text
