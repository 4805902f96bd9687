"""The daemon under load: its start, its memory, submits, events, pages and decisions.

    python -m bench.daemon [--rounds 5] [--seconds 5] [--anyway] [--json] [--only WORD]

Every figure but the last three is taken from outside a real `ftd serve`, over its own sockets, and
with its own files on this disk (synchronous=FULL). Clients have processes of their own, on the
same cores. Events come as trainers' do: frames of a spool, read, understood and kept by the
daemon's runners. A page is 20 rows, asked for over a connection that is open already. The last
three are taken inside: the service's page, the engine's look, and `decide`. The targets are
those of two cores, and are judged at the end.
"""

import argparse
import asyncio
import http.client
import json
import secrets
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import psutil

from bench import past
from bench.machine import Spread, describe, require_quiet, say, seconds, table
from ftd.bell import Bell
from ftd.config import Settings
from ftd.core.device import Device
from ftd.core.ids import Ids
from ftd.core.schedule import decide
from ftd.daemon import SystemClock
from ftd.host.home import Home
from ftd.host.space import Space
from ftd.launch.local import LocalLauncher
from ftd.service.actor import Actor
from ftd.service.jobs import Jobs
from ftd.store import sound
from ftd.store.db import Database
from ftd.store.store import Store
from ftd.v1 import jobs_pb2, jobs_pb2_grpc
from tests.running import Daemon, running, until

CLIENTS = 20
WATCHERS = 100
TRAINERS = 8
FACTS = 120_000
EVENTS, JOBS, QUEUE = 1_000_000, 100_000, 10_000
SMALL = 1_000  # events of each of the other jobs
CPU = Device(id="cpu", kind="cpu", name="processor", memory_bytes=2**30)
HEAVY = ("torch", "transformers", "peft", "numpy")

Found = dict[str, Spread]


def starting(scratch: Path, rounds: int) -> Found:
    """From exec to ready, and what it weighs then."""
    ready, memory, heavy = [], [], 0
    for number in range(rounds):
        started = time.perf_counter()
        with _serving(scratch / f"empty-{number}") as daemon:
            ready.append(time.perf_counter() - started)
            time.sleep(1)  # what it does first is done
            memory.append(_memory(daemon))
            maps = Path(f"/proc/{daemon.pid}/maps").read_text()
            heavy += sum(f"/{name}/" in maps for name in HEAVY)
    return {
        "ready [s]": Spread(tuple(ready)),
        "memory when ready [MB]": Spread(tuple(memory)),
        "heavy libraries loaded": Spread((heavy,)),
    }


def submitting(scratch: Path, rounds: int, spent_s: float) -> Found:
    """Twenty clients at once; every device is taken, so that the queue grows."""
    rates, middle, last, busy = [], [], [], []
    home = past.found(scratch / "submits")
    with past.running(home, past.add_jobs(home, 1, "running")), _serving(home.root) as daemon:
        for _ in range(rounds):
            before = _processor(daemon)
            told = _submit(daemon, spent_s)
            busy.append((_processor(daemon) - before) / told["calls"] * 1e3)
            rates.append(told["calls"] / told["seconds"])
            middle.append(told["p50_ms"])
            last.append(told["p99_ms"])
            say(f"{rates[-1]:.0f} submits/s")
        memory = _memory(daemon)
        turns, spent = _turns(daemon)
    return {
        "submits/s, 20 clients": Spread(tuple(rates)),
        "submit, median [ms]": Spread(tuple(middle)),
        "submit, 99th of 100 [ms]": Spread(tuple(last)),
        "processor of the daemon a submit [ms]": Spread(tuple(busy)),
        "engine's turn while submitting [ms]": Spread((1e3 * spent / max(turns, 1),)),
        "memory after them [MB]": Spread((memory,)),
    }


def ingesting(scratch: Path, rounds: int) -> Found:
    """Trainers that all speak at once, with a long queue behind them and people who watch."""
    found: dict[str, list[float]] = {}
    for number in range(rounds):
        for watchers in (0, WATCHERS):
            home = past.found(scratch / f"spools-{number}-{watchers}")
            jobs = past.add_jobs(home, TRAINERS + watchers, "running")
            past.add_jobs(home, QUEUE, "queued")
            with past.running(home, jobs) as runs, _serving(home.root) as daemon:
                _until_calm(daemon)
                with _watching(daemon, jobs[TRAINERS:]):
                    for key, value in _ingest(daemon, home, runs[:TRAINERS], watchers).items():
                        found.setdefault(key, []).append(value)
    return {name: Spread(tuple(values)) for name, values in found.items()}


def _ingest(daemon: Daemon, home: Home, runs: list[Path], watchers: int) -> dict[str, float]:
    reader = sqlite3.connect(f"{home.database.as_uri()}?mode=ro", uri=True)
    count = reader.execute("SELECT max(seq) FROM events").fetchone()[0]
    spools = [past.prepare(run, FACTS // len(runs)) for run in runs]
    before, (turns, spent) = _processor(daemon), _turns(daemon)
    late = []
    started = time.perf_counter()
    for run, spool in zip(runs, spools, strict=True):
        spool.rename(run / "spool")
    while reader.execute("SELECT max(seq) FROM events").fetchone()[0] < count + FACTS:
        late.append(_milliseconds(lambda: _get(daemon, "/healthz")))
        time.sleep(0.05)
        assert time.perf_counter() - started < 300, daemon.log()
    took = time.perf_counter() - started
    spent_us = (_processor(daemon) - before) / FACTS * 1e6
    more_turns, more_spent = _turns(daemon)
    reader.close()
    say(f"{FACTS / took:.0f} events/s with {watchers} watchers of other jobs")
    return {
        f"events/s, {watchers} watchers of other jobs": FACTS / took,
        f"slowest answer meanwhile, {watchers} watchers [ms]": max(late),
        f"processor of the daemon an event, {watchers} watchers [us]": spent_us,
        "engine's turns a second while events come": (more_turns - turns) / took,
        "engine's share of the time": (more_spent - spent) / took,
    }


def paging(scratch: Path, rounds: int) -> Found:
    """Pages of a job's events among a million, and of a hundred thousand jobs."""
    say(f"writing {EVENTS} events and {JOBS} jobs")
    home = past.found(scratch / "million")
    jobs = past.add_jobs(home, JOBS, "cancelled")
    large = jobs[0]
    for job in jobs[: 1 + EVENTS // 2 // SMALL]:
        past.add_events(home, job, EVENTS // 2 if job == large else SMALL)
    reader = sqlite3.connect(home.database)
    (deep,) = reader.execute(
        "SELECT id FROM events WHERE job = ? AND step = ?", (large, EVENTS // 4)
    ).fetchone()
    reader.close()
    cursors = {"first": (None, None), "deep": (deep, jobs[JOBS // 2])}
    found = asyncio.run(_pages_inside(home, large, cursors, rounds))
    sound.end(home.database)  # as a daemon that stops in order
    for how in ("with a million events", "after a kill, with a million events"):
        started = time.perf_counter()
        with _serving(home.root) as daemon:  # it ends by a kill
            found[f"ready {how} [s]"] = Spread((time.perf_counter() - started,))
            found |= _pages_outside(daemon, large, cursors, rounds)
            found["memory with a million events [MB]"] = Spread((_memory(daemon),))
    return found


Cursors = dict[str, tuple[str | None, str | None]]


async def _pages_inside(home: Home, job: str, cursors: Cursors, rounds: int) -> Found:
    found: Found = {}
    actor = Actor(project=past.PROJECT, name="bench")
    async with _store(home) as store:
        space = Space(home.root, 0)
        service = Jobs(store, Settings(home=home.root), LocalLauncher(home.root), Bell(), space)
        for where, (event, after) in cursors.items():
            took: dict[str, list[float]] = {"events": [], "jobs": []}
            for _ in range(rounds * 20):
                started = time.perf_counter()
                await service.events(actor, job, after=event)
                listed = time.perf_counter()
                await service.list(actor, after=after)
                took["events"].append((listed - started) * 1e3)
                took["jobs"].append((time.perf_counter() - listed) * 1e3)
            for what, values in took.items():
                found[f"{where} page of {what}, service [ms]"] = Spread(tuple(values))
    return found


def _pages_outside(daemon: Daemon, job: str, cursors: Cursors, rounds: int) -> Found:
    found: Found = {}
    rest = urlsplit(daemon.url)
    web = http.client.HTTPConnection(str(rest.hostname), rest.port)
    with grpc.insecure_channel(f"unix:{daemon.endpoint['grpc']['unix']}") as channel:
        stub = jobs_pb2_grpc.JobsStub(channel)
        key = (("authorization", f"Bearer {daemon.key}"),)

        def get(path: str, after: str | None) -> None:
            query = f"?after={after}" if after else ""
            web.request("GET", f"{rest.path}{path}{query}", headers=dict(key))
            answer = web.getresponse()
            assert json.loads(answer.read())["has_more"], answer.status

        def list_events(after: str | None) -> None:
            request = jobs_pb2.ListEventsRequest(job_id=job, after=after or "")
            assert stub.ListEvents(request, metadata=key).has_more

        def list_jobs(after: str | None) -> None:
            request = jobs_pb2.ListJobsRequest(after=after or "")
            assert stub.ListJobs(request, metadata=key).has_more

        path = "/fine_tuning/jobs"
        for where, (event, after) in cursors.items():
            asked: dict[str, Callable[[], None]] = {
                "events, REST": lambda event=event: get(f"{path}/{job}/events", event),  # type: ignore[misc]
                "events, gRPC": lambda event=event: list_events(event),  # type: ignore[misc]
                "jobs, REST": lambda after=after: get(path, after),  # type: ignore[misc]
                "jobs, gRPC": lambda after=after: list_jobs(after),  # type: ignore[misc]
            }
            for what, ask in asked.items():
                values = [_milliseconds(ask) for _ in range(rounds * 20)]
                found[f"{where} page of {what} [ms]"] = Spread(tuple(values))
    web.close()
    return found


async def deciding(scratch: Path, rounds: int) -> Found:
    """What the engine does at a turn, with a long queue that has been told why it waits."""
    home = past.found(scratch / "queue")
    past.add_jobs(home, QUEUE, "queued")
    looks, decisions = [], []
    with past.running(home, past.add_jobs(home, 1, "running")):
        async with _store(home) as store:
            for _ in range(rounds * 3):
                started = time.perf_counter()
                snapshot = await store.snapshot((CPU,))
                looked = time.perf_counter()
                assert len(decide(snapshot)) > 0
                looks.append((looked - started) * 1e3)
                decisions.append((time.perf_counter() - looked) * 1e3)
    return {
        "look at 10,000 open jobs [ms]": Spread(tuple(looks)),
        "decide on 10,000 open jobs [ms]": Spread(tuple(decisions)),
    }


# The daemon, seen from outside.


@contextmanager
def _serving(root: Path) -> Iterator[Daemon]:
    environment = {"FTD_DEVICES__USE": "cpu", "FTD_TRAINING__WARM": "false"}
    environment["FTD_LIMITS__REQUESTS_PER_MINUTE"] = "0"  # one key submits as fast as it can
    with running(root, environment=environment) as daemon:
        yield daemon


@asynccontextmanager
async def _store(home: Home) -> AsyncIterator[Store]:
    database = Database(home.database, Bell())
    await database.open()
    try:
        yield Store(database, SystemClock(), Ids(secrets.token_bytes))
    finally:
        await database.close()


def _memory(daemon: Daemon) -> float:
    return psutil.Process(daemon.pid).memory_info().rss / 1e6


def _processor(daemon: Daemon) -> float:
    """Seconds of processor that the daemon has had."""
    times = psutil.Process(daemon.pid).cpu_times()
    return times.user + times.system


def _turns(daemon: Daemon) -> tuple[float, float]:
    """How many turns the engine has made, and the seconds that they took."""
    text = _get(daemon, "/metrics")
    name = "ftd_scheduler_cycle_duration_seconds"
    figures = dict(line.split() for line in text.splitlines() if line.startswith(name))
    return float(figures[f"{name}_count"]), float(figures[f"{name}_sum"])


def _until_calm(daemon: Daemon) -> None:
    """Until it has told a long queue why it waits, and does next to nothing."""
    process = psutil.Process(daemon.pid)
    until(lambda: process.cpu_percent(0.5) < 20, 120)


def _get(daemon: Daemon, path: str) -> str:
    rest = urlsplit(daemon.url)
    web = http.client.HTTPConnection(str(rest.hostname), rest.port)
    try:
        web.request("GET", path)
        return web.getresponse().read().decode()
    finally:
        web.close()


def _milliseconds(work: Callable[[], object]) -> float:
    return seconds(work) * 1e3


def _program(what: str, daemon: Daemon, *arguments: str) -> list[str]:
    socket = daemon.endpoint["grpc"]["unix"]
    return [sys.executable, "-m", "bench.submitters", what, socket, daemon.key, *arguments]


def _submit(daemon: Daemon, spent_s: float) -> dict[str, float]:
    command = _program("submit", daemon, str(CLIENTS), str(spent_s))
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=spent_s + 60)
    told: dict[str, float] = json.loads(done.stdout)
    return told


@contextmanager
def _watching(daemon: Daemon, jobs: list[str]) -> Iterator[None]:
    if not jobs:
        yield
        return
    command = _program("watch", daemon, *jobs)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watchers:
        assert watchers.stdout is not None
        assert watchers.stdout.readline() == "open\n"
        try:
            yield
        finally:
            watchers.send_signal(signal.SIGTERM)


def verdicts(found: Found) -> list[tuple[str, str, bool]]:
    """What must hold, each with its figure; of what was measured in this run."""
    targets: list[tuple[str, float, bool]] = [
        ("ready [s]", 1.0, False),
        ("memory when ready [MB]", 120, False),
        ("heavy libraries loaded", 0, False),
        ("submits/s, 20 clients", 1000, True),
        ("events/s, 0 watchers of other jobs", 20_000, True),
    ]
    targets += [(name, 10.0, False) for name in found if " page of " in name]
    judged = []
    for name, target, at_least in targets:
        if name in found:
            figure = found[name].median
            words = f"{name}: {'at least' if at_least else 'at most'} {target:g}"
            holds = figure >= target if at_least else figure <= target
            judged.append((words, f"{figure:.4g}", holds))
    return judged


def measure(scratch: Path, rounds: int, spent_s: float, only: str) -> Found:
    chapters: dict[str, Callable[[], Found]] = {
        "starting": lambda: starting(scratch, rounds),
        "submitting": lambda: submitting(scratch, rounds, spent_s),
        "ingesting": lambda: ingesting(scratch, rounds),
        "paging": lambda: paging(scratch, rounds),
        "deciding": lambda: asyncio.run(deciding(scratch, rounds)),
    }
    found: Found = {}
    for name, chapter in chapters.items():
        if only in name:
            say(name)
            found |= chapter()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of submits in one round")
    parser.add_argument("--only", default="", help="the chapters that have this in their name")
    parser.add_argument("--anyway", action="store_true", help="measure on a busy machine too")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    options = parser.parse_args()
    require_quiet(anyway=options.anyway)
    with tempfile.TemporaryDirectory(prefix="ftd-bench-") as scratch:
        found = measure(Path(scratch), options.rounds, options.seconds, options.only)
    held = verdicts(found)
    if options.json:
        print(json.dumps({name: spread.values for name, spread in found.items()}))
        return 0 if all(holds for _, _, holds in held) else 1
    print(describe())
    print(f"median (least to most) of {options.rounds} rounds")
    table(list(found.items()))
    if held:
        table([(name, f"{figure} {'holds' if ok else 'FAILS'}") for name, figure, ok in held])
    return 0 if all(holds for _, _, holds in held) else 1


if __name__ == "__main__":
    sys.exit(main())
