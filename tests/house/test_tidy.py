"""The rooms stay small, named and dated: what STYLE calls small and flat."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for package in ("ftd", "ftctl", "bench")
    for path in (ROOT / package).rglob("*.py")
    if "ftd/v1" not in path.as_posix()
)
MAX_FILE = 400
MAX_FUNCTION = 70
NOWHERE = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_file_is_small_opens_with_a_sentence_and_is_plain_ascii(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MAX_FILE
    tree = ast.parse(text)
    docstring = ast.get_docstring(tree)
    assert docstring
    assert docstring.splitlines()[0].strip()
    assert text.isascii()
    assert path.stem not in NOWHERE


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_function_fits_on_a_page(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < MAX_FUNCTION, f"{name(path)}: {node.name}"


def test_nothing_in_the_house_is_unused() -> None:
    """Every module is imported, run, or named by somebody."""
    text = {path: path.read_text() for path in SOURCES}
    entries = {"__init__", "__main__", "hatch_build"}
    everything = "\n".join(text.values()) + (ROOT / "pyproject.toml").read_text()
    for path in SOURCES:
        if path.stem in entries or path.parts[-2] == "bench":
            continue
        module = name(path).removesuffix(".py").replace("/", ".")
        package, _, stem = module.rpartition(".")
        named = (
            module in everything
            or (f"from {package} import" in everything and stem in everything)
            or path.name in everything
        )
        assert named, f"{module} is imported by nobody"


def test_no_placeholder_is_left() -> None:
    left = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
    for path in SOURCES:
        assert not left.search(path.read_text()), name(path)
