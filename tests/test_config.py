"""Settings: precedence, bounds, and clear words for mistakes."""

from pathlib import Path

import pytest

from ftd.config import Settings, load
from ftd.core.errors import FtdError


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FTD_HOME", "STATE_DIRECTORY", "FTD_REST", "FTD_LIMITS__UPLOAD_BYTES"):
        monkeypatch.delenv(name, raising=False)


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "ftd.toml"
    path.write_text(text)
    return path


def test_flag_goes_before_environment_before_toml_before_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toml(tmp_path, 'rest = "127.0.0.1:1"\n[limits]\nupload_bytes = 10\nline_bytes = 2000')
    assert load().rest == "127.0.0.1:8420"
    assert load(config).rest == "127.0.0.1:1"
    monkeypatch.setenv("FTD_REST", "127.0.0.1:2")
    monkeypatch.setenv("FTD_LIMITS__UPLOAD_BYTES", "20")
    assert load(config).rest == "127.0.0.1:2"
    assert load(config).limits.upload_bytes == 20
    assert load(config).limits.line_bytes == 2000
    assert load(config, rest="127.0.0.1:3").rest == "127.0.0.1:3"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("uplaod = 1", "uplaod"),
        ("[limits]\nupload_byte = 1", "limits.upload_byte"),
        ("[limits]\nupload_bytes = 0", "limits.upload_bytes"),
        ('rest = "8420"', "HOST:PORT"),
        ('[aliases]\n"gpt-4o" = "a/b"', "a/b"),
        ("not toml", "ftd.toml"),
        ("[training.lora]\nrank = 0", "training.lora.rank"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(FtdError) as caught:
        load(toml(tmp_path, text))
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("log_levle = 1", "log_level"),
        ("[limits]\nupload_byte = 1", "limits.upload_bytes"),
        ("[training.lora]\nrnk = 1", "training.lora.rank"),
        ("[models.small]\ncontext = 1", "models.small.context_tokens"),
        ("[models.small.lora]\nalhpa = 1", "models.small.lora.alpha"),
    ],
)
def test_a_misspelt_key_is_told_with_the_one_that_was_meant(
    tmp_path: Path, text: str, meant: str
) -> None:
    with pytest.raises(FtdError) as caught:
        load(toml(tmp_path, text))
    assert f"there is no such key; did you mean {meant}?" in caught.value.message
    assert f"(in {tmp_path / 'ftd.toml'})" in caught.value.message


def test_a_mistake_is_told_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = toml(tmp_path, "[limits]\nline_bytes = 1")
    monkeypatch.setenv("FTD_LIMITS__UPLOAD_BYTES", "0")
    with pytest.raises(FtdError) as caught:
        load(config, rest="8420")
    assert "HOST:PORT (--rest)" in caught.value.message
    assert "($FTD_LIMITS__UPLOAD_BYTES)" in caught.value.message
    assert f"(in {config})" in caught.value.message


def test_a_key_like_no_other_has_no_suggestion(tmp_path: Path) -> None:
    with pytest.raises(FtdError, match="zzz: there is no such key "):
        load(toml(tmp_path, "zzz = 1"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FtdError, match="nowhere"):
        load(tmp_path / "nowhere.toml")


def test_one_bad_file_does_not_spoil_the_next_load(tmp_path: Path) -> None:
    with pytest.raises(FtdError):
        load(toml(tmp_path, "uplaod = 1"))
    assert load().rest == "127.0.0.1:8420"


def test_the_home_is_found_where_systemd_and_people_put_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/ftd")
    assert load().home == Path("/var/lib/ftd")
    monkeypatch.setenv("FTD_HOME", "/srv/ftd")
    assert load().home == Path("/srv/ftd")
    assert load(home=Path("/flag")).home == Path("/flag")


def test_a_models_section_changes_that_model_alone(tmp_path: Path) -> None:
    settings = load(
        toml(tmp_path, "[models.small]\ncontext_tokens = 512\n[models.small.lora]\nrank = 4")
    )
    assert settings.training_of("small").context_tokens == 512
    assert settings.training_of("small").lora.rank == 4
    assert (
        settings.training_of("small").lora_learning_rate == Settings().training.lora_learning_rate
    )
    assert settings.training_of("other") == settings.training


def test_a_key_of_another_server_is_never_printed(tmp_path: Path) -> None:
    config = toml(tmp_path, '[serving]\nvllm_key = "canary"')
    settings = load(config)
    assert settings.serving.vllm_key.get_secret_value() == "canary"
    for printed in (repr(settings), str(settings), f"{settings.model_dump()}", settings.serving):
        assert "canary" not in str(printed)
    assert "canary" not in settings.model_dump_json()


def test_a_key_that_is_no_text_is_refused_without_it(tmp_path: Path) -> None:
    with pytest.raises(FtdError, match=r"serving\.vllm_key: ") as caught:
        load(toml(tmp_path, '[serving]\nvllm_key = ["canary"]'))
    assert "canary" not in caught.value.message
