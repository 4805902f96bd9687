"""A run directory is somebody's if any row names it."""

from ftd.store import launches
from ftd.store.store import Store
from tests.store.test_store import CPU, add_file, add_job, started


async def test_what_an_attempt_or_a_server_was_given_is_known(store: Store) -> None:
    await add_file(store, "file-1")
    await add_job(store, "ftjob-1")
    attempt = await started(store, "ftjob-1")
    await store.give_back(attempt, "its worker never began")
    row = await store.serve("m", "run-serves", CPU)
    assert row is not None
    await store.served(row.id, "a test said so")
    asked = ["run-serves", "run-of-nobody", "run'; DROP TABLE attempts", attempt.launch]
    assert await launches.known(store.db, asked) == {"run-serves", attempt.launch}
    assert await launches.known(store.db, []) == frozenset()
    assert await launches.known(store.db, [f"run-{n}" for n in range(100_000)]) == frozenset()
