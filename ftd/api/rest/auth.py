"""Nobody gets in without a key: every path is closed, and the few open ones are named here."""

import ipaddress
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.types import ASGIApp, Receive, Scope, Send

from ftd.service.door import Door
from ftd.service.keys import Actor

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
METRICS_PATH = "/metrics"

_document = HTTPBearer(
    auto_error=False, scheme_name="ApiKeyAuth", description="The key of the home's admin.key."
)


class Authentication:
    """Puts the caller into the request's state, or raises UNAUTHENTICATED.

    It stands before the routes, so that a path we never thought of is closed too.
    """

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app = app
        self._keys = door.keys
        self._open_metrics = not door.settings.metrics.require_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_open(scope):
            actor = self._keys.authenticate(_bearer(scope))
            scope.setdefault("state", {})["actor"] = actor
        await self._app(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        if scope["path"] == METRICS_PATH:
            return self._open_metrics and _on_loopback(scope)
        return scope["path"] in OPEN_PATHS


def _bearer(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            return token.strip() if scheme.lower() == "bearer" else None
    return None


def _on_loopback(scope: Scope) -> bool:
    """Whether the peer is this host. Forwarded-For headers are never believed."""
    client = scope.get("client")
    if client is None:
        return False
    address = ipaddress.ip_address(client[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


async def _door(request: Request) -> Door:
    door = request.app.state.door
    assert isinstance(door, Door), "create_app sets the door"
    return door


async def _caller(
    request: Request,
    shown: Annotated[HTTPAuthorizationCredentials | None, Security(_document)],
) -> Actor:
    del shown  # Authentication has judged it; this puts it into the OpenAPI document
    actor = request.state.actor
    assert isinstance(actor, Actor), "Authentication comes before the routes"
    return actor


# What a route may ask for.
TheDoor = Annotated[Door, Depends(_door)]
Caller = Annotated[Actor, Depends(_caller)]
