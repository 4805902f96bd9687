"""A client's key makes one thing, whoever comes first and however often."""

import asyncio

import pytest

from ftd.core.errors import FtdError
from ftd.core.once import KEPT_S, Once, Repeated
from ftd.store import idempotency
from ftd.store.db import Transaction
from ftd.store.store import Store

ONCE = Once.of("key", "asked")


async def claimed(store: Store, once: Once, made: str, *, project: str = "p", now: int = 0) -> str:
    """What is there afterwards."""
    try:
        await store.db.write(lambda tx: idempotency.claim(tx, project, once, made, now))
    except Repeated as before:
        return before.made
    return made


async def test_the_first_of_many_makes_it(store: Store) -> None:
    made = await asyncio.gather(*(claimed(store, ONCE, f"job-{n}") for n in range(20)))
    assert set(made) == {"job-0"}


async def test_a_key_is_its_projects(store: Store) -> None:
    assert await claimed(store, ONCE, "a") == "a"
    assert await claimed(store, ONCE, "b", project="other") == "b"


async def test_another_request_under_the_same_key_is_a_mistake(store: Store) -> None:
    await claimed(store, ONCE, "a")
    with pytest.raises(FtdError, match="came with another request") as caught:
        await claimed(store, Once.of("key", "as", "ked"), "b")
    assert caught.value.code == "idempotency_key_reused"


async def test_a_day_later_it_is_forgotten(store: Store) -> None:
    await claimed(store, ONCE, "a")
    assert await claimed(store, ONCE, "b", now=KEPT_S - 1) == "a"
    assert await claimed(store, ONCE, "b", now=KEPT_S) == "b"


async def test_what_was_not_made_may_be_made_again(store: Store) -> None:
    def work(tx: Transaction) -> None:
        idempotency.claim(tx, "p", ONCE, "a", 0)
        raise LookupError

    with pytest.raises(LookupError):
        await store.db.write(work)
    assert await claimed(store, ONCE, "b") == "b"
    await store.db.write(lambda tx: idempotency.forget(tx, "b"))
    assert await claimed(store, ONCE, "c") == "c"


@pytest.mark.parametrize("key", ["", "a" * 256, "a\nb", "\u0633"])
def test_what_is_no_key(key: str) -> None:
    with pytest.raises(FtdError, match="1 to 255"):
        Once.of(key)
