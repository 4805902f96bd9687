from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from ftd.worker import repeats
from ftd.worker.ledger import Ledger

# Few hashes that fall into few groups, so that they repeat.
NEAR = st.integers(0, 3).map(lambda number: number << 55)
MEMORY = st.sampled_from([1, 200, 10**6])


def always(one: int, other: int) -> bool:
    return True


@settings(max_examples=50)
@given(hashes=st.lists(NEAR, max_size=40), memory_bytes=MEMORY)
def test_the_commonest_is_found_with_its_first_place(hashes: list[int], memory_bytes: int) -> None:
    with Ledger(2, memory_bytes=memory_bytes) as ledger:
        for offset, hash_ in enumerate(hashes):
            ledger.add(hash_, offset)
        found = repeats.commonest(ledger)
    assert found.distinct == len(set(hashes))
    assert found.count == max(map(hashes.count, hashes), default=0)
    if hashes:
        assert hashes.count(found.hash) == found.count
        assert hashes.index(found.hash) == found.offset


@settings(max_examples=50)
@given(hashes=st.lists(NEAR, max_size=40), memory_bytes=MEMORY)
def test_duplicates_are_all_but_the_first(hashes: list[int], memory_bytes: int) -> None:
    with Ledger(3, memory_bytes=memory_bytes) as ledger:
        for line, hash_ in enumerate(hashes, start=1):
            ledger.add(hash_, line * 10, line)
        lines = list(repeats.duplicates(ledger, always))
    again = [line for line, hash_ in enumerate(hashes, start=1) if hash_ in hashes[: line - 1]]
    assert sorted(lines) == again


@settings(max_examples=50)
@given(ours=st.lists(NEAR, max_size=20), theirs=st.lists(NEAR, max_size=20))
def test_shared_are_ours_that_they_have(ours: list[int], theirs: list[int]) -> None:
    with Ledger(3) as ledger, Ledger(2, memory_bytes=1) as others:
        for line, hash_ in enumerate(ours, start=1):
            ledger.add(hash_, line * 10, line)
        for hash_, offset in zip(theirs, count(1000)):
            others.add(hash_, offset)
        lines = list(repeats.shared(ledger, others, lambda there, here: there >= 1000 > here))
    assert sorted(lines) == [line for line, hash_ in enumerate(ours, start=1) if hash_ in theirs]


def test_a_collision_is_no_repeat() -> None:
    with Ledger(3) as ledger:
        for line in (1, 2, 3):
            ledger.add(7, line * 10, line)
        assert list(repeats.duplicates(ledger, lambda one, other: other == 30)) == [3]


def test_of_nothing_nothing_is_common() -> None:
    with Ledger(2) as ledger:
        assert repeats.commonest(ledger) == repeats.Commonest(distinct=0)
