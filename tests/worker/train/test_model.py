import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import Gemma2Config, Gemma2ForCausalLM

from ftd.core.errors import FtdError
from ftd.core.spec import Lora
from ftd.worker.train.data import Row
from ftd.worker.train.model import load

NewJob = Callable[..., Any]


def spoil(job: Any, damage: Callable[[Path], object]) -> FtdError:
    damage(job.root / "in" / "model")
    with pytest.raises(FtdError) as caught:
        load(job.spec, job.root)
    assert caught.value.code == "invalid_model"
    assert len(caught.value.message) < 400
    return caught.value


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "model.safetensors").unlink(),
        lambda path: (path / "model.safetensors").write_bytes(b"not a tensor"),
        lambda path: (path / "config.json").write_text("{"),
        lambda path: edit(path / "config.json", model_type="unheard_of"),
        lambda path: (path / "tokenizer.json").write_text("{}"),
    ],
)
def test_a_bad_directory_is_said_to_be_bad(
    new_job: NewJob, damage: Callable[[Path], object]
) -> None:
    fault = spoil(new_job(), damage)
    assert fault.message.startswith("The model could not be loaded: ")


def test_code_that_comes_with_a_model_is_never_run(new_job: NewJob) -> None:
    def plant(path: Path) -> None:
        (path / "evil.py").write_text(f"open({str(path / 'ran')!r}, 'w')")
        classes = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
        edit(path / "config.json", model_type="evil", auto_map=classes)

    job = new_job()
    spoil(job, plant)
    assert not (job.root / "in" / "model" / "ran").exists()


def test_pickled_weights_are_refused(new_job: NewJob) -> None:
    def pickle(path: Path) -> None:
        (path / "model.safetensors").unlink()
        torch.save({}, path / "pytorch_model.bin")

    spoil(new_job(), pickle)


def test_unknown_targets_are_said_so(new_job: NewJob) -> None:
    job = new_job(lora=Lora(targets=("no_such_projection",)))
    with pytest.raises(FtdError, match=r"The adapter could not be loaded: .*no_such_projection"):
        load(job.spec, job.root)


def test_targets_can_be_chosen(new_job: NewJob) -> None:
    job = new_job(lora=Lora(targets=("q_proj", "v_proj")))
    names = set(load(job.spec, job.root).trainable())
    assert names
    assert all("q_proj" in name or "v_proj" in name for name in names)


def test_a_new_adapter_is_the_same_for_the_same_random_numbers(new_job: NewJob) -> None:
    weights = []
    for name in ("one", "two"):
        job = new_job(name)
        torch.manual_seed(5)
        weights.append(load(job.spec, job.root).trainable())
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert all(weight.dtype == torch.float32 for weight in weights[0].values())


@pytest.mark.parametrize("lora", [Lora(rank=4), None])
def test_bfloat16_trains_float32_weights(new_job: NewJob, lora: Lora | None) -> None:
    job = new_job(dtype="bfloat16", lora=lora, n_epochs=1)
    model = load(job.spec, job.root)
    assert {weight.dtype for weight in model.trainable().values()} == {torch.float32}
    frozen = {w.dtype for w in model.network.parameters() if not w.requires_grad}
    assert frozen == ({torch.bfloat16} if lora else set())
    job.run()
    assert job.facts[-1].kind == "done"


def test_soft_caps_of_the_logits_are_part_of_the_score(
    new_job: NewJob, model_directory: Path
) -> None:
    """Only scored positions go through the head, but through all that follows it as well."""
    job = new_job(lora=None)
    torch.manual_seed(3)
    gemma = Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=259,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            initializer_range=1.0,
            final_logit_softcapping=3.0,
            eos_token_id=2,
            pad_token_id=0,
            bos_token_id=1,
        )
    )
    gemma.save_pretrained(job.root / "in" / "model")
    model = load(job.spec, job.root)
    ids = np.arange(10, 30, dtype=np.int32)
    weights = np.zeros(20, dtype=np.float32)
    weights[12:] = 0.5
    (work,) = model.scorer.passes([Row(ids=ids, weights=weights)], 100)
    with torch.no_grad():
        score = model.scorer.score(work)
        logits = gemma.eval()(torch.from_numpy(ids.astype(np.int64))[None]).logits[0]
    assert logits.abs().max() <= 3.0
    expected = functional.cross_entropy(logits[11:19], torch.arange(22, 30), reduction="sum")
    assert float(score.nll) == pytest.approx(0.5 * float(expected), rel=1e-5)
