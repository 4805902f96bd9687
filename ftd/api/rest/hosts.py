"""Who is called, and by which page: a request for another host, or from another site, stops here.

A page on the web can make its visitor's browser call 127.0.0.1, and by DNS rebinding read what it
answers. Such a request names the page's own host, or its origin. What a name resolves to tells
nothing, so names are compared as they were sent; an address in digits cannot be rebound, and is
right where it is the one that the connection came to.
"""

import ipaddress
import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from ftd.core.errors import FtdError, Kind, invalid

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::[0-9]{0,5})?")


class Hosts:
    """Lets requests through that are meant for us. It stands before keys are looked at.

    The headers themselves are judged, never a URL that a framework has made of them.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str], origins: Iterable[str]) -> None:
        self._app = app
        self._hosts = LOOPBACK | {_plain(host) for host in hosts}
        self._origins = frozenset(origin.lower() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            authority = self._host(scope)
            self._check_origin(scope, authority)
        await self._app(scope, receive, send)

    def _host(self, scope: Scope) -> str:
        """The Host header, if it is ours. Raises INVALID, or MISDIRECTED for another's."""
        found = _values(scope, b"host")
        if len(found) != 1:
            raise invalid(f"A request has one Host header; this one has {len(found)}.")
        matched = _AUTHORITY.fullmatch(found[0])
        if matched is None:
            raise invalid("The Host header names no host.")
        name = _plain(matched[1])
        if name not in self._hosts and name != _reached(scope):
            raise FtdError(
                Kind.MISDIRECTED,
                f"This is no server of {name!r}. "
                "If it is, name it in `hosts` of ftd's configuration.",
                code="misdirected_request",
            )
        return found[0].lower()

    def _check_origin(self, scope: Scope, authority: str) -> None:
        """Raises FORBIDDEN for a script of a page that is neither ours nor allowed."""
        found = [value.lower() for value in _values(scope, b"origin")]
        if not found or (len(found) == 1 and found[0] in self._origins):
            return
        if len(found) == 1 and found[0] in (f"http://{authority}", f"https://{authority}"):
            return
        raise FtdError(
            Kind.FORBIDDEN,
            "Scripts of this page may not call. Its origin can be allowed in `origins` of ftd's "
            "configuration.",
            code="origin_not_allowed",
        )


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _reached(scope: Scope) -> str | None:
    """The address that the client has connected to."""
    server = scope.get("server")
    return None if server is None else _plain(server[0])


def _plain(host: str) -> str:
    """A host as it is compared: without case, brackets and the root's dot."""
    bare = host.strip("[]").lower()
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return bare.rstrip(".")
    return str(getattr(address, "ipv4_mapped", None) or address)
