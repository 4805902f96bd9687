"""One-shot tools: their answer, their limits, and that nothing of them is left."""

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ftd.launch.sandbox import Sandbox
from ftd.launch.shim import seccomp
from ftd.launch.shim.worker import OFFERED
from ftd.launch.tool import STDERR_BYTES, STDOUT_BYTES, ToolResult, run_tool

# A daemon that runs the tool argv[1] until it is killed itself.
DAEMON = """
import asyncio, sys
from ftd.launch.sandbox import Sandbox
from ftd.launch.shim import seccomp
from ftd.launch.shim.worker import OFFERED
from ftd.launch.tool import run_tool
asyncio.run(run_tool(sys.argv[1], sys.argv[2], timeout_s=None, sandbox=None))
"""


class Tools:
    """Writes modules where a tool finds them, and runs them; they may write where they are told."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.env = {**os.environ, "PYTHONPATH": str(directory)}

    def write(self, code: str) -> str:
        name = f"tool_{len(list(self.directory.glob('tool_*.py')))}"
        (self.directory / f"{name}.py").write_text(code)
        return name

    async def run(
        self, code: str, *args: str, timeout_s: float | None = 30, memory_bytes: int | None = None
    ) -> ToolResult:
        return await run_tool(
            self.write(code), *args, timeout_s=timeout_s, memory_bytes=memory_bytes, env=self.env,
            sandbox=None,
        )  # fmt: skip


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    return Tools(tmp_path)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - another process cannot set an Event
            await asyncio.sleep(0.01)


async def until_gone(pid: int) -> None:
    await until(lambda: gone(pid))


async def until_written(path: Path) -> int:
    """The number that somebody will write into a file."""
    await until(lambda: path.is_file() and path.read_text().endswith("\n"))
    return int(path.read_text())


# A tool that starts a child of its own and never ends; it writes the child's pid to argv[1].
ENDLESS = """
import subprocess, sys, time
child = subprocess.Popen(["sleep", "600"])
print("begun", flush=True)
open(sys.argv[1], "w").write(f"{child.pid}\\n")
time.sleep(600)
"""


async def test_arguments_go_in_and_an_answer_comes_out(tools: Tools) -> None:
    result = await tools.run(
        "import json, sys\nprint('noise')\nprint(json.dumps({'args': sys.argv[1:]}))", "a b", "-c"
    )
    assert result.returncode == 0
    assert result.answer() == {"args": ["a b", "-c"]}
    assert not result.timed_out


async def test_a_failure_keeps_its_status_and_last_words(tools: Tools) -> None:
    result = await tools.run("import sys\nsys.stderr.write('oh no')\nsys.exit(3)")
    assert result.returncode == 3
    assert result.stderr_tail == "oh no"
    with pytest.raises(ValueError, match="not a JSON object"):
        result.answer()


async def test_a_flood_is_read_to_its_end_and_its_tail_is_kept(tools: Tools) -> None:
    result = await tools.run(
        "import sys\n"
        "for _ in range(300): sys.stdout.write('x' * 65536); sys.stderr.write('y' * 1024)\n"
        "print(); print('{\"last\": 1}'); sys.stderr.write('end')"
    )
    assert result.answer() == {"last": 1}
    assert len(result.stdout) == STDOUT_BYTES
    assert len(result.stderr_tail) == STDERR_BYTES
    assert result.stderr_tail.endswith("yend")


async def test_when_time_is_up_the_whole_session_is_killed(tools: Tools, tmp_path: Path) -> None:
    result = await tools.run(ENDLESS, str(tmp_path / "pid"), timeout_s=2)
    assert result.timed_out
    assert result.returncode == -signal.SIGKILL
    assert result.stdout == b"begun\n"
    await until_gone(int((tmp_path / "pid").read_text()))


async def test_a_cancelled_call_leaves_nothing(tools: Tools, tmp_path: Path) -> None:
    running = asyncio.create_task(tools.run(ENDLESS, str(tmp_path / "pid"), timeout_s=None))
    child = await until_written(tmp_path / "pid")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until_gone(child)


async def test_a_call_that_is_cancelled_while_it_begins_leaves_nothing(
    tools: Tools, tmp_path: Path
) -> None:
    """The tool is at work before our loop, which had other things to do, has looked at it."""
    path = tmp_path / "pid"
    before = psutil.Process().children()
    running = asyncio.create_task(tools.run(ENDLESS, str(path), timeout_s=None))
    while psutil.Process().children() == before:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0)
    ends_at = time.monotonic() + 20
    while not (path.is_file() and path.read_text().endswith("\n")):
        assert time.monotonic() < ends_at
        time.sleep(0.01)  # noqa: ASYNC251 - which holds the loop up
    running.cancel()
    async with asyncio.timeout(20):
        with pytest.raises(asyncio.CancelledError):
            await running
    await until_gone(int(path.read_text()))


async def test_what_a_tool_leaves_behind_does_not_hold_us_up(tools: Tools, tmp_path: Path) -> None:
    began = time.monotonic()
    result = await tools.run(ENDLESS.replace("time.sleep(600)", ""), str(tmp_path / "pid"))
    assert result.returncode == 0
    assert time.monotonic() - began < 20
    await until_gone(int((tmp_path / "pid").read_text()))


async def test_a_child_that_left_the_session_is_not_waited_for(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftd.launch.tool.DRAIN_SECONDS", 0.2)
    escaping = ENDLESS.replace('"600"]', '"600"], start_new_session=True')
    result = await tools.run(escaping.replace("time.sleep(600)", ""), str(tmp_path / "pid"))
    assert (result.returncode, result.stdout) == (0, b"begun\n")
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


@pytest.mark.skipif(not seccomp.available(), reason="this kernel has no seccomp")
async def test_a_confined_child_cannot_leave_the_session(tools: Tools) -> None:
    code = """
import subprocess
for how in ({"start_new_session": True}, {"process_group": 0}):
    print(subprocess.Popen(["sleep", "600"], **how).pid, flush=True)
"""
    sandbox = Sandbox(read=(tools.directory,))
    result = await run_tool(tools.write(code), timeout_s=30, env=tools.env, sandbox=sandbox)
    children = [int(line) for line in result.stdout.splitlines()]
    assert len(children) == 2, result.stderr_tail
    for child in children:
        await until_gone(child)


async def test_memory_is_limited(tools: Tools) -> None:
    greedy = "try: bytearray(2**30)\nexcept MemoryError: print('{\"refused\": true}')"
    result = await tools.run(greedy, memory_bytes=2**29)
    assert result.answer() == {"refused": True}


BOUNDS = {
    "memory": (
        Sandbox(memory_bytes=2**27),
        "taken = bytearray(b'x') * 2**28; time.sleep(600)",
        r"the worker took \d+ bytes of memory of 134217728",
    ),
    "memory of a child": (
        Sandbox(memory_bytes=2**27),
        "os.fork() or (bytearray(b'x') * 2**28, time.sleep(600)); time.sleep(600)",
        r"the worker took \d+ bytes of memory of 134217728",
    ),
    "processes": (
        Sandbox(processes=20),
        "any(os.fork() == 0 for _ in range(30)); time.sleep(600)",
        r"the worker took \d+ processes of 20",
    ),
}


@pytest.mark.parametrize("bound", BOUNDS)
async def test_what_takes_more_than_it_may_is_killed(tools: Tools, bound: str) -> None:
    sandbox, code, said = BOUNDS[bound]
    module = tools.write(f"import os, time\n{code}\n")
    mine = replace(sandbox, read=(tools.directory,))
    before = set(psutil.pids())
    result = await run_tool(module, timeout_s=60, env=tools.env, sandbox=mine)
    assert (result.returncode, result.timed_out) == (-signal.SIGKILL, False), result.stderr_tail
    error = result.answer()["error"]
    assert isinstance(error, dict)
    assert error["code"] == "no_memory"
    assert re.match(said, error["message"])
    for pid in set(psutil.pids()) - before:
        with contextlib.suppress(psutil.NoSuchProcess):
            assert module not in psutil.Process(pid).cmdline() or gone(pid)


async def test_it_is_what_the_kernel_ends_first(tools: Tools) -> None:
    code = "import pathlib; print(pathlib.Path('/proc/self/oom_score_adj').read_text())"
    assert int((await tools.run(code)).stdout) >= OFFERED


async def test_a_module_is_not_taken_from_where_we_stand(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "json.py").write_text("raise SystemExit('planted')")
    monkeypatch.chdir(tmp_path / "here")
    result = await tools.run("import json; print(json.dumps({}))")
    assert result.answer() == {}


async def test_a_tool_dies_with_its_daemon(tools: Tools, tmp_path: Path) -> None:
    module = tools.write(
        "import os, sys, time\nopen(sys.argv[1], 'w').write(f'{os.getpid()}\\n')\ntime.sleep(600)"
    )
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DAEMON, module, str(tmp_path / "pid"), env=tools.env
    )
    try:
        tool = await until_written(tmp_path / "pid")
    finally:
        daemon.kill()
        await daemon.wait()
    await until_gone(tool)
