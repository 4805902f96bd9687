"""Who is calling: a bearer token becomes an actor, or nobody gets in.

The keys that let somebody in are held in memory, beside their rows: all of them are made and
revoked here. So a request costs no read, whoever sends it, and a revoked key is out at once.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from ftd.core import keys as core
from ftd.core.errors import FtdError, Kind, invalid
from ftd.core.ids import Choice
from ftd.core.keys import MAX_NAME, USUAL, Key, Scope
from ftd.service import audit
from ftd.service.actor import PROJECT, Actor
from ftd.service.adminkey import read_or_make
from ftd.service.page import Page, clamp, cut
from ftd.store import keys as rows
from ftd.store.db import Transaction
from ftd.store.store import Store

PAGE, MOST = 100, 1000
MAX_KEYS = 1000  # that have not been revoked
MAX_PROJECT = 64
USE_S = 60  # how fine the time of the last use is
MAX_EXPIRY_S = 100 * 365 * 86_400
WHERE = "ftd keeps its key in the file admin.key of its home."


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateKey:
    """A request for a key; None is the usual scopes, the asking key's project, no end."""

    name: str
    scopes: Collection[str] | None = None
    project: str | None = None
    expires_after_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Minted:
    """A new key, and its token, which is shown this once."""

    key: Key
    token: str


class Keys:
    """Make, list and revoke keys, and tell who holds one."""

    def __init__(self, store: Store, admin: str, live: Collection[Key] = ()) -> None:
        self._store = store
        self._admin = admin
        self._live = {key.id: key for key in live}
        self._used: dict[str, int] = {}  # not written yet

    @classmethod
    async def open(cls, store: Store, path: Path, choice: Choice) -> "Keys":
        """With the home's own key at `path`, made if it is not there. Raises as read_or_make."""
        admin = read_or_make(path, choice)
        return cls(store, admin, await rows.live(store.db))

    def authenticate(self, bearer: str | None) -> Actor:
        """The actor behind a token. Raises FtdError, UNAUTHENTICATED, in OpenAI's words: the same
        for a key that never was, that was revoked, and that has expired."""
        if not bearer:
            raise FtdError(
                Kind.UNAUTHENTICATED,
                "You didn't provide an API key. You need to provide your API key in an "
                "Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY). "
                f"{WHERE}",
            )
        if core.same(bearer, self._admin):
            return Actor(project=PROJECT, name="admin", scopes=frozenset(Scope))
        key = self._find(bearer)
        if key is None:
            raise FtdError(
                Kind.UNAUTHENTICATED,
                f"Incorrect API key provided: {core.shown(bearer)}. {WHERE}",
                code="invalid_api_key",
            )
        return Actor(project=key.project, name=key.name, scopes=key.scopes, key_id=key.id)

    def _find(self, bearer: str) -> Key | None:
        """The valid key of a token; takes note of its use."""
        key_id, secret = core.parse(bearer) or ("", "")
        key = self._live.get(key_id)
        now = self._store.clock.now()
        if key is None or not core.same(core.digest(secret), key.sha256) or not key.valid(now):
            return None
        minute = max(now - now % USE_S, key.created_at)
        if key.used_at is None or key.used_at < minute:
            self._live[key_id] = replace(key, used_at=minute)
            self._used[key_id] = minute
        return key

    def holds(self, actor: Actor) -> bool:
        """Whether the actor's key would let it in still."""
        if actor.key_id is None:
            return True
        key = self._live.get(actor.key_id)
        return key is not None and key.valid(self._store.clock.now())

    async def create(self, actor: Actor, request: CreateKey) -> Minted:
        """Make a key of any project. Raises INVALID for a name, a scope, a project or an expiry
        that cannot be, CONFLICT when there are too many."""
        check(request)
        store = self._store
        now, secret = store.clock.now(), store.ids.secret()
        expires = request.expires_after_s
        key = Key(
            id=store.ids.key(),
            name=request.name,
            project=request.project or actor.project,
            scopes=USUAL if not request.scopes else frozenset(map(Scope, request.scopes)),
            sha256=core.digest(secret),
            created_at=now,
            expires_at=None if expires is None else now + expires,
        )

        def work(tx: Transaction) -> None:
            if rows.count(tx) >= MAX_KEYS:
                raise FtdError(
                    Kind.CONFLICT, f"There are {MAX_KEYS} keys; revoke those that nobody uses."
                )
            rows.insert(tx, key)

        await store.db.write(work, about=())
        self._live[key.id] = key
        audit.concerns(key.id)
        return Minted(key=key, token=core.token(key.id, secret))

    async def list(
        self, actor: Actor, *, after: str | None = None, limit: int | None = None
    ) -> Page[Key]:
        """Of all projects, newest first, the revoked ones too."""
        del actor  # whoever may ask may see them all
        count = clamp(limit, PAGE, MOST)
        found = await rows.page(self._store.db, after=after or None, limit=count + 1)
        # Those in memory know of their last use what is not written yet.
        return cut(tuple(self._live.get(key.id, key) for key in found), count)

    async def revoke(self, actor: Actor, key_id: str) -> Key:
        """Nobody gets in with it any more. Again changes nothing. Raises NOT_FOUND."""
        del actor  # whoever may ask may revoke any
        audit.concerns(key_id)
        now = self._store.clock.now()
        # Before the write: that goes on when whoever asked hangs up, and this would not.
        held = self._live.pop(key_id, None)
        used = {key_id: held.used_at} if held and held.used_at else {}

        def work(tx: Transaction) -> Key | None:
            rows.note_uses(tx, used)  # who revokes it wants to know
            return rows.revoke(tx, key_id, now)

        try:
            key = await self._store.db.write(work, about=())
        except FtdError:
            if held is not None:
                self._live[key_id] = held
            raise
        if key is None:
            raise FtdError(Kind.NOT_FOUND, f"No such key: {key_id}", param="key")
        return key

    async def sweep(self) -> None:
        """Write down when keys were used last: once for all, and not with each request."""
        used, self._used = self._used, {}
        if used:
            await self._store.db.write(lambda tx: rows.note_uses(tx, used), about=())


def check(request: CreateKey) -> None:
    """Every bound of a request for a key. Raises INVALID with the field at fault."""
    if not 1 <= len(request.name) <= MAX_NAME or not request.name.isprintable():
        raise invalid(f"name must have 1 to {MAX_NAME} printable characters.", param="name")
    known = [scope.value for scope in Scope]
    for scope in request.scopes or ():
        if scope not in known:
            raise invalid(f"{scope!r} is not one of {known} - 'scopes'", param="scopes")
    project = request.project
    if project is not None and not _is_project(project):
        raise invalid(
            f"project must have 1 to {MAX_PROJECT} letters, digits, '-', '_' or '.'.",
            param="project",
        )
    expires = request.expires_after_s
    if expires is not None and not 1 <= expires <= MAX_EXPIRY_S:
        raise invalid(
            f"expires_after_seconds must be between 1 and {MAX_EXPIRY_S}.",
            param="expires_after_seconds",
        )


def _is_project(name: str) -> bool:
    """`*` is none: what is shared by all has it."""
    bare = name.replace("-", "").replace("_", "").replace(".", "")
    return len(name) <= MAX_PROJECT and name.isascii() and bare.isalnum()
