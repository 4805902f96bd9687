"""Who gets in, with what, and until when."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ftd.core.errors import FtdError, Kind
from ftd.core.keys import USUAL, Scope
from ftd.service import keys
from ftd.service.actor import Actor
from ftd.service.keys import CreateKey, Keys
from ftd.store import keys as rows
from ftd.store.store import Store
from tests.store.conftest import HandClock
from tests.store.conftest import store as _store

ADMIN = Actor(project="default", name="admin", scopes=frozenset(Scope))
CHOICE = random.Random(1).choice

store = _store


@pytest_asyncio.fixture
async def door(store: Store, tmp_path: Path) -> AsyncIterator[Keys]:
    yield await Keys.open(store, tmp_path / "admin.key", CHOICE)


async def again(store: Store, tmp_path: Path) -> Keys:
    """As the next start finds them."""
    return await Keys.open(store, tmp_path / "admin.key", CHOICE)


def turn(store: Store, seconds: int) -> None:
    assert isinstance(store.clock, HandClock)
    store.clock.time += seconds


def stays_out(door: Keys, bearer: str | None) -> FtdError:
    with pytest.raises(FtdError) as caught:
        door.authenticate(bearer)
    assert caught.value.kind is Kind.UNAUTHENTICATED
    return caught.value


async def test_the_admin_key_may_do_everything(door: Keys, tmp_path: Path) -> None:
    assert door.authenticate((tmp_path / "admin.key").read_text().strip()) == ADMIN


@pytest.mark.parametrize(
    "bearer", [None, "", "wrong", "ftd-" + "x" * 40, f"ftd_{'a' * 12}_{'b' * 43}", "\ud800"]
)
async def test_nobody_else_gets_in(door: Keys, bearer: str | None) -> None:
    stays_out(door, bearer)


async def test_a_wrong_key_is_not_repeated_whole(door: Keys) -> None:
    secret = "sk-proj-abcdefghijklmnopqrstuvwxyz"
    error = stays_out(door, secret)
    assert secret not in error.message
    assert error.code == "invalid_api_key"


async def test_a_key_gets_in_as_it_was_made_and_after_a_restart(
    door: Keys, store: Store, tmp_path: Path
) -> None:
    request = CreateKey(name="ci", scopes=("read",), project="team")
    minted = await door.create(ADMIN, request)
    actor = Actor(project="team", name="ci", scopes=frozenset({Scope.READ}), key_id=minted.key.id)
    assert door.authenticate(minted.token) == actor
    assert (await again(store, tmp_path)).authenticate(minted.token) == actor


async def test_what_is_not_said_is_the_usual(door: Keys) -> None:
    key = (await door.create(ADMIN, CreateKey(name="n"))).key
    assert (key.scopes, key.project, key.expires_at) == (USUAL, "default", None)
    theirs = Actor(project="theirs", name="n", scopes=frozenset(Scope))
    assert (await door.create(theirs, CreateKey(name="n"))).key.project == "theirs"


async def test_only_the_hash_of_a_secret_is_kept(door: Keys, store: Store) -> None:
    minted = await door.create(ADMIN, CreateKey(name="n"))
    secret = minted.token.rpartition("_")[2]
    (row,) = await store.db.rows("SELECT * FROM keys")
    assert secret not in str(tuple(row))
    assert row["sha256"] == keys.core.digest(secret)


async def test_a_revoked_key_stays_out_for_good(door: Keys, store: Store, tmp_path: Path) -> None:
    minted = await door.create(ADMIN, CreateKey(name="n"))
    revoked = await door.revoke(ADMIN, minted.key.id)
    assert revoked.revoked_at == store.clock.now()
    turn(store, 5)
    assert await door.revoke(ADMIN, minted.key.id) == revoked, "again changes nothing"
    stays_out(door, minted.token)
    stays_out(await again(store, tmp_path), minted.token)
    assert (await door.list(ADMIN)).data == (revoked,)


async def test_who_hangs_up_has_revoked_it_all_the_same(
    door: Keys, store: Store, tmp_path: Path
) -> None:
    minted = await door.create(ADMIN, CreateKey(name="n"))
    asking = asyncio.create_task(door.revoke(ADMIN, minted.key.id))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    stays_out(door, minted.token)
    await store.db.write(lambda _: None)
    stays_out(await again(store, tmp_path), minted.token)


async def test_what_was_not_revoked_is_not_said_to_be(door: Keys, store: Store) -> None:
    minted = await door.create(ADMIN, CreateKey(name="n"))
    await store.db.close()
    with pytest.raises(FtdError, match="shutting down"):
        await door.revoke(ADMIN, minted.key.id)
    assert door.authenticate(minted.token).name == "n"


async def test_an_unknown_key_is_not_revoked(door: Keys) -> None:
    with pytest.raises(FtdError, match="No such key: x") as caught:
        await door.revoke(ADMIN, "x")
    assert caught.value.kind is Kind.NOT_FOUND


async def test_a_key_gets_in_until_it_expires(door: Keys, store: Store, tmp_path: Path) -> None:
    minted = await door.create(ADMIN, CreateKey(name="n", expires_after_s=60))
    turn(store, 59)
    assert door.authenticate(minted.token).name == "n"
    turn(store, 1)
    stays_out(door, minted.token)
    stays_out(await again(store, tmp_path), minted.token)


async def test_its_last_use_is_kept_by_the_minute_in_one_write(
    door: Keys, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[dict[str, int]] = []
    kept = rows.note_uses
    monkeypatch.setattr(
        rows, "note_uses", lambda tx, used: (writes.append(dict(used)), kept(tx, used))
    )
    first = await door.create(ADMIN, CreateKey(name="a"))
    second = await door.create(ADMIN, CreateKey(name="b"))
    now = store.clock.now()
    minute = now - now % 60
    for _ in range(1000):
        door.authenticate(first.token)
    door.authenticate(second.token)
    assert not writes
    await door.sweep()
    await door.sweep()
    door.authenticate(first.token)
    await door.sweep()
    made = first.key.created_at  # in that minute: no key was used before it was made
    assert writes == [{first.key.id: made, second.key.id: made}]
    turn(store, 60)
    door.authenticate(first.token)
    newest, oldest = (await (await again(store, tmp_path)).list(ADMIN)).data
    assert (newest.used_at, oldest.used_at) == (made, made)
    newest, oldest = (await door.list(ADMIN)).data
    assert (newest.used_at, oldest.used_at) == (made, minute + 60)


async def test_a_key_is_not_used_before_it_is_made(door: Keys, store: Store) -> None:
    turn(store, 59 - store.clock.now() % 60)
    minted = await door.create(ADMIN, CreateKey(name="a"))
    door.authenticate(minted.token)
    assert (await door.list(ADMIN)).data[0].used_at == minted.key.created_at


async def test_who_revokes_a_key_sees_when_it_was_used_last(
    door: Keys, store: Store, tmp_path: Path
) -> None:
    minted = await door.create(ADMIN, CreateKey(name="a"))
    door.authenticate(minted.token)
    await door.revoke(ADMIN, minted.key.id)
    for held in (door, await again(store, tmp_path)):
        assert (await held.list(ADMIN)).data[0].used_at == minted.key.created_at


async def test_a_wrong_secret_is_no_use(door: Keys) -> None:
    minted = await door.create(ADMIN, CreateKey(name="a"))
    stays_out(door, minted.token[:-1] + ("a" if minted.token[-1] != "a" else "b"))
    assert (await door.list(ADMIN)).data[0].used_at is None


async def test_a_listing_has_pages(door: Keys) -> None:
    made = [(await door.create(ADMIN, CreateKey(name=str(n)))).key.id for n in range(3)]
    first = await door.list(ADMIN, limit=2)
    assert ([key.id for key in first.data], first.has_more) == (made[:0:-1], True)
    rest = await door.list(ADMIN, after=first.data[-1].id, limit=2)
    assert ([key.id for key in rest.data], rest.has_more) == (made[:1], False)
    assert (await door.list(ADMIN, after="nothing")).data == ()


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "a\u202eb"}, "name"),
        ({"scopes": ("read", "root")}, "scopes"),
        ({"project": "*"}, "project"),
        ({"project": "a/b"}, "project"),
        ({"project": "..."}, "project"),
        ({"project": "x" * 65}, "project"),
        ({"project": "\u00e4"}, "project"),
        ({"expires_after_s": 0}, "expires_after_seconds"),
        ({"expires_after_s": 2**62}, "expires_after_seconds"),
    ],
)
async def test_beyond_a_bound_is_invalid(door: Keys, changes: dict[str, Any], param: str) -> None:
    with pytest.raises(FtdError, match=param) as caught:
        await door.create(ADMIN, CreateKey(**{"name": "n"} | changes))
    assert (caught.value.kind, caught.value.param) == (Kind.INVALID, param)
    assert (await door.list(ADMIN)).data == ()


async def test_there_is_an_end_of_keys(door: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MAX_KEYS", 1)
    minted = await door.create(ADMIN, CreateKey(name="n"))
    with pytest.raises(FtdError, match="revoke those that nobody uses"):
        await door.create(ADMIN, CreateKey(name="n"))
    await door.revoke(ADMIN, minted.key.id)
    await door.create(ADMIN, CreateKey(name="n"))
