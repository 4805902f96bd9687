"""What one head may hold, and what one key may ask: bounds that stand before every route."""

import math
import time
from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ftd.api.rest import errors
from ftd.core.errors import FtdError, Kind, invalid
from ftd.core.rates import Bucket

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 100


class Heads:
    """Refuses a head beyond MAX_HEAD_BYTES or MAX_HEADERS, of another HTTP, or with two ends.

    The protocol stops one that is still incomplete there; this one came in a single piece.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if scope["http_version"] not in ("1.0", "1.1"):
                raise invalid("ftd speaks HTTP/1.1.")
            headers = scope["headers"]
            if {b"transfer-encoding", b"content-length"} <= {name for name, _ in headers}:
                # Whoever stands before us may have gone by the other one (request smuggling).
                raise invalid("A request has a Content-Length or a Transfer-Encoding, not both.")
            size = len(scope["raw_path"]) + len(scope["query_string"])
            size += sum(len(name) + len(value) + 4 for name, value in headers)
            if len(headers) > MAX_HEADERS or size > MAX_HEAD_BYTES:
                raise FtdError(
                    Kind.HEAD_TOO_LARGE,
                    f"A request's head has at most {MAX_HEADERS} headers and "
                    f"{MAX_HEAD_BYTES:,} bytes.",
                )
        await self._app(scope, receive, send)


class Rates:
    """Counts a key's requests, and says in OpenAI's headers how many are left.

    It stands behind Authentication: who has no key is refused at less cost than counting. The
    buckets are as many as there are keys, and begin full with the daemon.
    """

    def __init__(
        self, app: ASGIApp, per_minute: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._per_minute = per_minute
        self._clock = clock
        self._buckets: dict[object, Bucket] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        actor = scope.get("state", {}).get("actor")
        if actor is None or self._per_minute == 0:
            await self._app(scope, receive, send)
            return
        now = self._clock()
        bucket = self._buckets.setdefault(
            (actor.project, actor.key_id), Bucket.full(self._per_minute, now)
        )
        let_in = bucket.take(now)
        said = _said(bucket)

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(said)
            await send(message)

        if let_in:
            await self._app(scope, receive, counted)
        else:
            await _refusal(bucket)(scope, receive, counted)


def _refusal(bucket: Bucket) -> ASGIApp:
    wait_s = max(1, math.ceil(bucket.next_s))
    refused = FtdError(
        Kind.RATE_LIMITED,
        f"Rate limit reached for requests per minute: {bucket.per_minute}. "
        f"Please try again in {wait_s}s.",
        code="rate_limit_exceeded",
    )
    return errors.response(refused, {"Retry-After": str(wait_s)})


def _said(bucket: Bucket) -> dict[str, str]:
    return {
        "x-ratelimit-limit-requests": str(bucket.per_minute),
        "x-ratelimit-remaining-requests": str(int(bucket.left)),
        "x-ratelimit-reset-requests": f"{math.ceil(bucket.full_s * 1000)}ms",
    }
