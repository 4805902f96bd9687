"""JSON bodies, read with a limit and without mercy for what is no JSON."""

from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json

from ftd.core.errors import FtdError, Kind, invalid
from ftd.service.door import Door


class StrictRequest(Request):
    """A request whose JSON has no NaN, no lone surrogate, no abysmal depth and a bounded size."""

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The body's pieces. Raises TOO_LARGE past `limits.body_bytes`."""
        door: Door = self.app.state.door
        limit = door.settings.limits.body_bytes
        received = 0
        async for piece in super().stream():
            received += len(piece)
            if received > limit:
                raise FtdError(Kind.TOO_LARGE, f"The request body is larger than {limit:,} bytes.")
            yield piece

    async def json(self) -> Any:
        """The parsed body. Raises INVALID with the place where the parser stopped."""
        try:
            return from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:
            raise invalid(
                f"We could not parse the JSON body of your request: {error}.", code="invalid_json"
            ) from error


class StrictRoute(APIRoute):
    """A route that takes a StrictRequest."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return strictly
