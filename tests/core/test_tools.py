import pytest

from ftd.core.finding import Findings
from ftd.core.tools import read_tools

TOOL = {"type": "function", "function": {"name": "multiply", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": [TOOL] * 129}, "tools"),
        ({"tools": ["multiply"]}, "tools[0]"),
        ({"tools": [{"name": "multiply"}]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [TOOL, {"type": "function", "function": {}}]}, "tools[1].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        ({"functions": [{"name": 1}]}, "functions[0].name"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ],
)
def test_every_bad_tool_is_a_fault_with_its_path(more: dict[str, object], path: str) -> None:
    found = Findings()
    read_tools(more, found)
    assert [(one.code, one.path) for one in found.problems] == [("invalid_tools", path)]


def test_good_tools_are_taken_as_they_are() -> None:
    found = Findings()
    declared = {"tools": [TOOL], "functions": [TOOL["function"]], "parallel_tool_calls": True}
    assert read_tools(declared, found) == [TOOL, TOOL]
    assert read_tools({"tools": [], "functions": None}, found) is None
    assert found.problems == []
