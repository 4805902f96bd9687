"""Who is woken by which ring."""

import asyncio
import gc

import pytest

from ftd.bell import SCHEDULE, Bell, wait
from tests.garbage import forget_earlier


async def test_a_ring_wakes_everyone_who_took_it_before() -> None:
    bell = Bell()
    heard = [bell.listen(), bell.listen("ftjob-1"), bell.listen(SCHEDULE)]
    bell.ring()
    assert all(event.is_set() for event in heard)
    assert not bell.listen().is_set()
    assert not bell.listen("ftjob-1").is_set()


async def test_a_ring_about_something_wakes_those_who_listen_to_it_or_to_all() -> None:
    bell = Bell()
    all_, mine, too, others = (
        bell.listen(), bell.listen("ftjob-1"), bell.listen("ftjob-1"), bell.listen("ftjob-2")
    )  # fmt: skip
    bell.ring({"ftjob-1", SCHEDULE})
    assert (all_.is_set(), mine.is_set(), too.is_set()) == (True, True, True)
    assert not others.is_set()
    bell.ring({"ftjob-2"})
    assert others.is_set()


async def test_a_ring_about_nothing_wakes_those_who_listen_to_all() -> None:
    bell = Bell()
    all_, mine = bell.listen(), bell.listen("ftjob-1")
    bell.ring(())
    assert all_.is_set()
    assert not mine.is_set()


async def test_nothing_is_kept_of_those_who_have_gone() -> None:
    forget_earlier()
    bell = Bell()
    for number in range(1000):
        await wait(bell.listen(f"ftjob-{number}"), 0)
    gc.collect()
    assert len(bell._topics) <= 1, "the loop may yet hold what it ran last"


async def test_a_ring_in_the_moment_of_a_cancel_does_not_undo_it() -> None:
    bell = Bell()
    waiting = asyncio.create_task(wait(bell.listen(), 10))
    await asyncio.sleep(0)
    bell.ring()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_the_time_can_be_up() -> None:
    bell = Bell()
    assert not await wait(bell.listen(), 0)
    heard = bell.listen()
    bell.ring()
    assert await wait(heard, 10)
