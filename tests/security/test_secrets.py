"""Keys, prompts and training rows stay where they belong, whatever goes well or wrong.

One daemon is given canaries of each kind and driven through what people do, what they do wrong,
and what breaks. Then everything that it has written, said and started is searched.
"""

import base64
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.test_story import ended, upload
from tests.running import Daemon, conversation, jsonl, processes_of, running, until
from tests.security.calls import minted
from tests.tiny import CHATML, tiny_model

ADMIN = "ftd-" + "CanaryAdminKey" + "0a1B2c3D4e5F6g7H8i9J0k1L2m"
WRONG = "ftd-" + "CanaryWrongKey" + "0a1B2c3D4e5F6g7H8i9J0k1L2m"
VLLM = "canary-vllm-key-0a1b2c3d"
HUB = "hf_CanaryHubToken0a1b2c3d4e5f"
OTHER = "sk-CanaryOpenAIKey0a1b2c3d4e5f6g"
KEYS = (ADMIN, WRONG, VLLM, HUB, OTHER)
PROMPT = "canary prompt zanzibar"
ROW = "canary row quetzalcoatl"
SECRETS = {"FTD_SERVING__VLLM_KEY": VLLM, "HF_TOKEN": HUB, "OPENAI_API_KEY": OTHER}
ROWS = 60


@dataclass
class Haunted:
    """A daemon that has seen the canaries, and what came of it."""

    daemon: Daemon
    token: str = ""
    answers: list[httpx2.Response] = field(default_factory=list)
    processes: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)

    @property
    def keys(self) -> tuple[str, ...]:
        """Those that it was given, and one of its own."""
        assert self.token
        return *KEYS, self.token

    @property
    def home(self) -> Path:
        return self.daemon.home

    def ask(self, method: str, path: str, *, key: str = ADMIN, **options: Any) -> httpx2.Response:
        url = self.daemon.url.removesuffix("/v1") + path
        headers = {"Authorization": f"Bearer {key}"} | options.pop("headers", {})
        answer = httpx2.request(method, url, headers=headers, timeout=60, **options)
        self.answers.append(answer)
        return answer

    def look(self) -> list[int]:
        """Note how the processes of the home were started."""
        found = processes_of(self.home)
        for pid in found:
            try:
                where = Path(f"/proc/{pid}")
                told = (where / "cmdline").read_bytes(), (where / "environ").read_bytes()
            except OSError:
                continue
            self.processes[pid] = told
        return found


@pytest.fixture(scope="module")
def haunted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Haunted]:
    scratch = tmp_path_factory.mktemp("secrets")
    home = scratch / "home"
    home.mkdir()
    (home / "admin.key").write_text(ADMIN + "\n")
    (home / "admin.key").chmod(0o600)
    with running(home, config="[training]\ncontext_tokens = 512\n", environment=SECRETS) as daemon:
        haunted = Haunted(daemon)
        daemon.ftctl("models", "add", "tiny", str(tiny_model(scratch / "model")))
        daemon.ftctl("models", "add", "touchy", str(touchy_model(scratch / "touchy")))
        _train(haunted, scratch)
        _talk(haunted)
        _go_wrong(haunted)
        haunted.token = minted(daemon, "canary", "read")
        assert haunted.ask("GET", "/v1/models", key=haunted.token).status_code == 200
        assert haunted.ask("DELETE", "/v1/files/file-x", key=haunted.token).status_code == 403
        haunted.ask("GET", "/metrics")
        yield haunted


def touchy_model(directory: Path) -> Path:
    """One whose chat template refuses the canaries, in words that quote them."""
    names = ("zanzibar", "quetzalcoatl")  # of PROMPT and ROW: the template itself holds neither
    words = " or ".join(f"'{name}' in message['content']" for name in names)
    refusal = f"{{% if {words} %}}{{{{ raise_exception(message['content']) }}}}{{% endif %}}"
    loop = "{% for message in messages %}"
    tiny_model(directory)
    (directory / "chat_template.jinja").write_text(CHATML.replace(loop, loop + refusal))
    return directory


def _train(haunted: Haunted, scratch: Path) -> None:
    """One job whose trainer is killed once, one on data with a fault in it, and one whose model's
    template refuses the data."""
    client = haunted.daemon.client()
    rows = [conversation(f"{ROW} {n}", f"{ROW} answer {n}") for n in range(ROWS)]
    good = upload(client, jsonl(scratch / "good.jsonl", rows))
    bad = [*rows[:12], {"messages": [{"role": ROW, "content": ROW}]}, {"messages": ROW}, {ROW: ROW}]
    faulty = upload(client, jsonl(scratch / "faulty.jsonl", bad))
    told = {"n_epochs": 4, "batch_size": 1}
    jobs = [
        client.fine_tuning.jobs.create(
            model=model,
            training_file=file,
            hyperparameters=told,  # type: ignore[arg-type]
        )
        for model, file in (("tiny", good), ("tiny", faulty), ("touchy", good))
    ]
    assert ended(client, jobs[1].id).status == "failed"
    until(lambda: len(list(client.fine_tuning.jobs.list_events(jobs[0].id, limit=100))) > 20)
    for pid in haunted.look():
        os.kill(pid, signal.SIGKILL)
    until(haunted.look)
    assert ended(client, jobs[0].id).status == "succeeded"
    assert ended(client, jobs[2].id).status == "failed"


def _talk(haunted: Haunted) -> None:
    """An answer, and one whose worker is killed."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 4}
    assert haunted.ask("POST", "/v1/chat/completions", json=body).status_code == 200
    for pid in haunted.look():
        os.kill(pid, signal.SIGKILL)
    until(lambda: not processes_of(haunted.home))
    until(lambda: haunted.ask("POST", "/v1/chat/completions", json=body).status_code == 200)
    haunted.look()
    refused = haunted.ask("POST", "/v1/chat/completions", json=body | {"model": "touchy"})
    assert (refused.status_code, PROMPT in refused.text) == (400, True)


def _go_wrong(haunted: Haunted) -> None:
    """What is refused, with the canaries in every place where one can be put."""
    chat, text = "/v1/chat/completions", "/v1/completions"
    user = {"role": "user", "content": PROMPT}
    for path in (chat, "/v1/files", f"/v1/files/{WRONG}/content", f"/{WRONG}", f"/?key={WRONG}"):
        assert haunted.ask("POST", path, key=WRONG).status_code == 401
    for body in (
        {"model": "tiny", "messages": [{"role": PROMPT, "content": PROMPT}]},
        {"model": "tiny", "messages": PROMPT},
        {"model": "tiny", "messages": [user], "temperature": PROMPT},
        {"model": "tiny", "messages": [user], "tools": [PROMPT]},
        {"model": "tiny", "messages": [user], "response_format": {"type": PROMPT}},
        {"model": "tiny", "messages": [user | {"tool_calls": PROMPT}]},
        {"model": "nobody", "messages": [user]},
        [PROMPT],
        PROMPT,
    ):
        assert 400 <= haunted.ask("POST", chat, json=body).status_code < 500
    for prompt in ([PROMPT, 7], {"a": PROMPT}, None, [[PROMPT]]):
        told = {"model": "tiny", "prompt": prompt, "suffix": PROMPT}
        assert 400 <= haunted.ask("POST", text, json=told).status_code < 500
    for raw in (f'{{"prompt": "{PROMPT}', f"{PROMPT}", f'{{"{PROMPT}": NaN}}', "[" * 999 + PROMPT):
        headers = {"Content-Type": "application/json"}
        answer = haunted.ask("POST", text, content=raw.encode(), headers=headers)
        assert 400 <= answer.status_code < 500
    upload_of = {"purpose": (None, "fine-tune"), "file": ("a.jsonl", ROW * 3)}
    assert haunted.ask("POST", "/v1/files", files=upload_of).status_code == 400
    job = {"model": "tiny", "training_file": WRONG, "metadata": {"key": ["no text"]}}
    assert haunted.ask("POST", "/v1/fine_tuning/jobs", json=job).status_code == 400


def forms(canary: str) -> list[bytes]:
    """How a canary may be written; of base64 the middle, whatever stands before and after."""
    shifted = [base64.b64encode(b" " * n + canary.encode())[4:-4] for n in range(3)]
    return [canary.encode(), json.dumps(canary)[1:-1].encode(), *shifted]


def holds(data: bytes, canary: str) -> bool:
    return any(form in data for form in forms(canary))


def plain_files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if stat.S_ISREG(path.lstat().st_mode)]


def test_no_log_line_holds_a_key_a_prompt_or_a_row(haunted: Haunted) -> None:
    log = haunted.daemon.log()
    assert "401" in log, "the requests were seen"
    for canary in (*haunted.keys, PROMPT, ROW):
        lines = [line for line in log.splitlines() if holds(line.encode(), canary)]
        assert lines == [], canary


def test_no_file_of_the_home_holds_a_key_but_its_own(haunted: Haunted) -> None:
    for path in plain_files(haunted.home):
        if path.name != "admin.key":
            data = path.read_bytes()
            assert [key for key in haunted.keys if holds(data, key)] == [], path


def test_prompts_are_kept_nowhere(haunted: Haunted) -> None:
    for path in plain_files(haunted.home):
        assert not holds(path.read_bytes(), PROMPT), path


def test_rows_lie_where_data_lies_and_nowhere_else(haunted: Haunted) -> None:
    """Files, what trainers are lent of them, and what the database says of faulty lines: of those
    that a template refuses, a trainer told it so in its spool."""
    found = {
        path.relative_to(haunted.home)
        for path in plain_files(haunted.home)
        if holds(path.read_bytes(), ROW)
    }
    data = {path for path in found if path.parts[0] in ("files", "cache")}
    lent = {path for path in found if path.parts[0] == "runs" and path.parts[2] == "in"}
    told = {path for path in found if path.name.startswith("ftd.db")}
    spools = {path for path in found if path.parts[0] == "runs" and path.name == "spool"}
    assert data
    assert len(spools) == 1
    assert found - data - lent - told - spools == set()


def test_no_answer_repeats_a_key_or_says_how_we_are_built(haunted: Haunted) -> None:
    assert len(haunted.answers) > 20
    for answer in haunted.answers:
        for key in haunted.keys:
            assert not holds(answer.content, key) or key in str(answer.request.url), answer.text
        for ours in ("Traceback", ".py", str(haunted.home), str(Path(sys.prefix))):
            assert ours not in answer.text, answer.text


def test_metrics_hold_no_canary(haunted: Haunted) -> None:
    (metrics,) = [one for one in haunted.answers if one.request.url.path == "/metrics"]
    assert metrics.status_code == 200
    assert [word for word in (*haunted.keys, PROMPT, ROW) if holds(metrics.content, word)] == []


def test_no_process_is_started_with_a_secret(haunted: Haunted) -> None:
    assert len(haunted.processes) >= 6, "shims, trainers and workers"
    for pid, (command, environment) in haunted.processes.items():
        for canary in (*haunted.keys, PROMPT, ROW):
            assert not holds(command, canary), (pid, command)
            assert not holds(environment, canary), (pid, command)
    daemon = Path(f"/proc/{haunted.daemon.pid}/cmdline").read_bytes()
    assert [key for key in haunted.keys if holds(daemon, key)] == []


def test_no_process_leaves_a_core(haunted: Haunted) -> None:
    found = haunted.look()
    assert found
    for pid in found:
        limits = Path(f"/proc/{pid}/limits").read_text()
        (line,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
        assert line.split()[4:6] == ["0", "0"], pid


def test_a_backup_holds_no_key(haunted: Haunted, tmp_path: Path) -> None:
    destination = tmp_path / "backup"
    command = [sys.executable, "-m", "ftd", "backup", str(destination), "--home", haunted.home]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert not any(holds(done.stdout + done.stderr, key) for key in haunted.keys)
    assert not (destination / "admin.key").exists()
    files = plain_files(destination)
    assert len(files) > 3
    for path in files:
        data = path.read_bytes()
        assert [key for key in haunted.keys if holds(data, key)] == [], path
        assert not holds(data, PROMPT), path


def test_nobody_else_can_read_the_home(haunted: Haunted) -> None:
    """Whatever the modes of the home itself are, which somebody else has made here."""
    made_by_us = ("daemon.log", "ftd.toml")  # of this test
    open_to_others = [
        path.relative_to(haunted.home)
        for path in haunted.home.rglob("*")
        if not path.is_symlink() and stat.S_IMODE(path.lstat().st_mode) & 0o077
    ]
    assert [path for path in open_to_others if path.name not in made_by_us] == []
