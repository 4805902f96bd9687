"""The table of who may do what: nothing is in it twice, and reads are no changes."""

import pytest

from ftd.core.errors import FtdError, Kind
from ftd.core.keys import Scope
from ftd.service.actor import HOST, Actor
from ftd.service.rules import CALLS, ROUTES, RULES, permit


def test_every_name_stands_once() -> None:
    assert len(ROUTES) == len([rule for rule in RULES if rule.route is not None])
    assert len(CALLS) == len([rule for rule in RULES if rule.call is not None])


def test_what_only_reads_wants_no_more_than_that() -> None:
    for route, scope in ROUTES.items():
        assert (scope in (Scope.READ, None)) == route.startswith("GET ")


def test_only_two_routes_are_open() -> None:
    assert {route for route, scope in ROUTES.items() if scope is None} == {
        "GET /healthz", "GET /readyz",
    }  # fmt: skip
    assert None not in CALLS.values()


@pytest.mark.parametrize("scope", list(Scope))
def test_a_scope_is_what_it_takes(scope: Scope) -> None:
    permit(Actor(project="p", name="n", scopes=frozenset({scope})), scope)
    others = frozenset(Scope) - {scope}
    for scopes in (frozenset(), others):
        with pytest.raises(FtdError, match=f"Missing scopes: {scope}") as caught:
            permit(Actor(project="p", name="n", scopes=scopes), scope)
        assert (caught.value.kind, caught.value.code) == (Kind.FORBIDDEN, "missing_scope")


def test_who_is_nobody_in_particular_trains_and_asks_nothing() -> None:
    assert not HOST.scopes & {Scope.SUBMIT, Scope.INFER}
