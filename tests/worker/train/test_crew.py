"""However many processes take the parts of a file, its tokens are the same, and none is left."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from ftd.core.tokens import COLUMNS, MANIFEST, file_of
from ftd.worker.template import ChatTemplate
from ftd.worker.train import crew, data
from ftd.worker.train.crew import spread
from ftd.worker.train.data import Source, tokenize
from ftd.worker.train.parts import Task, take
from tests.running import until
from tests.worker.chat_templates import smollm2, tokenizer_of

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "\u00e9t\u00e9", "\U0001f600")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chats, a completion, blank lines, a line as long as several parts, and some that gemma
    refuses."""
    path = tmp_path_factory.mktemp("crew") / "training.jsonl"
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("\n")
        for number in range(600):
            talk = [
                {"role": "user", "content": f"{number} " + " ".join(WORDS[: number % 9])},
                {"role": "assistant", "content": WORDS[number % 7] * (number % 11 + 1)},
            ]
            if number % 100 == 17:
                talk = [talk[0], *talk]
            if number == 400:
                talk[0]["content"] *= 60
            file.write(json.dumps({"messages": talk}, ensure_ascii=number % 2 == 0))
            file.write("\r\n \n" if number % 100 == 0 else "\n")
        file.write('{"prompt": "last", "completion": " without a newline"}')
    return path


def task_of(path: Path, tokenizer: Any = None, part_bytes: int = 700) -> Task:
    """Parts of so few bytes that a small file has many."""
    template = ChatTemplate(tokenizer or smollm2())
    return Task(path=path, template=template, context_tokens=64, part_bytes=part_bytes)


def columns(directory: Path) -> dict[str, bytes]:
    names = [MANIFEST, *(file_of(column) for column in COLUMNS)]
    return {name: (directory / name).read_bytes() for name in names}


def children() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.ZombieProcess, psutil.NoSuchProcess):  # another test's
            if "ftd.worker.train.crew" in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_the_bytes_are_the_same_whoever_takes_which_part(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "Task", partial(Task, part_bytes=700))
    tokenizer = tokenizer_of("gemma")
    seen: set[int] = set()
    made = []
    for threads in (1, 3):
        out = tmp_path / str(threads)
        read = Source(path=source, tokenizer=tokenizer, context_tokens=64, threads=threads)
        tokenized = tokenize(read, out, progress=lambda: seen.add(len(children())))
        made.append((columns(out), tokenized.warnings))
    assert made[0] == made[1]
    assert any("refuses; first line 20: " in warning for warning in made[0][1])
    assert 3 in seen, "three processes were at work"
    assert not children()


def test_any_size_of_part_gives_every_line_once(tmp_path: Path) -> None:
    path = tmp_path / "training.jsonl"
    lines = [json.dumps({"prompt": "x" * (n % 13), "completion": f" {n}"}) for n in range(60)]
    path.write_text("\n\n".join(lines) + "\n")
    whole = take(task_of(path, part_bytes=2**20), 0)
    assert (whole.read, whole.lines) == (60, 119)
    for size in (1, 2, 7, 41, 42, 43, 44, 500, path.stat().st_size - 1, path.stat().st_size):
        task = task_of(path, part_bytes=size)
        taken = [take(task, start) for start in task.parts()]
        assert sum(part.lines for part in taken) == whole.lines
        assert np.concatenate([part.ids for part in taken]).tolist() == whole.ids.tolist()


def test_a_process_that_dies_costs_time_and_no_token(source: Path) -> None:
    task = task_of(source)
    taken = []
    for number, part in enumerate(spread(task, 2, lambda: None)):
        if number == 3:
            for child in children():
                child.kill()
                child.wait()
        taken.append(part)
    assert not children()
    assert [part.ids.tobytes() for part in taken] == [
        take(task, start).ids.tobytes() for start in task.parts()
    ]


def test_where_no_process_can_be_started_one_is_enough(
    source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere")
    task = task_of(source)
    assert next(spread(task, 2, lambda: None)).read > 0
    assert "tokenising alone from part 0 on: it could not begin" in caplog.text


class Stop(Exception):
    pass


def test_who_is_asked_to_stop_leaves_no_process(source: Path) -> None:
    task = task_of(source)
    asked: list[psutil.Process] = []

    def wait() -> None:
        if asked:
            raise Stop

    taken: Iterator[object] = spread(task, 2, wait)
    next(taken)
    asked += children()
    assert len(asked) == 2
    with pytest.raises(Stop):
        next(taken)
    assert not children()


def test_a_process_of_another_release_takes_no_part(
    source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(crew, "MAKER", "another")
    task = task_of(source)
    assert next(spread(task, 2, lambda: None)).read > 0
    assert "tokenising alone" in caplog.text


def test_it_dies_with_its_trainer_and_not_at_a_request() -> None:
    program = (
        "import signal\n"
        "from contextlib import ExitStack\n"
        "from ftd.worker.train.crew import _hired\n"
        "with ExitStack() as stack:\n"
        "    lines = [stack.enter_context(_hired(first, 2)) for first in range(2)]\n"
        "    print('begun', flush=True)\n"
        "    signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == b"begun\n"
        mates = psutil.Process(trainer.pid).children()
        assert len(mates) == 2
        for mate in mates:
            until(lambda mate=mate: _ignores(mate, signal.SIGTERM))  # type: ignore[misc]
            mate.terminate()
        assert all(mate.is_running() and mate.status() != "zombie" for mate in mates)
        trainer.kill()
        trainer.wait()
        until(lambda: not any(mate.is_running() for mate in mates))


def _ignores(process: psutil.Process, number: signal.Signals) -> bool:
    status = Path(f"/proc/{process.pid}/status").read_text()
    (mask,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:")]
    return bool(int(mask, 16) >> (number - 1) & 1)
