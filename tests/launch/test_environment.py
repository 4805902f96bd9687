"""What a worker and a tool see of the daemon's environment."""

from pathlib import Path

import pytest

from ftd.launch.environment import of_tool, of_worker

SECRETS = {"FTD_SERVING__VLLM_KEY": "x", "HF_TOKEN": "x", "AWS_SECRET_ACCESS_KEY": "x"}
SCRATCH = Path("/run/out/scratch")


def test_a_worker_sees_no_secret_and_keeps_to_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        **SECRETS,
        "HOME": "/root",
        "TMPDIR": "/tmp",
        "OMP_NUM_THREADS": "3",
    }.items():
        monkeypatch.setenv(name, value)
    seen = of_worker(SCRATCH)
    assert not SECRETS.keys() & seen.keys()
    assert seen["HOME"] == seen["TMPDIR"] == str(SCRATCH)
    assert (seen["OMP_NUM_THREADS"], seen["CUDA_VISIBLE_DEVICES"]) == ("3", "")


def test_a_tool_that_fetches_has_the_token_and_the_proxy_and_no_other() -> None:
    given = {**SECRETS, "https_proxy": "http://p", "PIP_INDEX_URL": "file:///i", "PATH": "/bin"}
    seen = of_tool(given, SCRATCH, fetches=True)
    assert {"HF_TOKEN", "https_proxy", "PIP_INDEX_URL", "PATH"} <= seen.keys()
    assert not {"FTD_SERVING__VLLM_KEY", "AWS_SECRET_ACCESS_KEY"} & seen.keys()
    here = of_tool(given, SCRATCH, fetches=False)
    assert not {"HF_TOKEN", "https_proxy", "PIP_INDEX_URL"} & here.keys()
    assert here["TMPDIR"] == here["HF_HOME"] == str(SCRATCH)
