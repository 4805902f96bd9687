"""What we are built on is pinned, and no version is allowed of which the worst is known.

`advisories.json` holds what must never come back, in OSV's format: those of our neighbours' holes
that we would have had. `make advisories FILE=...` holds the pins against everything published.
"""

import json
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from bench.advisories import findings, is_affected, main, pins, read

ROOT = Path(__file__).resolve().parents[2]
KNOWN = Path(__file__).with_name("advisories.json")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUNTIME = [Requirement(line) for line in PROJECT["dependencies"]]


def pinned() -> dict[str, str]:
    return pins((ROOT / "constraints.txt").read_text())


def floor(requirement: Requirement) -> str:
    """The oldest version that a requirement allows."""
    (least,) = [one.version for one in requirement.specifier if one.operator in (">=", "==")]
    return least


def test_everything_that_is_named_is_pinned() -> None:
    development = [Requirement(line) for line in PROJECT["optional-dependencies"]["dev"]]
    found = pinned()
    for requirement in [*RUNTIME, *development]:
        version = found[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), requirement


def test_no_pin_is_known_to_be_bad() -> None:
    assert list(findings(pinned(), read([KNOWN]))) == []


def test_no_floor_lets_a_version_in_that_is_known_to_be_bad() -> None:
    floors = {canonicalize_name(one.name): floor(one) for one in RUNTIME}
    about = {row["affected"][0]["package"]["name"] for row in read([KNOWN])}
    assert about <= floors.keys()
    assert list(findings(floors, read([KNOWN]))) == []


def advisory(*events: dict[str, str], **more: Any) -> dict[str, Any]:
    affected = {
        "package": {"ecosystem": "PyPI", "name": "Some_Package"},
        "ranges": [{"type": "ECOSYSTEM", "events": list(events)}],
    }
    return {"id": "X-1", "affected": [affected | more]}


@pytest.mark.parametrize(
    ("version", "bad"),
    [("0.9", True), ("1.0rc1", True), ("1.0", False), ("1.9", False), ("2.0", True),
     ("2.4", True), ("2.4.post1", False), ("3.0", False)],
)  # fmt: skip
def test_a_range_is_read_as_its_format_says(version: str, bad: bool) -> None:
    told = advisory(
        {"introduced": "2.0"}, {"last_affected": "2.4"}, {"introduced": "0"}, {"fixed": "1.0"}
    )
    assert is_affected(version, told["affected"][0]) is bad


def test_a_list_of_versions_counts_too_and_commits_do_not() -> None:
    commits = {"type": "GIT", "repo": "r", "events": [{"introduced": "0"}]}
    told = advisory(ranges=[commits], versions=["1.1"])
    assert is_affected("1.1", told["affected"][0])
    assert not is_affected("1.2", told["affected"][0])


def test_the_program_names_what_it_finds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("# pinned\nsome-package==0.9  # why\nother==1\n")
    archive = tmp_path / "all.zip"
    withdrawn = advisory({"introduced": "0"}) | {"id": "X-2", "withdrawn": "2026-01-01T00:00:00Z"}
    with zipfile.ZipFile(archive, "w") as file:
        told = advisory({"introduced": "0"}, {"fixed": "1.0"}) | {"aliases": ["CVE-1"]}
        file.writestr("X-1.json", json.dumps(told))
        file.writestr("X-2.json", json.dumps(withdrawn))
    assert main([str(archive), "--constraints", str(constraints)]) == 1
    assert "some-package 0.9  X-1, CVE-1" in capsys.readouterr().out
    constraints.write_text("some-package==1.0\n")
    assert main([str(archive), "--constraints", str(constraints)]) == 0


def test_advisories_in_yaml_are_read_too(tmp_path: Path) -> None:
    folder = tmp_path / "vulns" / "some-package"
    folder.mkdir(parents=True)
    (folder / "X-1.yaml").write_text(yaml.safe_dump(advisory({"introduced": "0"})))
    (tmp_path / "README.md").write_text("no advisory")
    assert [one["id"] for one in read([tmp_path])] == ["X-1"]


def test_nothing_read_is_no_all_clear(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 2


def test_a_pin_is_a_version_and_nothing_else() -> None:
    for name, version in pinned().items():
        assert str(Version(version)), name
        assert "+" not in version, name
