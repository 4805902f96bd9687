"""What a worker of ill will tries, one attack a test: it is refused, and nothing is touched."""

import ast
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ftd.core.job import Exit
from ftd.launch.base import Assignment, Role
from ftd.launch.local import LocalLauncher
from ftd.launch.sandbox import Sandbox
from ftd.launch.shim import sandbox as kernel
from ftd.launch.shim.sandbox import Grants
from tests.launch.conformance import CPU, ended, run, until
from tests.launch.conftest import end
from tests.security.attacks import (
    ASKING,
    ATTACKS,
    BRINGING,
    CALLING,
    CHANGING,
    LOOKING,
    OPENING,
    REACHING,
    READING,
    SLOWING,
    TRAPPING,
    Attack,
    name,
)

ATTACKER = Path(__file__).with_name("attacker.py")
PROGRAMS = {Role.TRAIN: (sys.executable, "-I", "-S", str(ATTACKER))}
REFUSED = ("EACCES", "EPERM")
HOWS = ("itself", "thread", "child", "program")
PLANTED = [Path(path) for _, path, *_ in CHANGING if path.startswith("/") and "planted" in path]

pytestmark = pytest.mark.skipif(bool(kernel.lacks()), reason=f"this kernel has {kernel.lacks()}")


@dataclass(slots=True)
class House:
    """A home with canaries, a run that attacks, another run, and a process that stands outside."""

    home: Path
    launcher: LocalLauncher
    victim: subprocess.Popen[bytes]
    outside: Path

    @property
    def run(self) -> Path:
        return self.home / "runs" / "run-1"

    @property
    def other(self) -> Path:
        return self.home / "runs" / "run-2"

    async def attack(self, name: str, *arguments: Any, through: str = "itself") -> dict[str, Any]:
        """What came of it."""
        exit_ = await self.strike(name, *arguments, through=through)
        assert exit_ == Exit(code=0), self._log()
        return self.result()

    async def strike(self, name: str, *arguments: Any, through: str = "itself") -> Exit | None:
        """How the attacker ended, once nobody has the lock of its job."""
        spec = {"attack": name, "arguments": [*map(self._named, arguments)], "through": through}
        data = self.home / "files" / "training.jsonl"
        assignment = Assignment(
            job="ftjob-1", attempt=1, spec=json.dumps(spec).encode(),
            inputs={"training.jsonl": data}, devices=(CPU,),
        )  # fmt: skip
        await run(self.launcher, "run-1", assignment)
        return await ended(self.launcher, "run-1")

    def result(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads((self.run / "out" / "result.json").read_text())
        return result

    def _named(self, argument: Any) -> Any:
        if argument == "{victim}":
            return self.victim.pid
        if isinstance(argument, str):
            return argument.format(
                home=self.home,
                run=self.run,
                other=self.other,
                outside=self.outside,
                victim=self.victim.pid,
            )
        return argument

    def _log(self) -> str:
        return (self.run / "worker.log").read_text()

    def canaries(self) -> dict[str, tuple[bytes, int, float]]:
        """Every file of the home outside of the attacker's run: its bytes, mode and time."""
        found = {}
        for path in [*self.home.rglob("*"), *self.outside.rglob("*")]:
            if path.is_file() and not path.is_relative_to(self.run):
                status = path.stat()
                found[str(path)] = (path.read_bytes(), status.st_mode, status.st_mtime)
        return found


VICTIM = """
import time
from ftd.launch.shim.sandbox import drop_privileges
drop_privileges()
print("ready", flush=True)
time.sleep(600)
"""


class Calling(Sandbox):
    """For workers that have the network of one who fetches."""

    network: ClassVar[str]

    def worker(self, run: Path) -> Grants:
        return Sandbox.worker(self, run)._replace(network=self.network)


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the same user, outside, without privileges as the daemon of a service is."""
    with subprocess.Popen([sys.executable, "-c", VICTIM], stdout=subprocess.PIPE) as victim:
        assert victim.stdout is not None
        victim.stdout.readline()
        yield victim
        victim.kill()


@pytest.fixture
async def house(tmp_path: Path, victim: subprocess.Popen[bytes]) -> AsyncIterator[House]:
    """One that holds: afterwards everything is as it was."""
    async with _standing(tmp_path, victim, Sandbox(read=(ATTACKER.parent,))) as house:
        before = house.canaries()
        yield house
        after = house.canaries()
        assert {name: after.get(name) for name in before} == before, "a canary was touched"
        assert not [name for name in after if name.endswith("planted")]
        assert victim.poll() is None, "the process outside has ended"


@pytest.fixture
async def besieged(tmp_path: Path, victim: subprocess.Popen[bytes]) -> AsyncIterator[House]:
    """One whose workers may do what we may."""
    async with _standing(tmp_path, victim, None) as house:
        yield house


@asynccontextmanager
async def _standing(
    place: Path, victim: subprocess.Popen[bytes], sandbox: Sandbox | None
) -> AsyncIterator[House]:
    home, outside = place / "home", place / "outside"
    for path in (home / "files", home / "runs" / "run-2" / "in", outside):
        path.mkdir(parents=True)
    (home / "admin.key").write_text("ftd_canary")
    (home / "ftd.db").write_bytes(b"SQLite canary")
    (home / "files" / "training.jsonl").write_text("{}\n")
    (home / "files" / "others.jsonl").write_text("canary\n")
    (home / "runs" / "run-2" / "in" / "training.jsonl").write_text("canary\n")
    (home / "runs" / "run-2" / "spool").write_text("canary\n")
    (outside / "secret").write_text("canary")
    launcher = LocalLauncher(home, programs=PROGRAMS, sandbox=sandbox)
    with _listening(home, f"ftd-canary-{victim.pid}") as listeners:
        try:
            yield House(home, launcher, victim, outside)
            for listener in listeners if sandbox else ():
                with pytest.raises(BlockingIOError):
                    listener.accept()
        finally:
            await launcher.close()
            end(home)
            for planted in PLANTED:
                planted.unlink(missing_ok=True)


@contextmanager
def _listening(home: Path, abstract: str) -> Iterator[list[socket.socket]]:
    """As the daemon does, and under a name that has no file."""
    descriptor = os.open(home, os.O_PATH | os.O_DIRECTORY)
    try:
        listeners = []
        for address in (f"/proc/self/fd/{descriptor}/ftd.sock", f"\0{abstract}"):
            listener = socket.socket(socket.AF_UNIX)
            listeners.append(listener)
            listener.bind(address)
            listener.listen()
            listener.setblocking(False)
        yield listeners
    finally:
        os.close(descriptor)
        for listener in listeners:
            listener.close()


@pytest.mark.parametrize("attack", READING, ids=name)
async def test_it_cannot_read(house: House, attack: Attack) -> None:
    assert (await house.attack(*attack))["errno"] in REFUSED


@pytest.mark.parametrize("attack", CHANGING, ids=name)
async def test_it_cannot_change(house: House, attack: Attack) -> None:
    assert (await house.attack(*attack))["errno"] in REFUSED


@pytest.mark.parametrize("attack", OPENING, ids=name)
async def test_it_cannot_open_a_file_to_others(house: House, attack: Attack) -> None:
    assert (await house.attack(*attack))["errno"] in REFUSED


@pytest.mark.parametrize("attack", BRINGING, ids=name)
async def test_it_cannot_bring_a_file_where_it_may_write(house: House, attack: Attack) -> None:
    result = await house.attack(*attack)
    assert result["errno"] in (*REFUSED, "EXDEV")  # the last is how Landlock says so


@pytest.mark.parametrize("attack", TRAPPING, ids=name)
async def test_it_cannot_lay_a_trap_in_its_own_place(house: House, attack: Attack) -> None:
    assert (await house.attack(*attack))["errno"] in REFUSED


@pytest.mark.parametrize("attack", CALLING, ids=name)
async def test_it_cannot_call_anybody(house: House, attack: Attack) -> None:
    assert (await house.attack(*attack))["errno"] in REFUSED


async def test_it_cannot_call_another_runs_shim(house: House) -> None:
    """It would be obeyed: it has the same user."""
    await house.launcher.launch("run-3")
    result = await house.attack("connect", "SOCK_STREAM", "../run-3/control.sock")
    assert result["errno"] in REFUSED
    assert house.launcher._shims["run-3"].pid
    await house.launcher.undo("run-3")


@pytest.mark.parametrize("network", ["loopback", "online"])
@pytest.mark.parametrize(
    "attack",
    [
        ("connect", "SOCK_STREAM", "../../ftd.sock"),
        ("connect", "SOCK_STREAM", "control.sock"),
        ("pair", "SOCK_DGRAM"),
    ],
    ids=name,
)
async def test_who_has_a_network_calls_no_unix_socket(
    house: House, attack: Attack, network: str
) -> None:
    read = (ATTACKER.parent,)
    house.launcher = LocalLauncher(house.home, programs=PROGRAMS, sandbox=Calling(read=read))
    Calling.network = network
    assert (await house.attack(*attack))["errno"] in REFUSED
    await house.launcher.close()


@pytest.mark.parametrize("through", HOWS)
@pytest.mark.parametrize("attack", REACHING, ids=name)
async def test_it_cannot_reach_another_process(house: House, attack: Attack, through: str) -> None:
    assert (await house.attack(*attack, through=through))["errno"] in REFUSED


@pytest.mark.parametrize("attack", SLOWING, ids=name)
async def test_it_cannot_slow_another_process_down(house: House, attack: Attack) -> None:
    assert (await house.attack(*attack))["errno"] in REFUSED


@pytest.mark.parametrize("attack", LOOKING, ids=name)
async def test_it_cannot_look_into_another_process(house: House, attack: Attack) -> None:
    assert (await house.attack(*attack))["errno"] in REFUSED


@pytest.mark.parametrize("attack", ASKING, ids=name)
async def test_it_cannot_ask_the_kernel_for(house: House, attack: Attack) -> None:
    assert (await house.attack(*attack))["errno"] == "EPERM"


@pytest.mark.parametrize("call", ["clone3", "openat2"])
async def test_it_has_no_call_whose_flags_cannot_be_seen(house: House, call: str) -> None:
    assert (await house.attack("call", call, 0, 0))["errno"] == "ENOSYS"


async def test_it_has_no_file_kill_for_it(house: House) -> None:
    """Nobody is told: the signal does not come."""
    assert "did" in await house.attack("signal by file", "{victim}")


async def test_it_cannot_free_the_locks_that_its_shim_holds(house: House) -> None:
    """They are the same: who takes a card must know that nobody else is on it."""
    assert (await house.attack("unlock"))["did"] == "False"


async def test_it_has_nothing_open_that_is_not_its_own(house: House) -> None:
    found = json.loads(ast.literal_eval((await house.attack("descriptors"))["did"]))
    kinds = [path.partition(":")[0] for path in found if not path.startswith("/proc/")]
    assert [kind for kind in kinds if not kind.startswith("/")] == ["pipe", "pipe", "pipe"]
    files = {Path(path) for path in found if path.startswith("/tmp")}
    assert {file.parent for file in files} == {house.home / "locks"}


@pytest.mark.parametrize("through", HOWS)
async def test_whatever_it_starts_is_bound_as_it_is(house: House, through: str) -> None:
    result = await house.attack("read", "{home}/admin.key", through=through)
    assert result["errno"] in REFUSED


async def test_it_has_no_privileges_and_gains_none(house: House) -> None:
    status = (await house.attack("privileges", through="program"))["did"]
    for words in (r"NoNewPrivs:\t1", r"CapEff:\t0000000000000000", r"CapPrm:\t0000000000000000"):
        assert words in status


async def test_it_leaves_no_core_and_opens_no_end_of_files(house: House) -> None:
    core, files = ast.literal_eval((await house.attack("limits"))["did"])
    assert core == (0, 0)
    assert files[0] == files[1] <= 4096


async def test_what_it_needs_it_may(house: House) -> None:
    for attack, *arguments in (
        ("read", "{run}/in/training.jsonl"),
        ("write", "{run}/out/mine"),
        ("mkdir", "{run}/out/mine"),
        ("write", "/dev/null"),
        ("execute", sys.executable, "-c", "import json, socket; socket.socketpair()"),
        ("pair", "SOCK_STREAM"),
    ):
        assert "did" in await house.attack(attack, *arguments), attack
        await _forget(house)


@pytest.mark.parametrize("attack", ATTACKS, ids=name)
async def test_unconfined_the_same_attack_gets_through(besieged: House, attack: Attack) -> None:
    """Or these tests would prove nothing: here nothing but the sandbox has refused it."""
    refused = (await besieged.attack(*attack)).get("errno") in (*REFUSED, "EXDEV")
    if refused and os.geteuid() != 0:
        pytest.skip("the kernel itself refuses it to anybody but root")
    assert not refused


async def test_unconfined_a_file_kills(besieged: House) -> None:
    await besieged.attack("signal by file", "{victim}")
    assert besieged.victim.wait(10) == -signal.SIGKILL


async def test_unconfined_the_locks_are_freed(besieged: House) -> None:
    """And so a worker that runs may be taken for one that has ended: there is no record yet."""
    await besieged.strike("unlock")

    async def written() -> bool:
        return (besieged.run / "out" / "result.json").exists()

    await until(written)
    assert besieged.result()["did"] == "True"


async def _forget(house: House) -> None:
    """A run with the same name can be made again."""
    house.run.rename(house.run.with_name(f"done-{time.monotonic_ns()}"))
    with suppress(KeyError):
        house.launcher._shims.pop("run-1")
