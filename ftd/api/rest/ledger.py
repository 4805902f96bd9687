"""Every request gets an id, an answer in our own words, a measurement and a log line."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from http import HTTPMethod

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ftd.api.rest import errors
from ftd.core.errors import FtdError, Kind

log = logging.getLogger(__name__)

# (route template, method, status, seconds)
Observe = Callable[[str, str, int, float], None]

BODY_IDLE_S = 60.0  # a body that pauses longer has stalled
LINGER_S = 30.0  # how long a refused client may go on sending; nginx's lingering_time
CLIENT_GONE = 499  # nginx's status for a client that did not wait for its answer
UNMATCHED = "unmatched"  # the route of a path that has none

_METHODS = frozenset(HTTPMethod)


class Ledger:
    """Stands before everything of ours: what is raised behind it becomes an answer here."""

    def __init__(self, app: ASGIApp, observe: Observe, request_id: Callable[[], str]) -> None:
        self._app = app
        self._observe = observe
        self._request_id = request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        exchange = _Exchange(self._request_id(), scope, receive, send)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            pass  # recorded as CLIENT_GONE
        except FtdError as error:
            await exchange.answer(error)
        except Exception:
            log.exception("request failed", extra={"request": exchange.id, "path": scope["path"]})
            await exchange.answer(errors.internal(exchange.id))
        finally:
            self._record(scope, exchange, time.monotonic() - started)

    def _record(self, scope: Scope, exchange: "_Exchange", seconds: float) -> None:
        route = getattr(scope.get("route"), "path", UNMATCHED)
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        status = exchange.status or CLIENT_GONE
        self._observe(route, method, status, seconds)
        log.log(
            logging.DEBUG if status < 400 else logging.INFO,
            "request",
            extra={
                "request": exchange.id,
                "method": method,
                "path": scope["path"],  # never the query: people put secrets there
                "status": status,
                "seconds": round(seconds, 4),
            },
        )


class _Exchange:
    """One request and its answer, on their way through."""

    def __init__(self, request_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        self.id = request_id
        self.status: int | None = None
        self._scope = scope
        self._receive = receive
        self._send = send
        self._awaits_body = any(
            name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
            for name, value in scope["headers"]
        )

    async def receive(self) -> Message:
        """The next message; raises TIMED_OUT when a body stalls."""
        if not self._awaits_body:
            return await self._receive()
        try:
            async with asyncio.timeout(BODY_IDLE_S):
                message = await self._receive()
        except TimeoutError:
            raise FtdError(
                Kind.TIMED_OUT, f"No byte of the request came for {BODY_IDLE_S:g} seconds."
            ) from None
        self._awaits_body = message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.id
            if self._refuses_body():
                headers["connection"] = "close"
        elif self._refuses_body() and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body"}
        await self._send(message)

    def _refuses_body(self) -> bool:
        """Whether this is an error's answer to a request that nobody has read to its end."""
        return self._awaits_body and self.status is not None and self.status >= 400

    async def _linger(self) -> None:
        """Take what a refused client still sends.

        To hang up on it would be a reset, in which most clients lose the answer.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while self._awaits_body:
                    message = await self._receive()
                    self._awaits_body = message.get("more_body", False)

    async def answer(self, error: FtdError) -> None:
        """Say what went wrong, unless an answer is under way already: then it just breaks off."""
        if self.status is None:
            await errors.response(error)(self._scope, self._receive, self.send)
