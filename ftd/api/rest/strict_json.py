"""JSON bodies, read with limits and without mercy for what is no JSON."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from ftd.config import Limits
from ftd.core import strict
from ftd.core.errors import FtdError, Kind, invalid
from ftd.service.door import Door

LARGE_BYTES = 64 * 1024  # from here on a body is parsed in a thread


class StrictRequest(Request):
    """A request whose JSON is strict."""

    def limit(self, limits: Limits) -> int:
        """How many bytes a body may have."""
        return limits.body_bytes

    @property
    def _limits(self) -> Limits:
        door: Door = self.app.state.door
        return door.settings.limits

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The body's pieces. Raises TOO_LARGE past the limit."""
        limit = self.limit(self._limits)
        received = 0
        async for piece in super().stream():
            received += len(piece)
            if received > limit:
                raise FtdError(Kind.TOO_LARGE, f"The request body is larger than {limit:,} bytes.")
            yield piece

    async def json(self) -> Any:
        """The parsed body. Raises INVALID with the place where the parser stopped."""
        if not hasattr(self, "_json"):
            body = await self.body()
            if len(body) > LARGE_BYTES:
                self._json = await asyncio.to_thread(self._parse, body)
            else:
                self._json = self._parse(body)
        return self._json

    def _parse(self, body: bytes) -> Any:
        limits = self._limits
        try:
            return strict.parse(body, values=limits.json_values, depth=limits.json_depth)
        except ValueError as error:
            raise invalid(
                f"We could not parse the JSON body of your request: {error}.", code="invalid_json"
            ) from error


class StrictRoute(APIRoute):
    """A route that takes a StrictRequest."""

    request_class: type[StrictRequest] = StrictRequest

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            if not isinstance(request, StrictRequest):
                request = self.request_class(request.scope, request.receive)
            return await handle(request)

        return strictly
