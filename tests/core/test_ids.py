"""Identifiers in OpenAI's forms."""

import random
import re
from itertools import islice

from ftd.core.ids import ALPHABET, Ids


def test_forms() -> None:
    ids = Ids(random.Random(1).randbytes)
    assert re.fullmatch(r"ftjob-[A-Za-z0-9]{24}", ids.job())
    assert re.fullmatch(r"file-[A-Za-z0-9]{24}", ids.file())
    assert re.fullmatch(r"ftevent-[A-Za-z0-9]{24}", ids.event())
    assert re.fullmatch(r"ftckpt_[A-Za-z0-9]{24}", ids.checkpoint())
    assert re.fullmatch(r"[A-Za-z0-9]{8}", ids.model())
    assert re.fullmatch(r"[A-Za-z0-9]{12}", ids.key())
    assert re.fullmatch(r"[A-Za-z0-9]{43}", ids.secret())
    assert all(0 <= ids.seed() <= 0x7FFFFFFF for _ in range(100))


def test_the_same_chance_gives_the_same_ids() -> None:
    assert Ids(random.Random(7).randbytes).job() == Ids(random.Random(7).randbytes).job()


def test_ids_of_one_breath_differ_at_their_ends_and_are_in_order() -> None:
    ids = Ids(random.Random(1).randbytes)
    first, second = (list(islice(ids.events(), 5000)) for _ in range(2))
    assert first == sorted(first)
    assert len(set(first + second)) == 10_000
    assert {id_[:26] for id_ in first} == {first[0][:26]}
    assert all(re.fullmatch(r"ftevent-[A-Za-z0-9]{24}", id_) for id_ in first)


def test_every_character_is_as_likely_as_every_other() -> None:
    """Of 256 bytes 248 are four for each of the 62 characters, and the others are thrown away."""
    every = "".join(Ids(bytes([byte]).__mul__).model()[0] for byte in range(248))
    assert {every.count(letter) for letter in ALPHABET} == {4}
    unfair = iter([bytes(range(248, 256)), b"\0" * 12])
    assert Ids(lambda _: next(unfair)).model() == "a" * 8
