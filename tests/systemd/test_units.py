"""What an operator installs holds: the units verify, and the example configuration is exact."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from ftd import config
from ftd.config import ModelOverrides, Settings
from ftd.demo import ALIASES, STARTER

FOLDER = Path(__file__).parents[2] / "systemd"
EXAMPLE = FOLDER / "ftd.toml"
# A key that is shown but not set: its default depends on the machine, or there is none.
SHOWN = re.compile(r"^#(?=[\[a-z])", re.MULTILINE)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in os.environ:
        if variable.startswith("FTD_") or variable == "STATE_DIRECTORY":
            monkeypatch.delenv(variable)


def test_every_key_that_is_set_has_its_default() -> None:
    example = config.load(EXAMPLE)
    assert example.model_copy(update={"aliases": {}}) == config.load()
    written = dict(_leaves(tomllib.loads(EXAMPLE.read_text())))
    fixed = {
        path: field.get_default()
        for path, field in _fields(Settings)
        if field.default_factory is None and field.get_default() is not None
    }
    del fixed["aliases"], fixed["models"]
    assert {key: _plain(value) for key, value in fixed.items()} == {
        key: value for key, value in written.items() if not key.startswith("aliases.")
    }


def test_every_key_is_there_at_least_as_a_comment(tmp_path: Path) -> None:
    everything = tmp_path / "everything.toml"
    everything.write_text(SHOWN.sub("", EXAMPLE.read_text()))
    settings = config.load(everything)
    written = tomllib.loads(everything.read_text())
    keys = {key for key, _ in _leaves(written)}
    assert {path for path, _ in _fields(Settings)} - {"aliases", "models"} <= keys
    assert set(written["models"][STARTER]) == set(ModelOverrides.model_fields)
    assert settings.training_of(STARTER).lora == settings.models[STARTER].lora


def test_every_key_is_explained() -> None:
    lines = EXAMPLE.read_text().splitlines()
    for before, line in pairwise(lines):
        if re.match(r"#?[a-z_]+ = ", line):
            assert before.startswith("# "), f"{line!r} has no comment"


def test_old_names_stand_for_the_starter() -> None:
    assert config.load(EXAMPLE).aliases == dict.fromkeys(ALIASES, STARTER)


def test_the_scrape_finds_the_default_address() -> None:
    (scrape,) = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    assert scrape["metrics_path"] == "/metrics"
    assert scrape["static_configs"] == [{"targets": [config.load().rest]}]


@pytest.mark.parametrize("alone", [False, True], ids=["as it is", "with ftd-local.conf"])
def test_the_service_verifies(alone: bool, tmp_path: Path) -> None:
    analyze = _tool("systemd-analyze")
    unit = (FOLDER / "ftd.service").read_text()
    command = "/opt/ftd/.venv/bin/ftd"
    assert f"ExecStart={command} serve --config /etc/ftd/ftd.toml\n" in unit
    here = tmp_path / "ftd.service"
    # verify wants a command that is there
    here.write_text(unit.replace(command, sys.executable) + (_local() if alone else ""))
    done = subprocess.run([analyze, "verify", here], capture_output=True, text=True, timeout=60)
    said = (done.stdout + done.stderr).splitlines()  # of the host's other units too
    assert [line for line in said if "ftd.service" in line] == []
    assert done.returncode == 0


def test_a_newer_systemd_gives_the_daemon_a_group_of_its_own(tmp_path: Path) -> None:
    """An older one says that it does not know the name, and goes on."""
    assert _directives((FOLDER / "ftd-groups.conf").read_text()) == {"DelegateSubgroup": "daemon"}
    analyze = _tool("systemd-analyze")
    unit = (FOLDER / "ftd.service").read_text().replace("/opt/ftd/.venv/bin/ftd", sys.executable)
    here = tmp_path / "ftd.service"
    here.write_text(f"{unit}\n{(FOLDER / 'ftd-groups.conf').read_text()}")
    done = subprocess.run([analyze, "verify", here], capture_output=True, text=True, timeout=60)
    said = [line for line in (done.stdout + done.stderr).splitlines() if "ftd.service" in line]
    assert all("'DelegateSubgroup'" in line for line in said), said
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("alone", "tenths"), [(False, 20), (True, 19)], ids=["as it is", "with ftd-local.conf"]
)
def test_the_service_exposes_little(alone: bool, tenths: int, tmp_path: Path) -> None:
    here = tmp_path / "ftd.service"
    here.write_text((FOLDER / "ftd.service").read_text() + (_local() if alone else ""))
    command = [_tool("systemd-analyze"), "security", "--offline=true", "--no-pager"]
    done = subprocess.run(
        [*command, f"--threshold={tenths}", here], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr


def test_the_filter_refuses_no_call_that_a_worker_makes() -> None:
    lines = (FOLDER / "ftd.service").read_text().splitlines()
    filters = [line for line in lines if line.startswith("SystemCallFilter=")]
    assert all(line.startswith("SystemCallFilter=~@") for line in filters), "lists of refusals"
    sets = [name for line in filters for name in line.removeprefix("SystemCallFilter=~").split()]
    refused = _calls(sets)
    assert {"mount", "ptrace", "bpf", "setuid", "clock_settime"} <= refused
    needed = {
        "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "seccomp",
        "prctl", "prlimit64", "fork", "vfork", "clone", "clone3", "execve", "kill", "flock",
        "renameat2", "linkat", "copy_file_range", "ioctl", "mmap", "mprotect", "mlock",
        "sched_getaffinity", "get_mempolicy", "memfd_create", "fallocate", "chmod", "fchmod",
    }  # fmt: skip
    assert not needed & refused


def test_the_service_leaves_jobs_and_gpus_alone() -> None:
    directives = _directives((FOLDER / "ftd.service").read_text())
    assert directives["Type"] == "notify"
    assert directives["KillMode"] == "process"
    assert directives["OOMPolicy"] == "continue"
    assert int(directives["OOMScoreAdjust"]) < 0
    assert directives["RuntimeDirectoryPreserve"] == "yes"
    assert directives["RemoveIPC"] == "no"
    assert directives["Delegate"] == "yes"
    assert directives["LimitCORE"] == "0"
    assert float(directives["WatchdogSec"]) >= 10, "the loop that feeds it turns once a second"
    assert "PrivateUsers" not in directives, "/proc would hide trainers of the start before"
    assert float(directives["TimeoutStopSec"]) > 5
    hides_gpus = {
        "PrivateDevices",
        "DevicePolicy",
        "DeviceAllow",
        "ProtectClock",
        "MemoryDenyWriteExecute",
        "ProcSubset",
    }
    assert not hides_gpus & directives.keys()


def test_the_user_and_the_lock_directory_are_made(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives a directory to a user")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    for tool, *arguments in (
        ("systemd-sysusers", FOLDER / "ftd.sysusers.conf"),
        ("systemd-tmpfiles", "--create", FOLDER / "ftd.tmpfiles.conf"),
    ):
        subprocess.run([_tool(tool), f"--root={root}", *arguments], check=True, timeout=60)
    name, _, _, gid, _, home, shell = (root / "etc/passwd").read_text().strip().split(":")
    assert (name, home, shell) == ("ftd", "/var/lib/ftd", "/usr/sbin/nologin")
    made = (root / "run/lock/ftd").stat()
    assert (made.st_uid, made.st_gid, made.st_mode & 0o7777) == (0, int(gid), 0o2770)


def _local() -> str:
    """The drop-in as more lines of the unit: a section may be opened twice."""
    return "\n" + (FOLDER / "ftd-local.conf").read_text()


def _calls(sets: list[str]) -> set[str]:
    """The system calls of these sets, and of the sets in them."""
    listed = [_tool("systemd-analyze"), "--no-pager", "syscall-filter", *sets]
    done = subprocess.run(listed, check=True, capture_output=True, text=True, timeout=60)
    words = {line.strip() for line in done.stdout.splitlines() if line.startswith("    ")}
    inner = sorted(word for word in words if word.startswith("@") and word not in sets)
    calls = {word for word in words if not word.startswith(("#", "@"))}
    return calls | (_calls(inner) if inner else set())


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def _directives(unit: str) -> dict[str, str]:
    lines = (line for line in unit.splitlines() if "=" in line and not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting by its dotted key; a section is its settings."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _fields(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def _leaves(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return list(value) if isinstance(value, tuple) else value
