"""What a key has begun ends with the key: no stream outlives it by more than LOOK_S."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ftd.core.errors import FtdError, Kind
from ftd.service.actor import Actor
from ftd.service.keys import Keys

LOOK_S = 5.0  # between looks at a key; in it, the call that revokes a key has ended itself


@asynccontextmanager
async def while_held(keys: Keys, actor: Actor) -> AsyncIterator[None]:
    """Cancels what is done inside when the actor's key is revoked or expires, and raises
    UNAUTHENTICATED in its place."""
    loop = asyncio.get_running_loop()
    tenure = asyncio.timeout(None)
    next_look: asyncio.TimerHandle

    def look() -> None:
        nonlocal next_look
        if keys.holds(actor):
            next_look = loop.call_later(LOOK_S, look)
        else:
            tenure.reschedule(loop.time())

    next_look = loop.call_later(LOOK_S, look)
    try:
        async with tenure:
            yield
    except TimeoutError:
        if not tenure.expired():
            raise
        raise FtdError(
            Kind.UNAUTHENTICATED,
            "The API key was revoked or has expired meanwhile.",
            code="invalid_api_key",
        ) from None
    finally:
        next_look.cancel()
