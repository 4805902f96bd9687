"""Keys as rows."""

from ftd.core.keys import USUAL, Key, Scope
from ftd.store import keys
from ftd.store.store import Store


def key(key_id: str, scopes: frozenset[Scope] = USUAL) -> Key:
    return Key(id=key_id, name="n", project="p", scopes=scopes, sha256="0" * 64, created_at=1)


async def put(store: Store, *kept: Key) -> None:
    for one in kept:
        await store.db.write(lambda tx, one=one: keys.insert(tx, one))


async def test_a_key_comes_back_as_it_was(store: Store) -> None:
    kept = (key("a"), key("b", frozenset()), key("c", frozenset(Scope)))
    await put(store, *kept)
    assert await keys.live(store.db) == kept
    assert await keys.page(store.db, after=None, limit=2) == kept[:0:-1]
    assert await keys.page(store.db, after="b", limit=2) == kept[:1]
    assert await keys.page(store.db, after="nothing", limit=2) == ()


async def test_a_revoked_one_stays_and_is_not_live(store: Store) -> None:
    await put(store, key("a"))
    assert await store.db.write(keys.count) == 1
    revoked = await store.db.write(lambda tx: keys.revoke(tx, "a", 5))
    assert revoked is not None
    assert revoked.revoked_at == 5
    assert await store.db.write(lambda tx: keys.revoke(tx, "a", 9)) == revoked
    assert await store.db.write(lambda tx: keys.revoke(tx, "b", 9)) is None
    assert await keys.live(store.db) == ()
    assert await keys.page(store.db, after=None, limit=9) == (revoked,)
    assert await store.db.write(keys.count) == 0


async def test_uses_are_noted_together(store: Store) -> None:
    await put(store, key("a"), key("b"), key("c"))
    await store.db.write(lambda tx: keys.note_uses(tx, {"a": 60, "c": 120, "gone": 180}))
    assert [row.used_at for row in await keys.live(store.db)] == [60, None, 120]
