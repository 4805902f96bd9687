"""What one head may hold, and what one key may ask and for how long: bounds before every route."""

import math
from contextlib import nullcontext

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ftd.api.rest import errors
from ftd.core.errors import FtdError, Kind, invalid
from ftd.core.rates import Bucket
from ftd.service.keys import Keys
from ftd.service.rates import Rates
from ftd.service.tenure import while_held

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 100


class Heads:
    """Refuses a head beyond MAX_HEAD_BYTES or MAX_HEADERS, of another HTTP, with two ends, or of a
    body that is to be inflated.

    The protocol stops one that is still incomplete there; this one came in a single piece.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            _check(scope)
        await self._app(scope, receive, send)


def _check(scope: Scope) -> None:
    if scope["http_version"] not in ("1.0", "1.1"):
        raise invalid("ftd speaks HTTP/1.1.")
    headers = scope["headers"]
    names = {name for name, _ in headers}
    if {b"transfer-encoding", b"content-length"} <= names:
        # Whoever stands before us may have gone by the other one (request smuggling).
        raise invalid("A request has a Content-Length or a Transfer-Encoding, not both.")
    if b"content-encoding" in names and any(map(_coded, headers)):
        # Nothing here inflates it; it would be told to be no JSON.
        raise invalid("ftd takes bodies as they are: send this one without a Content-Encoding.")
    size = len(scope["raw_path"]) + len(scope["query_string"])
    size += sum(len(name) + len(value) + 4 for name, value in headers)
    if len(headers) > MAX_HEADERS or size > MAX_HEAD_BYTES:
        raise FtdError(
            Kind.HEAD_TOO_LARGE,
            f"A request's head has at most {MAX_HEADERS} headers and {MAX_HEAD_BYTES:,} bytes.",
        )


def _coded(header: tuple[bytes, bytes]) -> bool:
    name, value = header
    return name == b"content-encoding" and value.strip().lower() not in (b"", b"identity")


class Allowance:
    """Counts a key's requests, and says in OpenAI's headers how many are left.

    It stands behind Authentication: who has no key is refused at less cost than counting.
    """

    def __init__(self, app: ASGIApp, rates: Rates) -> None:
        self._app = app
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        actor = scope.get("state", {}).get("actor")
        counted = None if actor is None else self._rates.count(actor)
        if counted is None:
            await self._app(scope, receive, send)
            return
        said = _said(counted.bucket)

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(said)
            await send(message)

        refused = counted.refused
        answering = self._app if refused is None else errors.response(refused)
        await answering(scope, receive, telling)


class Tenure:
    """Breaks off what outlives its key. It stands behind Authentication."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        actor = scope.get("state", {}).get("actor")
        async with nullcontext() if actor is None else while_held(self._keys, actor):
            await self._app(scope, receive, send)


def _said(bucket: Bucket) -> dict[str, str]:
    return {
        "x-ratelimit-limit-requests": str(bucket.per_minute),
        "x-ratelimit-remaining-requests": str(int(bucket.left)),
        "x-ratelimit-reset-requests": f"{math.ceil(bucket.full_s * 1000)}ms",
    }
