"""API keys."""

import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftd.core.ids import ALPHABET, Ids
from ftd.core.keys import USUAL, Key, Scope, digest, mint, parse, same, shown, token

IDS = Ids(random.Random(1).randbytes)


def test_a_key_is_itself_and_no_other() -> None:
    key = mint(random.Random(1).choice, ALPHABET)
    assert same(key, key)
    assert not same(key[:-1], key)
    assert not same("", key)
    assert not same("schlüssel", key)
    assert not same("\ud800", key)


def test_an_error_shows_only_the_ends_of_a_key() -> None:
    assert shown("ftd-abcdefghijklmnop") == "ftd-...mnop"
    assert shown("short") == "..."


def test_a_token_is_its_id_and_its_secret() -> None:
    key_id, secret = IDS.key(), IDS.secret()
    assert len(secret) == 43
    assert set(secret) <= set(string.ascii_letters + string.digits)
    assert token(key_id, secret) == f"ftd_{key_id}_{secret}"
    assert parse(token(key_id, secret)) == (key_id, secret)


@pytest.mark.parametrize(
    "given_",
    ["", "ftd", "ftd-x", "ftd__", "ftd_a_b", f"ftd_a_{'b' * 44}", f"sk_a_{'b' * 43}",
     f"ftd_a_b_{'c' * 43}", f"x_ftd_a_{'b' * 43}"],
)  # fmt: skip
def test_what_is_no_token(given_: str) -> None:
    assert parse(given_) is None


@given(st.text())
def test_anything_may_be_sent_for_a_token(given_: str) -> None:
    parse(given_)
    assert len(digest(given_)) == 64


def test_a_key_lets_in_until_it_is_revoked_or_has_expired() -> None:
    key = Key(id="a", name="n", project="p", scopes=USUAL, sha256="0", created_at=0)
    assert key.valid(10**10)
    assert not Key(**fields(key) | {"revoked_at": 5}).valid(0)
    expires = Key(**fields(key) | {"expires_at": 100})
    assert expires.valid(99)
    assert not expires.valid(100)


def fields(key: Key) -> dict[str, object]:
    return {name: getattr(key, name) for name in Key.__slots__}


def test_what_is_given_without_a_word_administers_nothing() -> None:
    assert Scope.ADMIN not in USUAL
