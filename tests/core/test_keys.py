"""API keys."""

import random

from ftd.core.ids import ALPHABET
from ftd.core.keys import mint, same, shown


def test_a_key_is_itself_and_no_other() -> None:
    key = mint(random.Random(1).choice, ALPHABET)
    assert same(key, key)
    assert not same(key[:-1], key)
    assert not same("", key)
    assert not same("schlüssel", key)


def test_an_error_shows_only_the_ends_of_a_key() -> None:
    assert shown("ftd-abcdefghijklmnop") == "ftd-...mnop"
    assert shown("short") == "..."
