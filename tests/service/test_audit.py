"""A call that changes something, or is refused, leaves one line that says who did what."""

import asyncio
import logging
from typing import Any

import pytest

from ftd.core.keys import Scope
from ftd.service import audit
from ftd.service.actor import Actor

ANN = Actor(project="lab", name="ann", scopes=frozenset({Scope.SUBMIT}), key_id="k1")


def told(caplog: pytest.LogCaptureFixture, **changes: Any) -> list[logging.LogRecord]:
    call: dict[str, Any] = {
        "call": "POST /v1/files",
        "needs": Scope.SUBMIT,
        "actor": ANN,
        "outcome": "200",
        "refused": False,
        "peer": "127.0.0.1",
    }
    with caplog.at_level(logging.INFO, audit.LOGGER):
        audit.ended(**(call | changes))
    return [record for record in caplog.records if record.name == audit.LOGGER]


@pytest.mark.parametrize("needs", [Scope.SUBMIT, Scope.ADMIN])
def test_a_change_is_told(needs: Scope, caplog: pytest.LogCaptureFixture) -> None:
    audit.begin()
    for _ in range(2):  # as a use case and one that it calls do
        audit.concerns("file-1")
    (record,) = told(caplog, needs=needs)
    fields = {
        "call": "POST /v1/files",
        "about": "file-1",
        "outcome": "200",
        "key": "k1",
        "by": "ann",
        "peer": "127.0.0.1",
        "project": "lab",
    }
    assert fields.items() <= vars(record).items()


@pytest.mark.parametrize("needs", [Scope.READ, Scope.INFER, None])
def test_what_changes_nothing_is_not(needs: Scope | None, caplog: pytest.LogCaptureFixture) -> None:
    assert told(caplog, needs=needs) == []


def test_a_refusal_is_told_whatever_it_was_for(caplog: pytest.LogCaptureFixture) -> None:
    (record,) = told(caplog, needs=Scope.READ, refused=True, actor=None, outcome="401")
    assert vars(record)["key"] is None


def test_the_homes_own_key_has_a_name_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    (record,) = told(caplog, actor=Actor(project="default", name="admin"))
    assert vars(record)["key"] == audit.ADMIN_KEY


async def test_calls_at_the_same_time_are_not_mixed_up(caplog: pytest.LogCaptureFixture) -> None:
    async def call(name: str) -> None:
        audit.begin()
        audit.concerns(name)
        await asyncio.sleep(0)
        told(caplog, call=name)

    names = [f"file-{number}" for number in range(9)]
    await asyncio.gather(*(asyncio.create_task(call(name)) for name in names))
    records = [vars(record) for record in caplog.records]
    assert {(record["call"], record["about"]) for record in records} == {(n, n) for n in names}


def test_a_client_makes_no_long_line(caplog: pytest.LogCaptureFixture) -> None:
    audit.begin()
    for _ in range(1000):
        audit.concerns("x" * 10_000)
    (record,) = told(caplog, call="DELETE /" + "y" * 100_000, refused=True)
    said = vars(record)
    assert len(said["call"]) == audit.CHARACTERS
    assert len(said["about"]) <= audit.NAMED * (audit.CHARACTERS + 1)
