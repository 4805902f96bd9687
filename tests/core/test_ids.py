"""Identifiers in OpenAI's forms."""

import random
import re

from ftd.core.ids import Ids


def test_forms() -> None:
    ids = Ids(random.Random(1).choice)
    assert re.fullmatch(r"ftjob-[A-Za-z0-9]{24}", ids.job())
    assert re.fullmatch(r"file-[A-Za-z0-9]{24}", ids.file())
    assert re.fullmatch(r"ftevent-[A-Za-z0-9]{24}", ids.event())
    assert re.fullmatch(r"ftckpt_[A-Za-z0-9]{24}", ids.checkpoint())
    assert re.fullmatch(r"[A-Za-z0-9]{8}", ids.model())
    assert all(0 <= ids.seed() <= 0x7FFFFFFF for _ in range(100))


def test_the_same_chance_gives_the_same_ids() -> None:
    assert Ids(random.Random(7).choice).job() == Ids(random.Random(7).choice).job()
