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
from ftd.host.redact import without_keys
from ftd.service import audit
from ftd.service.rules import ROUTES

log = logging.getLogger(__name__)

# (route template, method, status, seconds)
Observe = Callable[[str, str, int, float], None]

BODY_WINDOW_S = 30.0  # over which a body's rate is averaged; one that pauses longer has stalled
LINGER_S = 30.0  # how long a refused client may go on sending; nginx's lingering_time
CLIENT_GONE = 499  # nginx's status for a client that did not wait for its answer
UNMATCHED = "unmatched"  # the route of a path that has none
PATH_CHARACTERS = 200  # of a path, in a log line: anybody may ask for any

_METHODS = frozenset(HTTPMethod)
_REFUSALS = frozenset(
    kind.http_status for kind in (Kind.UNAUTHENTICATED, Kind.FORBIDDEN, Kind.MISDIRECTED)
)


class Ledger:
    """Stands before everything of ours: what is raised behind it becomes an answer here."""

    def __init__(
        self,
        app: ASGIApp,
        observe: Observe,
        request_id: Callable[[], str],
        body_bytes_per_s: int,
    ) -> None:
        self._app = app
        self._observe = observe
        self._request_id = request_id
        self._body_bytes_per_s = body_bytes_per_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        audit.begin()
        pace = _Pace(self._body_bytes_per_s)
        exchange = _Exchange(self._request_id(), scope, receive, send, pace)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            pass  # recorded as CLIENT_GONE
        except FtdError as error:
            await exchange.answer(error)
        except Exception:
            log.exception("request failed", extra={"request": exchange.id, "path": _path(scope)})
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
                "path": _path(scope),  # never the query: people put secrets there
                "status": status,
                "seconds": round(seconds, 4),
            },
        )
        call = f"{method} {scope['path'] if route == UNMATCHED else route}"
        audit.ended(
            call,
            needs=ROUTES.get(call),
            actor=scope.get("state", {}).get("actor"),
            outcome=str(status),
            refused=status in _REFUSALS,
            peer=scope["client"][0] if scope.get("client") else None,
        )


def _path(scope: Scope) -> str:
    """No key in it, which a cut would make unknown to who hides them later."""
    return without_keys(scope["path"])[:PATH_CHARACTERS]


class _Exchange:
    """One request and its answer, on their way through."""

    def __init__(
        self, request_id: str, scope: Scope, receive: Receive, send: Send, pace: "_Pace"
    ) -> None:
        self.id = request_id
        self._pace = pace
        self.status: int | None = None
        self._scope = scope
        self._receive = receive
        self._send = send
        self._awaits_body = any(
            name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
            for name, value in scope["headers"]
        )

    async def receive(self) -> Message:
        """The next message; raises TIMED_OUT when a body stalls or trickles."""
        if not self._awaits_body:
            return await self._receive()
        message = await self._pace.next(self._receive)
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
        else:
            log.info("answer broken off", extra={"request": self.id, "why": error.kind.name})


class _Pace:
    """How fast a body comes while we wait for it; what we do with its pieces does not count."""

    def __init__(self, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._waited_s = 0.0
        self._received = 0

    async def next(self, receive: Receive) -> Message:
        """The next message. Raises TIMED_OUT after BODY_WINDOW_S in which too little came."""
        while True:
            started = time.monotonic()
            try:
                async with asyncio.timeout(BODY_WINDOW_S - self._waited_s):
                    message = await receive()
            except TimeoutError:
                self._next_window()
                continue
            self._waited_s += time.monotonic() - started
            self._received += len(message.get("body", b""))
            if self._waited_s >= BODY_WINDOW_S:
                self._next_window()
            return message

    def _next_window(self) -> None:
        if self._received == 0:
            raise FtdError(
                Kind.TIMED_OUT, f"No byte of the request came for {BODY_WINDOW_S:g} seconds."
            )
        if self._received < self._bytes_per_s * BODY_WINDOW_S:
            raise FtdError(
                Kind.TIMED_OUT,
                f"The request's body comes too slowly: {self._received:,} bytes in "
                f"{BODY_WINDOW_S:g} seconds; {self._bytes_per_s:,} a second are wanted.",
            )
        self._waited_s = 0.0
        self._received = 0
