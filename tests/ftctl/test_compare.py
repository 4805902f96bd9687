"""ftctl compare, as processes, and its graders as functions."""

import json
import re
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftctl.failure import Failure
from ftctl.grade import exact_match, text_similarity
from ftctl.prompts import read_prompts
from ftd.core import chat
from ftd.core.errors import invalid
from ftd.core.models import ModelKind
from ftd.service.chat import ChatRequest
from tests.api.grpc.fake_chat import question
from tests.ftctl.conftest import Daemon, ended
from tests.ftctl.terminal import typing

Until = Callable[[Callable[[], bool]], Awaitable[None]]

TUNED = "ft:smollm2::abcdefgh"
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "add", "arguments": '{"b":2,"a":1}'},
}
TOOL = {"type": "function", "function": {"name": "add"}}
SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "What is 1 plus 2?"}
LINES: list[dict[str, Any]] = [
    {"messages": [SYSTEM, USER, {"role": "assistant", "content": "3"}]},
    {"prompt": "2 + 2 =", "completion": "4"},
    {"messages": [USER], "tools": [TOOL]},
    {"prompt": "5 + 5 ="},
]  # fmt: skip


def written(path: Path, lines: list[dict[str, Any]]) -> str:
    path.write_text("\n" + "".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def says(request: ChatRequest) -> str:
    """The tuned model knows, the base repeats, and who judges likes numbers."""
    if request.constraint is not None:
        answer = question(request).split("Answer to grade:\n<<<\n")[1].split("\n>>>")[0]
        return json.dumps({"score": 9 if answer.isdigit() else 2})
    if request.model == TUNED:
        return {"What is 1 plus 2?": "3", "2 + 2 =": "4"}.get(question(request), "10")
    return f"It is {question(request)}"


@pytest.fixture
def models(daemon: Daemon) -> tuple[str, str]:
    daemon.door.models.put(TUNED, ModelKind.TUNED, job="ftjob-1")
    daemon.door.chat.says = says
    return "smollm2", TUNED


async def test_the_same_is_asked_of_both_and_shown_line_by_line(
    daemon: Daemon, models: tuple[str, str]
) -> None:
    path = written(daemon.root / "prompts.jsonl", LINES)
    ran = await daemon.run("compare", *models, path)
    assert ran.status == 0
    assert ran.err == "".join(f"asking {model} 4 prompts ...\n" for model in models)
    header, *rows = ran.out.splitlines()
    assert header.split() == ["LINE", "PROMPT", "REFERENCE", *models]
    cells = [re.split(r"\s{2,}", row.rstrip()) for row in rows]
    assert cells[0] == ["2", "What is 1 plus 2?", "3", "It is What is 1 plus 2?", "3"]
    assert cells[3] == ["5", "5 + 5 =", "It is 5 + 5 =", "10"]
    asked = daemon.door.chat.asked
    assert [one.model for one in asked] == ["smollm2"] * 4 + [TUNED] * 4
    assert all(one.sampling == chat.Sampling(max_tokens=256, temperature=0.0) for one in asked)
    texts = [one for one in asked if isinstance(one.prompt, chat.Text)]
    assert sorted(question(one) for one in texts) == ["2 + 2 ="] * 2 + ["5 + 5 ="] * 2
    chats = [one.prompt for one in asked if isinstance(one.prompt, chat.Conversation)]
    assert sorted((len(one.messages), one.tools == (TOOL,)) for one in chats) == [
        (1, True), (1, True), (2, False), (2, False),
    ]  # fmt: skip


async def test_a_grader_ends_with_means_and_wins(daemon: Daemon, models: tuple[str, str]) -> None:
    path = written(daemon.root / "prompts.jsonl", LINES)
    ran = await daemon.run("compare", *models, path, "--grader", "exact_match")
    assert ran.status == 0
    *_, header, base, tuned = ran.out.splitlines()
    assert header.split() == ["MODEL", "MEAN", "WINS"]
    assert base.split() == ["smollm2", "0.000", "0"]
    assert tuned.split() == [TUNED, "1.000", "2"]
    assert ran.err.endswith("2 of 4 prompts graded, 0 ties\n")
    ran = await daemon.run(
        "compare", *models, path, "--grader", "text_similarity", "-o", "json", "--limit", "1",
        "--max-tokens", "9", "--temperature", "0.5", "--seed", "3",
    )  # fmt: skip
    found = json.loads(ran.out)
    assert [one["score"] for one in found["data"][0]["answers"]] == [0.0, 1.0]
    assert len(found["data"]) == 1
    last = daemon.door.chat.asked[-1].sampling
    assert (last.max_tokens, last.temperature, last.seed) == (9, 0.5, 3)


async def test_a_model_judges_by_a_fixed_rubric(daemon: Daemon, models: tuple[str, str]) -> None:
    path = written(daemon.root / "prompts.jsonl", LINES)
    ran = await daemon.run("compare", *models, path, "--grader", "smollm2", "-o", "json")
    found = json.loads(ran.out)
    assert found["summary"] == {
        "graded": 4,
        "ties": 0,
        "models": [
            {"model": "smollm2", "mean": 2.0, "wins": 0},
            {"model": TUNED, "mean": 9.0, "wins": 4},
        ],
    }
    verdicts = [one for one in daemon.door.chat.asked if one.constraint is not None]
    assert len(verdicts) == 8
    assert {one.sampling.temperature for one in verdicts} == {0.0}
    schema = verdicts[0].constraint
    assert schema is not None
    assert schema.json_schema is not None
    assert schema.json_schema["properties"]["score"]["enum"] == list(range(1, 11))
    with_reference = [one for one in verdicts if "Reference answer" in question(one)]
    assert len(with_reference) == 4
    assert all(TUNED not in question(one) for one in verdicts)


async def test_a_judge_that_gives_no_score_is_not_believed(
    daemon: Daemon, models: tuple[str, str]
) -> None:
    path = written(daemon.root / "prompts.jsonl", LINES[:1])
    daemon.door.chat.says = lambda request: "11" if request.constraint else "3"
    ran = await daemon.run("compare", *models, path, "--grader", "smollm2", "-o", "yaml")
    assert ran.status == 1
    found = yaml.safe_load(ran.out)
    assert [one["score"] for one in found["data"][0]["answers"]] == [None, None]
    assert found["summary"]["models"][0]["mean"] is None
    assert "smollm2 gave no score but '11'" in ran.err


async def test_one_fault_does_not_hide_the_other_answers(
    daemon: Daemon, models: tuple[str, str]
) -> None:
    def refuse_one(request: ChatRequest) -> str:
        if request.model == TUNED and question(request) == "2 + 2 =":
            raise invalid("This model's maximum context length is 4 tokens.", param="prompt")
        return says(request)

    daemon.door.chat.says = refuse_one
    path = written(daemon.root / "prompts.jsonl", LINES)
    ran = await daemon.run("compare", *models, path, "--grader", "exact_match", "-o", "json")
    assert ran.status == 1
    assert "1 of 8 answers are missing or without a score; the first: This model's" in ran.err
    found = json.loads(ran.out)
    error = found["data"][1]["answers"][1]
    assert (error["text"], error["score"]) == (None, None)
    assert error["error"] == "This model's maximum context length is 4 tokens."
    assert found["summary"]["graded"] == 1


async def test_a_few_requests_run_at_a_time(daemon: Daemon, models: tuple[str, str]) -> None:
    path = written(daemon.root / "prompts.jsonl", LINES * 10)
    assert (await daemon.run("compare", *models, path)).status == 0
    assert 1 < daemon.door.chat.most_running <= 4
    daemon.door.chat.most_running = 0
    assert (await daemon.run("compare", *models, path, "--at-once", "1")).status == 0
    assert daemon.door.chat.most_running == 1


async def test_an_interrupt_leaves_nothing_running(
    daemon: Daemon, models: tuple[str, str], until: Until
) -> None:
    daemon.door.chat.stall_at = 0
    path = written(daemon.root / "prompts.jsonl", LINES * 10)
    process = await daemon.begin("compare", *models, path)
    await until(lambda: daemon.door.chat.running == 4)
    process.send_signal(signal.SIGINT)
    ran = await ended(process)
    assert (ran.status, ran.out) == (130, "")
    await until(lambda: daemon.door.chat.running == 0)
    assert len(daemon.door.chat.asked) == 4


async def test_answers_of_several_lines_stand_side_by_side_on_a_terminal(
    daemon: Daemon, models: tuple[str, str]
) -> None:
    daemon.door.chat.says = lambda request: f"{request.model[:2]}\nlines \x1b"
    path = written(daemon.root / "prompts.jsonl", LINES[:1])
    async with typing(daemon, "compare", *models, path, "--grader", "exact_match") as terminal:
        await terminal.until("REFERENCE")
        await terminal.until("lines \\x1b")
        await terminal.until("score 0")
        await terminal.until("MEAN")
        assert await terminal.ended() == 0


async def test_how_it_fails(daemon: Daemon, models: tuple[str, str]) -> None:
    path = written(daemon.root / "prompts.jsonl", LINES[-1:])
    ran = await daemon.run("compare", "smollm2", "gpt-9", path)
    assert (ran.status, ran.out) == (3, "")
    ran = await daemon.run("compare", *models, path, "--grader", "gpt-9")
    assert (ran.status, daemon.door.chat.asked) == (3, [])
    ran = await daemon.run("compare", *models, path, "--grader", "exact_match")
    assert ran.status == 2
    assert "has no references" in ran.err
    ran = await daemon.run("compare", *models, str(daemon.root / "none.jsonl"))
    assert ran.status == 2
    daemon.door.chat.says = lambda _: "x"
    await daemon.stop()
    assert (await daemon.run("compare", *models, path)).status == 7


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "no JSON"),
        ("[]", "no JSON object"),
        ("{}", "neither messages nor a prompt"),
        ('{"prompt": 5}', "neither messages nor a prompt"),
        ('{"prompt": "a", "completion": 5}', "completion is no string"),
        ('{"messages": 5}', "messages is no array of objects"),
        ('{"messages": []}', "nothing is asked"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "nothing is asked"),
        ('{"messages": [{"role": "user", "content": 5}]}', "content is no string"),
        ('{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "'text'"),
        (
            '{"messages": [{"role": "assistant", "tool_calls": [{}]}, {"role": "user"}]}',
            "'function'",
        ),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "not UTF-8"),
        ("[" * 100_000, "nests too deep"),
    ],
)
def test_a_faulty_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{{"prompt": "good"}}\n\n{line}\n')
    with pytest.raises(Failure, match="line 3: ") as failure:
        read_prompts(path)
    assert reason in failure.value.message
    assert len(read_prompts(path, 1)) == 1


def test_calls_are_told_in_one_spelling(tmp_path: Path) -> None:
    calling = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    parts = {
        "role": "user",
        "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
    }
    answer = {"role": "tool", "tool_call_id": "call_1", "content": "3"}
    path = tmp_path / "prompts.jsonl"
    written(path, [{"messages": [parts, calling]}, {"messages": [parts, calling, answer]}])
    first, second = read_prompts(path)
    assert (first.asked, first.reference) == ("ab", 'add({"a": 1, "b": 2})')
    assert (second.asked, second.reference) == ("3", None)
    assert second.request.chat.messages[1].tool_calls[0].arguments == '{"b":2,"a":1}'


def test_the_measures() -> None:
    assert exact_match(" 42\n", "42") == 1.0
    assert exact_match("42.", "42") == 0.0
    assert text_similarity("", "") == 1.0
    assert text_similarity("", "x") == 0.0
    assert text_similarity("The cat sat.", "the CAT sat") == 1.0
    assert text_similarity("the cat", "the cat sat down") == pytest.approx(2 / 3)
    assert text_similarity("the the the", "the cat") == pytest.approx(2 / 5)
    assert text_similarity("\u4f60\u597d", "\u4f60\u4eec\u597d") == pytest.approx(4 / 5)
    assert text_similarity(
        "\u0633\u0644\u0627\u0645 \u062f\u0646\u06cc\u0627", "\u0633\u0644\u0627\u0645"
    ) == pytest.approx(2 / 3)
