"""Keys in memory. One of them may do everything; those that are made get in nowhere."""

import time
from dataclasses import dataclass, field, replace

from ftd.core.errors import FtdError, Kind
from ftd.core.keys import USUAL, Key, Scope
from ftd.service.actor import Actor
from ftd.service.keys import CreateKey, Minted, check
from ftd.service.page import Page, clamp, cut

KEY = "test-key-of-sufficient-length"


@dataclass
class FakeKeys:
    rows: dict[str, Key] = field(default_factory=dict)
    scopes: frozenset[Scope] = frozenset(Scope)  # of KEY
    key_id: str | None = None  # of KEY; None: it is the home's own
    held: bool = True  # whether KEY is valid still
    missed: bool = False  # whether somebody has seen that it is not

    def authenticate(self, bearer: str | None) -> Actor:
        if bearer != KEY:
            raise FtdError(Kind.UNAUTHENTICATED, "Incorrect API key provided.")
        return Actor(project="default", name="admin", scopes=self.scopes, key_id=self.key_id)

    def holds(self, actor: Actor) -> bool:
        self.missed |= not self.held
        return self.held

    async def create(self, actor: Actor, request: CreateKey) -> Minted:
        check(request)
        now = int(time.time())
        expires = request.expires_after_s
        key = Key(
            id=f"key{len(self.rows) + 1}",
            name=request.name,
            project=request.project or actor.project,
            scopes=frozenset(map(Scope, request.scopes)) if request.scopes else USUAL,
            sha256="0" * 64,
            created_at=now,
            expires_at=None if expires is None else now + expires,
        )
        self.rows[key.id] = key
        return Minted(key=key, token=f"ftd_{key.id}_secret")

    async def list(self, actor: Actor, *, after: str | None, limit: int | None) -> Page[Key]:
        rows = list(self.rows.values())[::-1]
        if after is not None:
            rows = rows[[row.id for row in rows].index(after) + 1 :]
        count = clamp(limit, 100, 1000)
        return cut(tuple(rows[: count + 1]), count)

    async def revoke(self, actor: Actor, key_id: str) -> Key:
        if key_id not in self.rows:
            raise FtdError(Kind.NOT_FOUND, f"No such key: {key_id}", param="key")
        self.rows[key_id] = replace(self.rows[key_id], revoked_at=int(time.time()))
        return self.rows[key_id]
