"""When memory of a device is in use and nobody has it."""

from dataclasses import replace

import pytest

from ftd.core.device import Device, Reading, stranded_bytes

GIB = 2**30
CARD = Device(id="GPU-1", kind="cuda", name="a card", memory_bytes=80 * GIB)
READING = Reading(device=CARD, used_bytes=31 * GIB, owners=0)


def test_memory_that_no_process_has_is_stranded() -> None:
    assert stranded_bytes(READING, GIB) == 30 * GIB


@pytest.mark.parametrize(
    "reading",
    [
        replace(READING, owners=1),  # somebody else's program: a job may fit beside it
        replace(READING, owners=None),  # nobody knows whose it is
        replace(READING, used_bytes=None),
        replace(READING, used_bytes=GIB),
        replace(READING, used_bytes=GIB // 2),
    ],
)
def test_what_somebody_has_or_nobody_knows_is_not(reading: Reading) -> None:
    assert stranded_bytes(reading, GIB) == 0


def test_a_little_does_not_matter() -> None:
    fiftieth = CARD.memory_bytes // 50
    assert stranded_bytes(replace(READING, used_bytes=GIB + fiftieth), GIB) == 0
    assert stranded_bytes(replace(READING, used_bytes=GIB + fiftieth + 1), GIB) == fiftieth + 1
    small = Device(id="GPU-2", kind="cuda", name="a small card", memory_bytes=4 * GIB)
    assert stranded_bytes(Reading(device=small, used_bytes=GIB // 2, owners=0), 0) == 0
    assert stranded_bytes(Reading(device=small, used_bytes=GIB, owners=0), 0) == GIB
