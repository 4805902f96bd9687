"""What /metrics says, held against the rows when every job is over."""

import math
from collections import Counter
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from bench.chaos.checker import rows
from bench.chaos.holds import expect
from bench.chaos.world import METRICS, World
from ftd.core.job import FINAL, State

SUMS = ("counter", "histogram")  # kinds of families that only grow
IDLE = ("ftd_device_allocated", "ftd_inference_requests", "ftd_uploads_in_progress")


def check_metrics(world: World) -> None:
    answer = world.ask("GET", METRICS)
    expect(answer is not None and answer.good, "the metrics are told", answer)
    assert answer is not None
    with rows(world) as db:
        states = dict(db.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall())
    check_text(answer.body.decode(), states)


def check_text(text: str, states: Mapping[str, int]) -> None:
    """No sum is negative, jobs by state are those of the rows, and nothing is at work."""
    told: Counter[tuple[str, str]] = Counter()
    for family in text_string_to_metric_families(text):
        for name, labels, value, *_ in family.samples:
            if family.type in SUMS:
                expect(value >= 0 and math.isfinite(value), f"{name} is no debt", labels, value)
            if name in IDLE:
                expect(value == 0, f"{name} is 0 when every job is over", labels, value)
            told[name, labels.get("state") or labels.get("status") or ""] += int(value)
    every = sum(states.values())
    expect(told["ftd_jobs_created_total", ""] == every, f"{every} jobs were created", told)
    for state in State:
        count = states.get(state, 0)
        expect(told["ftd_jobs", state] == count, f"{count} jobs are {state}", told)
        if state in FINAL:
            counted = told["ftd_jobs_finished_total", state]
            expect(counted == count, f"{count} jobs have ended as {state}", counted)
