import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from ftd.core.errors import FtdError
from ftd.core.wire import Saved
from ftd.worker.train import checkpoint
from ftd.worker.train.checkpoint import Progress, publish, restore, verify

NewJob = Callable[..., Any]
PROGRESS = Progress(step=2, epoch=0, position=2, micro_batch_tokens=256)


@pytest.fixture
def published(new_job: NewJob) -> Path:
    """The checkpoint that a job of one epoch left."""
    job = new_job(n_epochs=1, model_name="tiny-llama")
    job.run()
    return job.root / "out" / job.told(Saved)[-1].path


def test_a_checkpoint_holds_what_its_manifest_says(published: Path) -> None:
    manifest = verify(published)
    assert (manifest.step, manifest.epoch) == (3, 1)
    names = {path.relative_to(published).as_posix() for path in published.rglob("*.*")}
    assert {file.name for file in manifest.files} == names - {"MANIFEST.json"}
    for file in manifest.files:
        content = (published / file.name).read_bytes()
        assert (file.size, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_the_fact_names_the_manifest(new_job: NewJob) -> None:
    job = new_job(n_epochs=1)
    job.run()
    (saved,) = job.told(Saved)
    manifest = job.file(f"{saved.path}/MANIFEST.json")
    assert saved.manifest_sha256 == hashlib.sha256(manifest).hexdigest()


def test_nothing_in_it_is_a_pickle_or_the_bases_config(published: Path) -> None:
    names = {path.name for path in published.rglob("*")}
    assert names == {
        *{"MANIFEST.json", "state.json", "state.safetensors", "adapter"},
        *{"adapter_config.json", "adapter_model.safetensors"},
        *{"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"},
    }


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_peft_loads_the_adapter(published: Path, model_directory: Path) -> None:
    base = LlamaForCausalLM.from_pretrained(model_directory)
    prompt = torch.arange(10, 30)[None]
    with torch.no_grad():
        before = base(prompt).logits
        after = PeftModel.from_pretrained(base, published / "adapter")(prompt).logits
    assert not torch.allclose(before, after)
    config = json.loads((published / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny-llama"
    assert config["task_type"] == "CAUSAL_LM"
    assert config["inference_mode"] is True
    assert "lm_head" not in config["target_modules"]
    assert config["target_modules"] == sorted(config["target_modules"])
    tokenizer = AutoTokenizer.from_pretrained(published / "adapter")
    assert tokenizer.chat_template


def test_transformers_loads_a_whole_model(new_job: NewJob) -> None:
    job = new_job(n_epochs=1, lora=None)
    run = job.prepared()
    path = publish(job.root / "out" / "checkpoints", PROGRESS, run.model, run.optimizer).path
    loaded = AutoModelForCausalLM.from_pretrained(path / "model")
    for name, weights in run.model.network.named_parameters():
        assert torch.equal(weights, loaded.get_parameter(name)), name


def test_all_random_states_come_back(new_job: NewJob) -> None:
    job = new_job()
    run = job.prepared()
    path = publish(job.root / "out" / "checkpoints", PROGRESS, run.model, run.optimizer).path

    def draw() -> tuple[float, float, float, float]:
        return (random.random(), np.random.rand(), np.random.randn(), float(torch.rand(())))

    expected = draw()
    assert draw() != expected
    assert restore(path, run.model, run.optimizer) == PROGRESS
    assert draw() == expected


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda path: (path / "state.json").unlink(), "state.json is missing"),
        (
            lambda path: (path / "state.safetensors").write_bytes(b"short"),
            "state.safetensors is not as it was published",
        ),
        (lambda path: (path / "more.bin").write_bytes(b""), "more.bin is not as it was published"),
        (lambda path: (path / "MANIFEST.json").write_text("{}"), "its manifest cannot be read"),
        (lambda path: (path / "MANIFEST.json").unlink(), "its manifest cannot be read"),
    ],
)
def test_a_damaged_checkpoint_does_not_verify(
    published: Path, damage: Callable[[Path], object], fault: str
) -> None:
    damage(published)
    with pytest.raises(FtdError, match=fault) as caught:
        verify(published)
    assert caught.value.code == "invalid_checkpoint"


def test_one_flipped_bit_is_noticed(published: Path) -> None:
    weights = published / "adapter" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(FtdError, match=r"adapter_model\.safetensors is not as it was"):
        verify(published)


def test_a_failed_write_leaves_nothing(new_job: NewJob, monkeypatch: pytest.MonkeyPatch) -> None:
    job = new_job()
    run = job.prepared()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        publish(job.root / "out" / "checkpoints", PROGRESS, run.model, run.optimizer)
    assert list((job.root / "out" / "checkpoints").iterdir()) == []


def test_a_name_is_never_used_twice(new_job: NewJob) -> None:
    job = new_job()
    run = job.prepared()
    publish(job.root / "out" / "checkpoints", PROGRESS, run.model, run.optimizer)
    with pytest.raises(OSError, match="not empty"):
        publish(job.root / "out" / "checkpoints", PROGRESS, run.model, run.optimizer)
    assert [path.name for path in (job.root / "out" / "checkpoints").iterdir()] == ["step-2"]
