"""Torch stays in the worker, and fast starts stay fast: what each program loads."""

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "peft", "numpy", "pandas", "safetensors", "accelerate", "gguf"}


def loaded_by(module: str) -> set[str]:
    program = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("module", ["ftd.daemon", "ftd.__main__", "ftctl.cli", "ftd.check"])
def test_no_heavy_module_is_loaded(module: str) -> None:
    assert not loaded_by(module) & HEAVY


def test_no_http_client_is_loaded_before_a_hand_off() -> None:
    assert not {"httpx2", "httpcore2", "ftd.serving.vllm"} & loaded_by("ftd.daemon")


def test_the_client_starts_without_the_server() -> None:
    loaded = loaded_by("ftctl.cli")
    assert not {"fastapi", "aiosqlite", "pydantic", "uvicorn"} & loaded
    assert not {name for name in loaded if name.startswith("ftd.") and name != "ftd.v1"} - {
        name for name in loaded if name.startswith("ftd.v1")
    }


def test_the_validator_starts_light() -> None:
    assert not loaded_by("ftd.worker.validate") & (HEAVY | {"pydantic", "grpc"})


def test_the_shim_needs_the_standard_library_alone() -> None:
    program = (
        "import sys; sys.path.append('ftd/launch'); import shim.main; "
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True
    )
    outside = set(done.stdout.split()) - set(sys.stdlib_module_names) - {"__main__", "shim"}
    assert not outside
