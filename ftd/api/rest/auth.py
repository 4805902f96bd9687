"""Nobody gets in without a key, and nobody further than its scopes: every path is closed.

The table of ftd.service.rules says which route wants what. A request for which it says nothing
finds no route either, or has no actor to act for.
"""

import ipaddress
from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from ftd.service.actor import HOST, Actor
from ftd.service.door import Door
from ftd.service.rules import ROUTES, permit

METRICS = "GET /metrics"

_document = HTTPBearer(
    auto_error=False,
    scheme_name="ApiKeyAuth",
    description="A key of `ftctl keys create`, or that of the home's admin.key.",
)


class Authentication:
    """Puts the caller into the request's state, or raises UNAUTHENTICATED or FORBIDDEN.

    It stands before the routes, so that a path we never thought of is closed too, and before
    anything of a body is read.
    """

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app = app
        self._keys = door.keys
        self._open_metrics = not door.settings.metrics.require_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._let_in(scope)
        await self._app(scope, receive, send)

    def _let_in(self, scope: Scope) -> None:
        state = scope.setdefault("state", {})
        route = _route(scope["method"], scope["path"])
        if route is not None and ROUTES[route] is None:
            return
        if self._open_metrics and route == METRICS and _on_loopback(scope):
            state["actor"] = HOST
            return
        actor = self._keys.authenticate(_bearer(scope))
        if route is None:
            return  # to be told so; nothing acts for anybody who is not named in the state
        needed = ROUTES[route]
        assert needed is not None, "open routes are through"
        state["actor"] = actor  # refused or not: the audit says who it was
        permit(actor, needed)


def check_rules(routers: Iterable[APIRouter]) -> None:
    """Every route has a rule, and every rule a route. Raises AssertionError, at the start."""
    found = set()
    for router in routers:
        for route in router.routes:
            if not isinstance(route, APIRoute):
                raise AssertionError(f"a route that no rule can be for: {route}")
            found |= {f"{method} {route.path}" for method in route.methods or ()}
    if odd := found ^ ROUTES.keys():
        raise AssertionError(f"routes without a rule, or rules without a route: {sorted(odd)}")


def methods(path: str) -> list[str]:
    """What may be asked of a path, in order: none where no route has it."""
    return sorted(method for method, pattern, _ in _PATTERNS if pattern.match(path))


# As the router itself reads them, in its order.
_PATTERNS = [
    (method, compile_path(template)[0], route)
    for route in ROUTES
    for method, _, template in [route.partition(" ")]
]


def _route(method: str, path: str) -> str | None:
    """The name of a request's route in the table of rules."""
    for known, pattern, route in _PATTERNS:
        if known == method and pattern.match(path):
            return route
    return None


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
