"""The rules of files, with every version of Landlock that this kernel can stand for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ftd.launch.shim import landlock, seccomp

VERSIONS = range(1, 8)
# A process that confines itself as an older kernel would, and tells what it may.
CONFINED = """
import json, os, sys
sys.path.append(sys.argv[1])
from shim import landlock, seccomp
version, place = int(sys.argv[2]), sys.argv[3]
grants = {"run": ["/usr", "/lib", "/lib64", sys.base_prefix], "list": [place],
          "read": [f"{place}/in", f"{place}/no"], "write": [f"{place}/out"]}
landlock.restrict(grants, version, net=False)
if sys.argv[4:]:
    seccomp.install("none")
def may(deed):
    try:
        deed()
    except OSError as error:
        return error.errno
    return 0
print(json.dumps({
    "read in": may(lambda: open(f"{place}/in/file").read()),
    "write in": may(lambda: open(f"{place}/in/file", "a")),
    "cut in": may(lambda: os.truncate(f"{place}/in/file", 0)),
    "open to cut in": may(lambda: os.open(f"{place}/in/file", os.O_RDONLY | os.O_TRUNC)),
    "write out": may(lambda: open(f"{place}/out/file", "w").write("x")),
    "rename out": may(lambda: os.rename(f"{place}/out/file", f"{place}/out/renamed")),
    "read key": may(lambda: open(f"{place}/key").read()),
    "list": may(lambda: os.listdir(place)),
    "signal": may(lambda: os.kill(os.getppid(), 0)),
}))
"""


def confined(version: int, place: Path, *more: str) -> dict[str, int]:
    (place / "in").mkdir()
    (place / "out").mkdir()
    (place / "in" / "file").write_text("canary")
    (place / "key").write_text("canary")
    shims = str(Path(landlock.__file__).parents[1])
    # No new privileges, as the kernel wants of who has none.
    code = f"import ctypes; ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)\n{CONFINED}"
    told = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, shims, str(version), str(place), *more],
        check=True, capture_output=True,
    )  # fmt: skip
    answer: dict[str, int] = json.loads(told.stdout)
    return answer


@pytest.mark.parametrize("version", VERSIONS)
def test_an_older_kernel_keeps_what_it_can(version: int, tmp_path: Path) -> None:
    if landlock.abi() < version:
        pytest.skip(f"Landlock {landlock.abi()} is older")
    may = confined(version, tmp_path)
    assert (may["read in"], may["write out"], may["rename out"], may["list"]) == (0, 0, 0, 0)
    assert (may["write in"], may["read key"]) == (13, 13)
    assert may["cut in"] == may["open to cut in"] == (0 if version < 3 else 13)
    assert may["signal"] == (0 if version < 6 else 1)


@pytest.mark.skipif(not seccomp.available(), reason="no seccomp")
@pytest.mark.parametrize("version", [1, 2])
def test_what_an_older_kernel_would_let_be_cut_the_filter_of_calls_keeps(
    version: int, tmp_path: Path
) -> None:
    may = confined(version, tmp_path, "filtered")
    assert (may["cut in"], may["open to cut in"]) == (1, 13)
    assert (may["read in"], may["write out"]) == (0, 0)
    assert (tmp_path / "in" / "file").read_text() == "canary"


def test_what_is_missing_is_said() -> None:
    assert landlock.lacks(0) == ["no Landlock (Linux 5.13): files are not guarded"]
    assert len(landlock.lacks(2)) == 2
    assert len(landlock.lacks(5)) == 1
    assert landlock.lacks(6) == landlock.lacks(99) == []


def test_a_version_knows_only_its_rights() -> None:
    assert landlock.handled(1) == 2**13 - 1
    assert landlock.handled(2) == 2**14 - 1
    assert landlock.handled(3) == landlock.handled(4) == 2**15 - 1
    assert landlock.handled(5) == landlock.handled(99) == 2**16 - 1
