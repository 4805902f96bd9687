from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftd.worker.ledger import GROUPS, Ledger

HASH = st.integers(0, 2**64 - 1)
# Few hashes that fall into few groups, so that they repeat.
NEAR = st.integers(0, 3).map(lambda number: number << 55)


def all_records(ledger: Ledger) -> Iterator[tuple[int, ...]]:
    for group in range(GROUPS):
        yield from ledger.records(group)


@given(hashes=st.lists(HASH | NEAR, max_size=60), memory_bytes=st.sampled_from([1, 64, 10**6]))
def test_records_come_back_by_group_in_the_order_of_adding(
    hashes: list[int], memory_bytes: int
) -> None:
    with Ledger(2, memory_bytes=memory_bytes) as ledger:
        for position, hash_ in enumerate(hashes):
            ledger.add(hash_, position)
        back = list(all_records(ledger))
        assert back == sorted(
            zip(hashes, range(len(hashes)), strict=True), key=lambda one: (one[0] >> 56, one[1])
        )


@pytest.mark.parametrize("memory_bytes", [1, 10**6])
def test_an_empty_ledger_has_nothing(memory_bytes: int) -> None:
    with Ledger(2, memory_bytes=memory_bytes) as ledger:
        assert list(all_records(ledger)) == []
