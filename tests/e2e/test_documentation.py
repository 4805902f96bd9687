"""The documentation that we rebuild: its calls run as printed, but for address, key and names.

Two corrections are made to the printed text, as its readers must: missing imports are added, and
places where it prints a literal id take the id of a real object.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.test_story import ended, upload
from tests.running import Daemon, small_talk

CLIENT = """
import os
from openai import OpenAI
client = OpenAI(
    # This is the default and can be omitted
    api_key=os.environ.get("GILAS_API_KEY"),
    base_url="https://api.gilas.io/v1/"
)
"""

CREATE = """
client.fine_tuning.jobs.create(
  training_file="file-abc123",
  model="gpt-4o-mini"
)
"""

LIST = "client.fine_tuning.jobs.list()"

EVENTS = """
client.fine_tuning.jobs.list_events(
  fine_tuning_job_id="ftjob-abc123",
  limit=2
)
"""

RETRIEVE = 'client.fine_tuning.jobs.retrieve("ftjob-abc123")'

HYPERPARAMETERS = """
client.fine_tuning.jobs.create(
  training_file="file-abc123",
  model="gpt-4o-mini",
  hyperparameters={
    "n_epochs":2
  }
)
"""

PLOT = """
import matplotlib.pyplot as plt
from openai import OpenAI
import base64
import pandas as pd
import os

client = OpenAI(
    # This is the default and can be omitted
    api_key=os.environ.get("GILAS_API_KEY"),
    base_url="https://api.gilas.io/v1/"
)

# Get the result file ID
result_file_id = 'file-xxx'
# Download the content
content = client.files.content(result_file_id)
# Decode the content
decoded_content = base64.b64decode(content.text.encode("utf-8"))
# Save to a CSV file
with open("result.csv", "wb") as f:
    f.write(decoded_content)
# Read the CSV file into a pandas DataFrame
df = pd.read_csv("result.csv")
# Plot training loss
plt.figure(figsize=(10, 6))
plt.plot(df['step'], df['train_loss'], label='Training Loss')
plt.plot(df['step'], df['valid_loss'], label='Validation Loss')
plt.xlabel('Step')
plt.ylabel('Loss')
plt.title('Training and Validation Loss')
plt.legend()
plt.show()
# Plot token accuracy
plt.figure(figsize=(10, 6))
plt.plot(df['step'], df['train_token_accuracy'], label='Training Accuracy')
plt.plot(df['step'], df['valid_token_accuracy'], label='Validation Accuracy')
plt.xlabel('Step')
plt.ylabel('Token Accuracy')
plt.title('Training and Validation Token Accuracy')
plt.legend()
plt.show()
"""

UPLOAD_CURL = """
curl https://api.gilas.io/v1/files \\
  -H "Authorization: Bearer $GILAS_API_KEY" \\
  -F purpose="fine-tune" \\
  -F file="@mydata.jsonl"
"""

CREATE_CURL = """
curl https://api.gilas.io/v1/fine_tuning/jobs \\
  -H "Content-Type: application/json" \\
  -H "Authorization: Bearer $GILAS_API_KEY" \\
  -d '{
    "training_file": "file-BK7bzQj3FfZFXr7DbL6xJwfo",
    "model": "gpt-4o-mini"
  }'
"""

LIST_CURL = """
curl https://api.gilas.io/v1/fine_tuning/jobs?limit=2 \\
  -H "Authorization: Bearer $GILAS_API_KEY"
"""

JOB_CURL = """
curl https://api.gilas.io/v1/fine_tuning/jobs/ftjob-abc123{tail} \\
  -H "Authorization: Bearer $GILAS_API_KEY"
"""


class Reader:
    """Someone who follows the documentation with an address, a key and names of their own."""

    def __init__(self, daemon: Daemon, directory: Path) -> None:
        self._daemon = daemon
        self._directory = directory
        self.names: dict[str, str] = {}

    def python(self, snippet: str) -> object:
        """Run a snippet; the value of its last expression, as a notebook shows it."""
        text = self._mine(snippet).strip()
        scope: dict[str, Any] = {}
        if "OpenAI(" not in text:
            exec(self._mine(CLIENT), scope)
        try:
            return eval(text, scope)
        except SyntaxError:
            exec(text, scope)
            return None
        finally:
            scope["client"].close()

    def curl(self, command: str) -> dict[str, object]:
        shell = self._mine(command).replace("curl ", "curl --silent --show-error ", 1)
        done = subprocess.run(
            ["bash", "-c", shell],
            cwd=self._directory,
            env={"GILAS_API_KEY": self._daemon.key, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            check=True,
        )
        answer: dict[str, object] = json.loads(done.stdout)
        return answer

    def _mine(self, text: str) -> str:
        text = text.replace("https://api.gilas.io/v1/", f"{self._daemon.url}/")
        for printed, mine in self.names.items():
            text = text.replace(printed, mine)
        return text


@pytest.fixture
def reader(daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    monkeypatch.setenv("GILAS_API_KEY", daemon.key)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    small_talk(tmp_path / "mydata.jsonl", 12)
    small_talk(tmp_path / "validation.jsonl", 4, start=50)
    return Reader(daemon, tmp_path)


def test_the_curl_calls(reader: Reader, client: openai.OpenAI) -> None:
    uploaded = reader.curl(UPLOAD_CURL)
    assert uploaded["object"] == "file"
    reader.names["file-BK7bzQj3FfZFXr7DbL6xJwfo"] = str(uploaded["id"])
    created = reader.curl(CREATE_CURL)
    assert created["object"] == "fine_tuning.job"
    assert created["model"] == "tiny"  # the alias, resolved
    assert created["status"] == "queued"
    assert created["fine_tuned_model"] is None
    assert created["result_files"] == []
    assert created["validation_file"] is None
    assert created["training_file"] == uploaded["id"]
    reader.names["ftjob-abc123"] = str(created["id"])
    ended(client, str(created["id"]))

    listed = reader.curl(LIST_CURL)
    assert (listed["object"], len(listed["data"])) == ("list", 2)  # type: ignore[arg-type]
    assert isinstance(listed["has_more"], bool)
    events = reader.curl(JOB_CURL.format(tail="/events"))
    assert events["object"] == "list"
    event = events["data"][0]  # type: ignore[index]
    assert set(event) == {"object", "id", "created_at", "level", "message", "data", "type"}
    checkpoints = reader.curl(JOB_CURL.format(tail="/checkpoints"))
    assert checkpoints["first_id"] == checkpoints["data"][0]["id"]  # type: ignore[index]
    assert checkpoints["last_id"] == checkpoints["data"][-1]["id"]  # type: ignore[index]
    checkpoint = checkpoints["data"][0]  # type: ignore[index]
    assert {
        "object", "id", "created_at", "fine_tuned_model_checkpoint", "metrics",
        "fine_tuning_job_id", "step_number",
    } <= set(checkpoint)  # fmt: skip
    job = reader.curl(JOB_CURL.format(tail=""))
    assert {
        "object", "id", "model", "created_at", "finished_at", "fine_tuned_model",
        "organization_id", "result_files", "status", "validation_file", "training_file",
        "hyperparameters", "trained_tokens", "seed", "estimated_finish",
    } <= set(job)  # fmt: skip
    assert job["hyperparameters"] == {
        "n_epochs": 8, "batch_size": 1, "learning_rate_multiplier": 1.0,
    }  # fmt: skip


def test_the_python_calls_and_the_plot(
    reader: Reader, client: openai.OpenAI, tmp_path: Path
) -> None:
    reader.names["file-abc123"] = upload(client, tmp_path / "mydata.jsonl")
    with_validation = HYPERPARAMETERS.replace(
        'model="gpt-4o-mini",',
        f'model="gpt-4o-mini", validation_file="{upload(client, tmp_path / "validation.jsonl")}",',
    )
    plain = reader.python(CREATE)
    assert isinstance(plain, openai.types.fine_tuning.FineTuningJob)
    client.fine_tuning.jobs.cancel(plain.id)
    created = reader.python(with_validation)
    assert isinstance(created, openai.types.fine_tuning.FineTuningJob)
    assert created.hyperparameters.n_epochs == 2
    reader.names["ftjob-abc123"] = created.id
    job = ended(client, created.id)
    assert len(reader.python(EVENTS).data) == 2  # type: ignore[attr-defined]
    assert created.id in {listed.id for listed in reader.python(LIST).data}  # type: ignore[attr-defined]
    assert reader.python(RETRIEVE) == job
    reader.names["file-xxx"] = job.result_files[0]
    reader.python(PLOT)
    assert (tmp_path / "result.csv").read_text().startswith("step,train_loss,train_accuracy")
