"""The REST face against its own document: Schemathesis asks, and holds each answer against it.

All of its phases: examples, every bound of the document, requests at random, half of them wrong,
and stories in which one answer's ids are the next request's. Some ids are those of files and jobs
that are there, so that it gets further than to "no such file".

    FTD_FUZZ=100000 python -m pytest --timeout 0 tests/security/test_fuzz_rest.py

FTD_FUZZ is the number of calls, FTD_FUZZ_SEED where their seeds begin.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from schemathesis.engine.recorder import CheckFailureInfo

from tests.running import Daemon, running, small_talk
from tests.tiny import tiny_model

CALLS = int(os.environ.get("FTD_FUZZ", "1"))  # a round at least, which is a few hundred
SEED = int(os.environ.get("FTD_FUZZ_SEED", "1"))
EXAMPLES = 5 if CALLS == 1 else 100  # of each operation in one round
PAUSED = 8  # jobs, of which each round may cancel or resume any
CALL_S = 30.0
GROWTH_BYTES = 64 * 2**20
GROWTH_FILES = 16
PHASES = {"examples", "coverage", "fuzzing", "stateful"}
# What a valid request may be refused for: what there is, how its parts go together, and a seed at
# its bound that was rounded on its way.
STATES = {"idempotency_key_reused", "invalid_file", "model_not_available"}
TOGETHER = {
    "best_of", "file", "fine_tune_id", "logit_bias", "logprobs", "max_tokens",
    "max_completion_tokens", "messages", "n", "prompt", "response_format", "seed", "stream_options",
    "tool_choice", "tools", "top_logprobs",
}  # fmt: skip
# What is meant to be wrong, and is not on the wire: a query has texts alone, and of a name that
# comes twice the last one counts.
TEXTS = "violates `additionalProperties` at /properties/metadata"
TWICE = re.compile(r"[?&](\w+)=[^']*&\1=")
CALM = {
    "FTD_LIMITS__REQUESTS_PER_MINUTE": "0",
    "FTD_SERVING__CONTEXT_TOKENS": "64",
    "FTD_TRAINING__CONTEXT_TOKENS": "64",
}


@schemathesis.check
def refusals_have_openais_shape(ctx: Any, response: Any, case: Any) -> None:
    if response.status_code < 400:
        return
    told = json.loads(response.content)
    assert told.keys() == {"error"}
    error = told["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["type"] == "invalid_request_error"
    assert "Traceback" not in error["message"]
    assert len(response.content) < 20_000


@schemathesis.check
def valid_requests_are_refused_for_what_no_schema_tells(ctx: Any, response: Any, case: Any) -> None:
    meta = case.meta
    if response.status_code != 400 or meta is None or not meta.generation.mode.is_positive:
        return
    error = json.loads(response.content)["error"]
    root = re.split(r"[.\[]", error["param"] or "")[0]
    assert error["code"] in STATES or root in TOGETHER, error


@schemathesis.check
def answers_have_a_number(ctx: Any, response: Any, case: Any) -> None:
    assert response.headers["x-request-id"]


@dataclass
class Told:
    """What came of all calls."""

    calls: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)  # by title and operation
    # Before the first round, and after each.
    resident: list[int] = field(default_factory=list)  # bytes
    open_files: list[int] = field(default_factory=list)

    def take(self, event: events.EngineEvent) -> None:
        match event:
            case events.ScenarioFinished():
                self._count(event)
                for checks in event.recorder.checks.values():
                    for check in checks:
                        if check.failure_info is not None:
                            self._blame(check.failure_info)
            case events.NonFatalError():
                self.faults[f"{event.label}: {event.info.title}"] = event.info.format()
            case events.FatalError():
                raise event.exception

    def measure(self, pid: int) -> None:
        process = psutil.Process(pid)
        self.resident.append(process.memory_info().rss)
        self.open_files.append(process.num_fds())

    def _blame(self, told: CheckFailureInfo) -> None:
        failure = told.failure
        if TEXTS not in failure.message and not TWICE.search(told.code_sample):
            name = f"{failure.operation}: {failure.title}"
            self.faults[name] = f"{failure.message}\n{told.code_sample}"

    def _count(self, event: events.ScenarioFinished) -> None:
        interactions = event.recorder.interactions
        self.calls += len(interactions)
        self.phases[event.phase.value.lower()] += len(interactions)
        for case, interaction in interactions.items():
            if interaction.response is not None:
                status = interaction.response.status_code
                self.statuses[status] += 1
                if status < 300:
                    self.operations[event.recorder.cases[case].value.operation.label] += 1


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    place = tmp_path_factory.mktemp("fuzz")
    with running(place / "home", environment=CALM) as daemon:
        daemon.ftctl("models", "add", "tiny", str(tiny_model(place / "tiny")))
        yield daemon


def known_ids(daemon: Daemon, place: Path) -> dict[str, list[str]]:
    """A file to train on, one too short and one of no sort; paused jobs, and one that is over."""
    client = daemon.client(_strict_response_validation=False)  # it knows of no paused jobs
    good = client.files.create(file=small_talk(place / "good.jsonl", 10), purpose="fine-tune").id
    short = client.files.create(file=small_talk(place / "short.jsonl", 2), purpose="fine-tune").id
    other = client.files.create(file=place / "short.jsonl", purpose="user_data").id
    jobs = client.fine_tuning.jobs
    paused = [jobs.create(model="tiny", training_file=good).id for _ in range(PAUSED)]
    for job in paused:
        jobs.pause(job)
    failed = jobs.create(model="tiny", training_file=short).id
    return {
        "training": [good, short, short],
        "files": [short, other],
        "jobs": [*paused, failed],
        "models": ["tiny"],
    }


def configuration(daemon: Daemon, seed: int, known: dict[str, list[str]]) -> SchemathesisConfig:
    bound = {
        "path.file_id": "files",
        "path.fine_tuning_job_id": "jobs",
        "path.model": "models",
        "body.model": "models",
        "body.training_file": "training",
        "query.after": "files",
    }
    return SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "cache": {"enabled": False},
            "continue-on-failure": True,
            "request-timeout": CALL_S,
            "headers": {"Authorization": f"Bearer {daemon.key}"},
            "generation": {"max-examples": EXAMPLES, "no-shrink": True, "database": "none"},
            # Our document has no examples.
            "phases": {"examples": {"fill-missing": True}},
            "checks": {
                "max_response_time": CALL_S,
                # Ours knows what else a request may be refused for.
                "positive_data_acceptance": {"enabled": False},
            },
            "dictionaries": {name: {"values": values} for name, values in known.items()},
            "parameters": {
                where: {"dictionary": name, "probability": 0.5} for where, name in bound.items()
            },
        }
    )


@pytest.fixture(scope="module")
def told(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Told:
    place = tmp_path_factory.mktemp("files")
    told = Told()
    told.measure(daemon.pid)
    url = f"{daemon.url.removesuffix('/v1')}/openapi.json"
    for seed in count(SEED):
        config = configuration(daemon, seed, known_ids(daemon, place))
        document = schemathesis.openapi.from_url(url, config=config)
        for event in from_schema(document).execute():
            told.take(event)
        told.measure(daemon.pid)
        if told.calls >= CALLS:
            break
    print(told)  # noqa: T201 - shown with -s, or when a test fails
    return told


def test_every_answer_is_as_the_document_says(told: Told) -> None:
    assert not told.faults, "\n\n".join(f"{name}\n{what}" for name, what in told.faults.items())


def test_every_phase_has_its_part(told: Told) -> None:
    assert told.phases.keys() >= PHASES


def test_the_daemon_does_not_grow(told: Told) -> None:
    assert told.resident[-1] - told.resident[0] < GROWTH_BYTES
    assert told.open_files[-1] - told.open_files[0] < GROWTH_FILES


def test_the_log_tells_of_no_fault(told: Told, daemon: Daemon) -> None:
    assert "Traceback" not in daemon.log()
