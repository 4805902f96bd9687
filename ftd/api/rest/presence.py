"""Work for a client ends when the client goes: nobody computes an answer that nobody awaits."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

# Sends a whole answer; cancelled where the client goes before it is complete.
Work = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]


class Attended(Response):
    """Answers by doing work for as long as its client is there.

    What the work raises before it has sent anything becomes an error's answer, as from any route.
    The request's body must have been read. Raises ClientDisconnect where the client went.
    """

    def __init__(self, work: Work) -> None:
        super().__init__()
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        working = asyncio.create_task(self._work(scope, receive, send))
        watching = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise ClientDisconnect
            working.result()
        finally:
            await _ended(working)
            await _ended(watching)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def stream(
    send: Send, *, status: int, headers: list[tuple[bytes, bytes]]
) -> Callable[[bytes], Awaitable[None]]:
    """Begin an answer of unknown length; returns what sends a piece of it.

    A piece waits until the client has taken most of the earlier ones, so that a slow reader
    costs no memory. An empty piece ends the answer.
    """
    await send({"type": "http.response.start", "status": status, "headers": headers})

    async def piece(data: bytes) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": bool(data)})

    return piece
