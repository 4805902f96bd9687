"""What occurs more than once among records of a ledger: texts, examples, examples of two files."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ftd.worker.ledger import GROUPS, Ledger

# Whether the examples at two byte offsets are equal.
Same = Callable[[int, int], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Commonest:
    """The hash that occurs most often: how often, and where for the first time."""

    distinct: int  # hashes in all
    hash: int = 0
    count: int = 0
    offset: int = 0


def commonest(ledger: Ledger) -> Commonest:
    """Over records (hash, offset).

    Exact but for chance: two texts with the same 64-bit hash count as one. Among ten million
    different texts that has a chance of one in 370,000 (the birthday bound, n^2 / 2^65).
    """
    distinct = count = 0
    top = (0, 0)
    for group in range(GROUPS):
        counts: Counter[int] = Counter()
        for block in ledger.blocks(group):
            counts.update(block[::2])
        distinct += len(counts)
        for hash_, times in counts.most_common(1):
            if times > count:
                count = times
                top = next((known, at) for known, at in ledger.records(group) if known == hash_)
    return Commonest(distinct=distinct, hash=top[0], count=count, offset=top[1])


def duplicates(ledger: Ledger, same: Same) -> Iterator[int]:
    """The lines of examples that occurred before, over records (hash, offset, line).

    Every pair is confirmed by `same`. A chance collision can hide a repeat, never invent one.
    """
    for group in range(GROUPS):
        first: dict[int, int] = {}
        for hash_, offset, line in ledger.records(group):
            before = first.setdefault(hash_, offset)
            if before != offset and same(before, offset):
                yield line


def shared(ledger: Ledger, others: Ledger, same: Same) -> Iterator[int]:
    """The lines of examples that the other file has too; as `duplicates` otherwise.

    `others` holds records (hash, offset); `same` takes its offset first.
    """
    for group in range(GROUPS):
        ours = {hash_ for hash_, _, _ in ledger.records(group)}
        theirs: dict[int, int] = {}
        for hash_, offset in others.records(group):
            if hash_ in ours:
                theirs.setdefault(hash_, offset)
        for hash_, offset, line in ledger.records(group):
            there = theirs.get(hash_)
            if there is not None and same(there, offset):
                yield line
