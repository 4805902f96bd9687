"""On whose behalf something is done. Every use case is given one first."""

from dataclasses import dataclass

from ftd.core.keys import Scope

PROJECT = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """On whose behalf something is done; `name` is the key's. Nothing is allowed unless said."""

    project: str
    name: str
    scopes: frozenset[Scope] = frozenset()
    key_id: str | None = None  # None: the home's own key, or the house itself


# Whoever asks from this host for what needs no key: the operator's Prometheus.
HOST = Actor(project="*", name="this host", scopes=frozenset({Scope.READ, Scope.ADMIN}))
