"""A wake-up and nothing more: rows are the truth, a ring only says "look"."""

import asyncio
from collections.abc import Iterable
from weakref import WeakValueDictionary

SCHEDULE = "schedule"  # what may begin or end a job, or an inference worker


class Bell:
    """Rings for everyone who listens; belongs to one event loop.

    Take `listen()` before reading and wait on it after: a ring in between is then not missed. A
    ring may be about some topics alone (a job's id, or SCHEDULE): who listens to others sleeps on,
    so that a hundred watchers cost nothing while another job speaks.
    """

    def __init__(self) -> None:
        self._heard = asyncio.Event()
        # An event lives as long as somebody listens to it.
        self._topics: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    def listen(self, topic: str | None = None) -> asyncio.Event:
        """The event that the next ring sets; with a topic, the next that may be about it."""
        if topic is None:
            return self._heard
        heard = self._topics.get(topic)
        if heard is None:
            heard = self._topics[topic] = asyncio.Event()
        return heard

    def ring(self, about: Iterable[str] | None = None) -> None:
        """Wake who listens to one of these topics, and who listens to all; by default everyone."""
        heard, self._heard = self._heard, asyncio.Event()
        heard.set()
        for topic in list(self._topics) if about is None else about:
            if (told := self._topics.pop(topic, None)) is not None:
                told.set()


async def wait(heard: asyncio.Event, timeout_s: float) -> bool:
    """Wait for a ring, at most so long; False when the time was up.

    Not by asyncio.wait_for: before Python 3.12 it forgets that it was cancelled when the bell rings
    in the same moment, and whoever waits again and again could not be ended.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await heard.wait()
    except TimeoutError:
        return False
    return True
