"""What is done for a key ends with it, and what ends by itself is left alone."""

import asyncio

import pytest

from ftd.core.errors import FtdError, Kind
from ftd.service import tenure
from ftd.service.actor import Actor
from ftd.service.keys import Keys
from ftd.service.tenure import while_held

ACTOR = Actor(project="default", name="a", key_id="1")


class Held(Keys):
    """Keys of which all are valid, or none."""

    def __init__(self) -> None:
        self.valid = True
        self.looked = 0

    def holds(self, actor: Actor) -> bool:
        assert actor is ACTOR
        self.looked += 1
        return self.valid


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    monkeypatch.setattr(tenure, "LOOK_S", 0.005)
    return Held()


async def test_it_is_looked_at_again_and_again_until_it_is_gone(held: Held) -> None:
    async def endless() -> None:
        async with while_held(held, ACTOR):
            await asyncio.Event().wait()

    working = asyncio.create_task(endless())
    async with asyncio.timeout(5):
        while held.looked < 3:  # noqa: ASYNC110 - the other side sets no event
            await asyncio.sleep(0.001)
    held.valid = False
    with pytest.raises(FtdError, match="revoked or has expired") as caught:
        await asyncio.wait_for(working, 5)
    assert caught.value.kind is Kind.UNAUTHENTICATED


async def test_what_ends_before_is_not_disturbed_and_looked_at_no_more(held: Held) -> None:
    async with while_held(held, ACTOR):
        held.valid = False
    await asyncio.sleep(0.02)  # four looks
    assert held.looked == 0


async def test_its_own_failures_are_its_own(held: Held) -> None:
    with pytest.raises(TimeoutError, match="another"):
        async with while_held(held, ACTOR):
            raise TimeoutError("another")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001), while_held(held, ACTOR):
            await asyncio.Event().wait()
