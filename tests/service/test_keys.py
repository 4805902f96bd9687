"""The key file, and who gets in."""

import random
from pathlib import Path

import pytest

from ftd.core.errors import FtdError, Kind
from ftd.service.keys import Keys

CHOICE = random.Random(1).choice


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    first = Keys.at(path, CHOICE)
    key = path.read_text().strip()
    assert path.stat().st_mode & 0o777 == 0o600
    assert first.authenticate(key).name == "admin"
    assert Keys.at(path, CHOICE).authenticate(key).project == "default"


@pytest.mark.parametrize("bearer", [None, "", "wrong", "ftd-" + "x" * 40])
def test_nobody_else_gets_in(tmp_path: Path, bearer: str | None) -> None:
    keys = Keys.at(tmp_path / "admin.key", CHOICE)
    with pytest.raises(FtdError) as caught:
        keys.authenticate(bearer)
    assert caught.value.kind is Kind.UNAUTHENTICATED


def test_a_wrong_key_is_not_repeated_whole(tmp_path: Path) -> None:
    secret = "sk-proj-abcdefghijklmnopqrstuvwxyz"
    with pytest.raises(FtdError) as caught:
        Keys.at(tmp_path / "admin.key", CHOICE).authenticate(secret)
    assert secret not in caught.value.message
    assert caught.value.code == "invalid_api_key"


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    Keys.at(path, CHOICE)
    path.chmod(0o644)
    with pytest.raises(FtdError, match="chmod 600"):
        Keys.at(path, CHOICE)


def test_a_key_that_is_too_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    path.write_text("short\n")
    path.chmod(0o600)
    with pytest.raises(FtdError, match="16 characters"):
        Keys.at(path, CHOICE)
