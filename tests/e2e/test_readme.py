"""What the README shows with the tuned model runs as it is printed, but for the model's name."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.running import CALM, Daemon, small_talk

README = Path(__file__).resolve().parents[2] / "README.md"


def test_an_adapter_answers_without_ftd(own_daemon: Daemon, tmp_path: Path) -> None:
    training = small_talk(tmp_path / "training.jsonl", 10)
    job_id = own_daemon.ftctl("submit", str(training), "--model", "tiny").stdout.strip()
    own_daemon.ftctl("wait", job_id)
    job = json.loads(own_daemon.ftctl("show", job_id, "-o", "json").stdout)
    assert [path.name for path in (own_daemon.home / "adapters").iterdir()] == [
        job["fine_tuned_model"].rsplit(":", 1)[1]
    ]
    (block,) = re.findall(r"```python\n([^`]*PeftModel[^`]*)```", README.read_text())
    done = subprocess.run(
        [sys.executable, "-c", block.replace("smollm2-135m-instruct", "tiny")],
        env=os.environ | CALM | {"FTD_HOME": str(own_daemon.home), "PYTHONWARNINGS": "ignore"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "it says something"
