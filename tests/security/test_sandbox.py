"""What a worker of ill will tries, one attack a test: it is refused, and nothing is touched."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ftd.core.job import Exit
from ftd.launch.base import Assignment, Role
from ftd.launch.local import LocalLauncher
from ftd.launch.sandbox import Sandbox
from ftd.launch.shim import sandbox as kernel
from tests.launch.conformance import CPU, ended, run
from tests.launch.conftest import end

ATTACKER = Path(__file__).with_name("attacker.py")
PROGRAMS = {Role.TRAIN: (sys.executable, "-I", "-S", str(ATTACKER))}
REFUSED = ("EACCES", "EPERM")
HOWS = ("itself", "thread", "child", "program")

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
        """What came of it. {run}, {home} and so on in arguments stand for the places."""
        spec = {"attack": name, "arguments": [*map(self._named, arguments)], "through": through}
        data = self.home / "files" / "training.jsonl"
        assignment = Assignment(
            job="ftjob-1", attempt=1, spec=json.dumps(spec).encode(),
            inputs={"training.jsonl": data}, devices=(CPU,),
        )  # fmt: skip
        await run(self.launcher, "run-1", assignment)
        assert await ended(self.launcher, "run-1") == Exit(code=0), self._log()
        result: dict[str, Any] = json.loads((self.run / "out" / "result.json").read_text())
        return result

    def _named(self, argument: Any) -> Any:
        if argument == "{victim}":
            return self.victim.pid
        if isinstance(argument, str):
            return argument.format(
                home=self.home, run=self.run, other=self.other, outside=self.outside
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


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the same user, outside."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as victim:
        yield victim
        victim.kill()


@pytest.fixture
async def house(tmp_path: Path, victim: subprocess.Popen[bytes]) -> AsyncIterator[House]:
    home, outside = tmp_path / "home", tmp_path / "outside"
    for path in (home / "files", home / "runs" / "run-2" / "in", outside):
        path.mkdir(parents=True)
    (home / "admin.key").write_text("ftd_canary")
    (home / "ftd.db").write_bytes(b"SQLite canary")
    (home / "files" / "training.jsonl").write_text("{}\n")
    (home / "files" / "others.jsonl").write_text("canary\n")
    (home / "runs" / "run-2" / "in" / "training.jsonl").write_text("canary\n")
    (home / "runs" / "run-2" / "spool").write_text("canary\n")
    (outside / "secret").write_text("canary")
    launcher = LocalLauncher(home, programs=PROGRAMS, sandbox=Sandbox(read=(ATTACKER.parent,)))
    house = House(home, launcher, victim, outside)
    before = house.canaries()
    try:
        yield house
        after = house.canaries()
        assert {name: after.get(name) for name in before} == before, "a canary was touched"
        assert not [name for name in after if name.endswith("planted")]
        assert victim.poll() is None, "the process outside has ended"
    finally:
        await launcher.close()
        end(home)


@pytest.mark.parametrize(
    "path",
    [
        "{home}/admin.key",
        "{home}/ftd.db",
        "{home}/files/others.jsonl",
        "{home}/files/training.jsonl",  # its own input, by the name that all share
        "{other}/in/training.jsonl",
        "{other}/spool",
        "{run}/spool",
        "{outside}/secret",
        "/etc/shadow",
        "/root/.bashrc",
    ],
)
async def test_it_cannot_read(house: House, path: str) -> None:
    result = await house.attack("read", path)
    assert result["errno"] in (*REFUSED, "ENOENT")
    if not path.startswith("/"):
        assert result["errno"] in REFUSED


@pytest.mark.parametrize(
    "path", ["{home}", "{home}/runs", "{home}/files", "{other}", "/root", "/tmp"]
)
async def test_it_cannot_list(house: House, path: str) -> None:
    assert (await house.attack("list", path))["errno"] in REFUSED


@pytest.mark.parametrize(
    ("attack", "path"),
    [
        ("write", "{home}/admin.key"),
        ("truncate", "{home}/ftd.db"),
        ("unlink", "{home}/ftd.db"),
        ("write", "{home}/planted"),
        ("write", "{other}/in/training.jsonl"),
        ("write", "{other}/planted"),
        ("write", "{run}/in/training.jsonl"),
        ("truncate", "{run}/in/training.jsonl"),
        ("append", "{run}/in/training.jsonl"),
        ("unlink", "{run}/in/training.jsonl"),
        ("write", "{run}/in/planted"),
        ("mkdir", "{run}/in/planted"),
        ("write", "{run}/exit.json"),
        ("append", "{run}/spool"),
        ("append", "{run}/assigned.json"),
        ("unlink", "{run}/control.sock"),
        ("write", "{outside}/planted"),
        ("write", "/tmp/ftd-planted"),
        ("write", "/dev/shm/ftd-planted"),
        ("write", f"{sys.prefix}/planted.pth"),
        ("write", "/proc/self/oom_score_adj"),
    ],
)
async def test_it_cannot_change(house: House, attack: str, path: str) -> None:
    assert (await house.attack(attack, path))["errno"] in REFUSED


@pytest.mark.parametrize("attack", ["chmod", "fchmod", "chown", "setxattr"])
@pytest.mark.parametrize("path", ["{home}/admin.key", "{run}/in/training.jsonl"])
async def test_it_cannot_open_a_file_to_others(house: House, attack: str, path: str) -> None:
    """What it may read is the same file as in the home, under another name."""
    assert (await house.attack(attack, path))["errno"] in REFUSED


@pytest.mark.parametrize(
    ("attack", "source"),
    [("link", "{run}/in/training.jsonl"), ("rename", "{run}/in/training.jsonl"),
     ("link", "{home}/admin.key"), ("rename", "{home}/admin.key"),
     ("link", "{other}/in/training.jsonl")],
)  # fmt: skip
async def test_it_cannot_bring_a_file_where_it_may_write(
    house: House, attack: str, source: str
) -> None:
    result = await house.attack(attack, source, "{run}/out/mine")
    assert result["errno"] in (*REFUSED, "EXDEV")  # the last is how Landlock says so


@pytest.mark.parametrize(
    ("attack", "arguments"),
    [("symlink", ("/etc/passwd", "{run}/out/link")), ("mkfifo", ("{run}/out/pipe",))],
)
async def test_it_cannot_lay_a_trap_in_its_own_place(
    house: House, attack: str, arguments: tuple[str, ...]
) -> None:
    assert (await house.attack(attack, *arguments))["errno"] in REFUSED


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("AF_INET", "SOCK_STREAM"),
        ("AF_INET6", "SOCK_STREAM"),
        ("AF_INET", "SOCK_DGRAM"),
        ("AF_INET6", "SOCK_DGRAM"),
        ("AF_INET", "SOCK_RAW"),
        ("AF_NETLINK", "SOCK_RAW"),
        ("AF_PACKET", "SOCK_RAW"),
        ("AF_VSOCK", "SOCK_STREAM"),
        ("AF_ALG", "SOCK_SEQPACKET"),
        ("AF_UNIX", "SOCK_DGRAM"),
    ],
)
async def test_it_cannot_make_a_socket(house: House, family: str, kind: str) -> None:
    assert (await house.attack("socket", family, kind))["errno"] in REFUSED


async def test_it_cannot_make_a_pair_that_sends_elsewhere(house: House) -> None:
    assert (await house.attack("pair", "SOCK_DGRAM"))["errno"] in REFUSED


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[str]:
    name = f"@ftd-canary-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + name[1:])
        listener.listen()
        listener.setblocking(False)
        yield name
        with pytest.raises(BlockingIOError):
            listener.accept()


async def test_it_cannot_call_an_abstract_socket(house: House, listening: str) -> None:
    assert (await house.attack("connect", "SOCK_STREAM", listening))["errno"] in REFUSED


async def test_it_cannot_call_another_runs_shim(house: House) -> None:
    """It would be obeyed: it has the same user."""
    await house.launcher.launch("run-3")
    result = await house.attack("connect", "SOCK_STREAM", "../run-3/control.sock")
    assert result["errno"] in REFUSED
    assert house.launcher._shims["run-3"].pid
    await house.launcher.undo("run-3")


async def test_it_cannot_call_its_own_shim(house: House) -> None:
    assert (await house.attack("connect", "SOCK_STREAM", "control.sock"))["errno"] in REFUSED


@pytest.mark.parametrize("through", HOWS)
@pytest.mark.parametrize("attack", ["kill", "pidfd", "attach", "peek", "steal", "starve"])
async def test_it_cannot_reach_another_process(house: House, attack: str, through: str) -> None:
    result = await house.attack(attack, "{victim}", through=through)
    assert result["errno"] in REFUSED


@pytest.mark.parametrize("file", ["environ", "mem", "maps", "fd/0", "auxv"])
async def test_it_cannot_look_into_another_process(house: House, file: str) -> None:
    result = await house.attack("read", f"/proc/{house.victim.pid}/{file}")
    assert result["errno"] in REFUSED


@pytest.mark.parametrize(
    "arguments",
    [
        ("bpf", 0, 0, 0),
        ("perf_event_open", 0, 0, -1, -1, 0),
        ("userfaultfd", 0),
        ("io_uring_setup", 1, 0),
        ("keyctl", 0, 0),
        ("add_key", "user", "canary", "x", 1, -1),
        ("mount", "none", "/proc", "tmpfs", 0, 0),
        ("unshare", 0x10000000),  # CLONE_NEWUSER
        ("setns", 0, 0),
        ("clone", 0x10000000 | 17, 0, 0, 0, 0),
        ("open_by_handle_at", -100, 0, 0),
        ("chroot", "/"),
        ("kcmp", 1, 1, 0, 0, 0),
    ],
    ids=lambda arguments: arguments[0],
)
async def test_it_cannot_ask_the_kernel_for(house: House, arguments: tuple[Any, ...]) -> None:
    assert (await house.attack("call", *arguments))["errno"] == "EPERM"


async def test_it_has_no_clone_with_flags_that_cannot_be_seen(house: House) -> None:
    assert (await house.attack("call", "clone3", 0, 0))["errno"] == "ENOSYS"


@pytest.mark.parametrize("through", HOWS)
async def test_whatever_it_starts_is_bound_as_it_is(house: House, through: str) -> None:
    result = await house.attack("read", "{home}/admin.key", through=through)
    assert result["errno"] in REFUSED


async def test_it_has_no_privileges_and_gains_none(house: House) -> None:
    status = (await house.attack("privileges", through="program"))["did"]
    for words in (r"NoNewPrivs:\t1", r"CapEff:\t0000000000000000", r"CapPrm:\t0000000000000000"):
        assert words in status


async def test_it_leaves_no_core_and_opens_no_end_of_files(house: House) -> None:
    core, files = eval((await house.attack("limits"))["did"])
    assert core == (0, 0)
    assert files[0] == files[1] <= 4096


async def test_it_runs_no_program_of_its_own_making(house: House) -> None:
    """In its own place it writes; what runs there is what it could do itself."""
    assert (await house.attack("execute", "{run}/in/training.jsonl"))["errno"] in REFUSED


async def test_what_it_needs_it_may(house: House) -> None:
    for name, arguments in (
        ("read", ("{run}/in/training.jsonl",)),
        ("write", ("{run}/out/mine",)),
        ("mkdir", ("{run}/out/mine",)),
        ("write", ("/dev/null",)),
        ("execute", (sys.executable, "-c", "import json, socket; socket.socketpair()")),
        ("pair", ("SOCK_STREAM",)),
    ):
        assert "did" in await house.attack(name, *arguments), name
        await _forget(house)


async def _forget(house: House) -> None:
    """A run with the same name can be made again."""
    house.run.rename(house.run.with_name(f"done-{time.monotonic_ns()}"))
    with suppress(KeyError):
        house.launcher._shims.pop("run-1")
