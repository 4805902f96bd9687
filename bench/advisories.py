"""Holds what `make install` takes against published advisories, without asking anybody.

    python -m bench.advisories all.zip            # OSV's export of the ecosystem PyPI
    python -m bench.advisories DIRECTORY|FILE ... # advisories as JSON or YAML, such as PyPA's

The format is OSV's (ossf.github.io/osv-schema): which versions are affected is said by ranges and
by lists, and a version is affected that either names. Exits 1 when a pinned one is, 2 when nothing
was read. What is not covered: packages that are not pinned, and bugs that nobody has published.
"""

import argparse
import json
import sys
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
ECOSYSTEM = "PyPI"
_PARSERS = {".json": json.loads, ".yaml": yaml.safe_load}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A pinned version that an advisory is about."""

    package: str
    version: str
    advisory: str
    summary: str


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.advisories")
    parser.add_argument("advisories", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--constraints", type=Path, default=CONSTRAINTS)
    options = parser.parse_args(arguments)
    pinned = pins(options.constraints.read_text())
    known = list(read(options.advisories))
    if not known:
        print("no advisory was read", file=sys.stderr)
        return 2
    found = list(findings(pinned, known))
    for finding in found:
        print(f"{finding.package} {finding.version}  {finding.advisory}  {finding.summary}")
    print(f"{len(pinned)} packages, {len(known)} advisories, {len(found)} findings")
    return 1 if found else 0


def pins(constraints: str) -> dict[str, str]:
    """The exact versions of a constraints file, by canonical name."""
    lines = (line.partition("#")[0].strip() for line in constraints.splitlines())
    pairs = (line.split("==", 1) for line in lines if "==" in line)
    return {canonicalize_name(name.strip()): version.strip() for name, version in pairs}


def read(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Every advisory of files, folders and archives; a file may hold a list of them."""
    for path in paths:
        if path.is_dir():
            yield from read(sorted(one for one in path.rglob("*") if one.suffix in _PARSERS))
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    yield from _advisories(Path(name).suffix, archive.read(name))
        else:
            yield from _advisories(path.suffix, path.read_bytes())


def findings(pinned: dict[str, str], known: Iterable[dict[str, Any]]) -> Iterator[Finding]:
    """What advisories say of the pinned versions; withdrawn ones say nothing."""
    for advisory in known:
        if advisory.get("withdrawn"):
            continue
        for affected in advisory.get("affected", ()):
            package = affected.get("package", {})
            name = canonicalize_name(package.get("name", ""))
            version = pinned.get(name)
            if package.get("ecosystem") != ECOSYSTEM or version is None:
                continue
            if is_affected(version, affected):
                yield Finding(
                    package=name,
                    version=version,
                    advisory=", ".join([advisory["id"], *advisory.get("aliases", ())]),
                    summary=advisory.get("summary", ""),
                )


def is_affected(version: str, affected: dict[str, Any]) -> bool:
    """Whether one of the lists or ranges holds the version; those of commits say nothing of it."""
    if version in affected.get("versions", ()):
        return True
    ranges = [one for one in affected.get("ranges", ()) if one["type"] != "GIT"]
    return any(_within(Version(version), one["events"]) for one in ranges)


def _within(version: Version, events: list[dict[str, str]]) -> bool:
    """OSV's own rule: in the order of versions, who comes last before ours decides."""
    inside = False
    for kind, at in sorted(
        ((kind, at) for event in events for kind, at in event.items()), key=lambda one: _key(one[1])
    ):
        if kind == "introduced" and version >= _key(at):
            inside = True
        elif (kind == "fixed" and version >= _key(at)) or (
            kind == "last_affected" and version > _key(at)
        ):
            inside = False
    return inside


def _key(at: str) -> Version:
    """A version in an event; "0" is before all, and what is none of ours is taken as that."""
    try:
        return Version("0.dev0") if at == "0" else Version(at)
    except InvalidVersion:
        return Version("0.dev0")


def _advisories(suffix: str, data: bytes) -> list[dict[str, Any]]:
    if suffix not in _PARSERS:  # a licence, say
        return []
    value = _PARSERS[suffix](data)
    return value if isinstance(value, list) else [value]


if __name__ == "__main__":
    sys.exit(main())
