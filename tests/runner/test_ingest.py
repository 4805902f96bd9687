"""Facts become the same rows however they are read: in one breath, or each by itself."""

import json
import random
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftd.bell import Bell
from ftd.core import wire
from ftd.core.ids import Ids
from ftd.core.job import Attempt
from ftd.runner.ingest import keep
from ftd.store import events
from ftd.store.connection import connect
from ftd.store.db import Database
from ftd.store.schema import migrate
from ftd.store.store import Store
from tests.store.conftest import HandClock

ROWS = """
INSERT INTO files (id, project, purpose, filename, bytes, sha256, created_at, status)
    VALUES ('file-1', 'p', 'fine-tune', 'a.jsonl', 1, '0', 0, 'processed');
INSERT INTO jobs (id, project, created_at, model, base, minted, training_file, seed, method,
        requested, state)
    VALUES ('ftjob-1', 'p', 0, 'm', 'm', 'ft:m::1', 'file-1', 1, 'supervised', '{}', 'running');
INSERT INTO attempts (id, job, number, launch, devices, started_at)
    VALUES (1, 'ftjob-1', 2, 'run-1', '["cpu"]', 5);
"""
LAST = 6  # steps of the job
LOSS = st.none() | st.floats(0, 9, width=16)

step = st.builds(
    wire.Step, step=st.integers(1, LAST), total_steps=st.just(LAST), train_loss=LOSS,
    valid_loss=LOSS, learning_rate=st.just(0.1), tokens=st.integers(0, 99), loss_tokens=st.just(1),
    seconds=st.sampled_from([0.0, 0.5]),
)  # fmt: skip
saved = st.builds(
    wire.Saved, step=st.integers(1, LAST), epoch=st.just(1), path=st.sampled_from("ab"),
    manifest_sha256=st.just("0"), epoch_end=st.booleans(),
)  # fmt: skip
others = (
    st.builds(wire.Accepted, job=st.just("ftjob-1"), attempt=st.just(2))
    | st.builds(wire.Phase, name=st.sampled_from(["loading", "training"]))
    | st.builds(wire.Notice, message=st.sampled_from(["cut 3", "Step 1/6: "]))
    | st.builds(wire.Resumed, step=st.integers(1, LAST))
    | st.builds(wire.Stopped, step=st.integers(1, LAST))
    | saved
)
facts = st.lists(step | step | others, max_size=30)


@dataclass
class Home:
    """A job whose second attempt speaks, on a connection of our own."""

    tx: sqlite3.Connection
    store: Store

    def told(self, batches: Sequence[Sequence[wire.Fact]]) -> tuple[int, list[object]]:
        """How many events the batches gave rise to, and all rows after them, which then go."""
        attempt = Attempt(
            id=1, job="ftjob-1", number=2, launch="run-1", devices=("cpu",), started_at=5
        )
        self.tx.execute("BEGIN")
        told = offset = 0
        for batch in batches:
            offset += len(batch)
            told += keep(self.store, attempt, batch, offset, 2.0)(self.tx)
        rows = self._rows()
        self.tx.execute("ROLLBACK")
        return told, rows

    def _rows(self) -> list[object]:
        found: list[object] = [
            [tuple(row) for row in self.tx.execute(sql)]
            for sql in (
                "SELECT level, type, message, data, step, created_at FROM events ORDER BY seq",
                "SELECT step, model, metrics, path FROM checkpoints ORDER BY step",
                "SELECT name, path FROM models ORDER BY name",
                "SELECT state, phase, step, total_steps, estimated_finish FROM jobs",
                "SELECT spool_offset, last_word, progressed FROM attempts",
            )
        ]
        steps = range(1, LAST + 1)
        return [*found, [events.step_values(self.tx, "ftjob-1", step) for step in steps]]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    path = tmp_path / "ftd.db"
    migrate(path)
    connection = connect(path)
    connection.executescript(ROWS)
    store = Store(Database(path, Bell()), HandClock(), Ids(random.Random(2).randbytes))
    yield Home(connection, store)
    connection.close()


@given(facts=facts, cuts=st.sets(st.integers(1, 30)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_facts_of_one_read_and_one_by_one_are_the_same(
    home: Home, facts: list[wire.Fact], cuts: set[int]
) -> None:
    edges = sorted({0, len(facts)} | {cut for cut in cuts if cut < len(facts)})
    batches = [facts[a:b] for a, b in pairwise(edges)]
    told, rows = home.told(batches)
    assert (told, rows) == home.told([[fact] for fact in facts])
    assert told == len(rows[0])  # type: ignore[arg-type]


@given(facts=facts)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_step_that_is_said_twice_is_told_first_and_kept_last(
    home: Home, facts: list[wire.Fact]
) -> None:
    _, (told, *_, last) = home.told([facts])
    said = [fact for fact in facts if isinstance(fact, wire.Step)]
    metrics = {row[4]: json.loads(row[3]) for row in told if row[1] == "metrics"}  # type: ignore[attr-defined]
    for number, values in enumerate(last, start=1):  # type: ignore[arg-type, var-annotated]
        losses = [fact.train_loss for fact in said if fact.step == number]
        assert (number in metrics) == bool(losses)
        if losses:
            assert metrics[number].get("train_loss") == losses[0]
            assert values.get("train_loss") == losses[-1]
        else:
            assert values == {}


def test_a_job_that_is_over_gets_no_more_events_and_its_cursor_moves(home: Home) -> None:
    home.tx.execute("UPDATE jobs SET state = 'cancelled', finished_at = 1")
    told, rows = home.told([[wire.Resumed(step=3), wire.Stopped(step=4)]])
    assert (told, rows[0]) == (0, [])
    assert rows[4] == [(2, wire.Stopped(step=4).model_dump_json(), 0)]


def test_events_keep_the_order_in_which_facts_came(home: Home) -> None:
    def said(number: int) -> wire.Step:
        return wire.Step(
            step=number, total_steps=3, train_loss=1.0, learning_rate=0.1, tokens=1, loss_tokens=1,
            seconds=1.0,
        )  # fmt: skip

    facts = [said(1), wire.Notice(message="a"), said(2), said(3), wire.Notice(message="b")]
    _, rows = home.told([facts])
    messages = [row[2] for row in rows[0]]  # type: ignore[attr-defined]
    assert messages == [
        "Step 1/3: training loss=1.00",
        "a",
        "Step 2/3: training loss=1.00",
        "Step 3/3: training loss=1.00",
        "b",
    ]
