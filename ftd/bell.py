"""A wake-up and nothing more: rows are the truth, a ring only says "look"."""

import asyncio


class Bell:
    """Rings for everyone who listens; belongs to one event loop.

    Take `listen()` before reading and wait on it after: a ring in between is then not missed.
    """

    def __init__(self) -> None:
        self._heard = asyncio.Event()

    def listen(self) -> asyncio.Event:
        """The event that the next ring sets."""
        return self._heard

    def ring(self) -> None:
        heard, self._heard = self._heard, asyncio.Event()
        heard.set()


async def wait(heard: asyncio.Event, timeout_s: float) -> bool:
    """Wait for a ring, at most so long; False when the time was up."""
    try:
        await asyncio.wait_for(heard.wait(), timeout_s)
    except TimeoutError:
        return False
    return True
