"""Kills, freezes and lost data against a real daemon, with a checker behind them.

    python -m bench.chaos [--cycles 1000] [--homes 4] [--seed 1] [--from 0] [--json]
    python -m bench.chaos --only NAME                     only faults whose name begins so
    python -m bench.chaos --replay SEED --kind KIND       that one cycle again
    python -m bench.chaos --sweep [--points N]            killed at the n-th sync, for every n
    python -m bench.chaos --real K                        K kills of real training, bit for bit

A cycle is a second or two of load and faults on a home, drawn from the cycle's seed, and then
peace, in which everything must come to its end and is looked at. Several homes go on at once. Exits
1 when anything that must hold did not; the homes of those are kept.
"""

import argparse
import json
import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import fields

from bench.chaos import lane
from bench.chaos.faults import FAULTS
from bench.chaos.lane import KINDS, Tally
from bench.machine import describe, table

SHOWN = 12  # places where the daemon was killed, the most frequent


def campaign(cycles: int, homes: int, seed: int, first: int, only: str | None = None) -> Tally:
    """The cycles from `first` on, dealt out to as many homes as there are lanes. `only` faults
    whose name begins so."""
    total = Tally()
    numbers = range(first, first + cycles)
    context = multiprocessing.get_context("spawn")
    lanes = []
    for n in range(homes):
        ours, theirs = context.Pipe(duplex=False)
        arguments = (theirs, n, numbers[n::homes], seed, only)
        process = context.Process(target=lane.run, args=arguments)
        process.start()
        theirs.close()
        lanes.append((process, ours))
    try:
        for number, (_, told) in enumerate(lanes):
            try:
                total.add(told.recv())
            except EOFError:  # its last words are above
                total.violations.append(f"VIOLATION: the process of home {number} is no more")
    finally:  # interrupted, or one of them is no more: the others clear up behind themselves
        for process, _ in lanes:
            process.terminate()
            process.join()
    return total


def report(tally: Tally, spent_s: float) -> None:
    kills = sum(tally.points.values())
    table(
        [
            ("cycles", tally.cycles),
            ("minutes", f"{spent_s / 60:.1f}"),
            ("faults", sum(tally.faults.values())),
            *((f"  {name}", told) for name, told in faults(tally)),
            ("daemon killed at so many different places", len(tally.points)),
            *((f"  {name}", count) for name, count in tally.points.most_common(SHOWN)),
            ("kills at them", kills),
            ("jobs acknowledged", tally.jobs),
            *((f"  {name}", count) for name, count in tally.ends.most_common()),
            ("events read", tally.events),
            ("requests answered", tally.answers),
            ("requests refused with 5xx", tally.refusals),
            ("most steps done again after a loss", tally.redone),
            ("damaged checkpoints that trainers went on without", tally.passed_over),
            ("files forgotten with a database's later rows", tally.forgotten),
            ("violations", len(tally.violations)),
        ]
    )


def faults(tally: Tally) -> Iterator[tuple[str, str]]:
    """Each by name, the most frequent first: how often it met somebody, of how often it struck.
    Of a campaign all are told, of the rest those that there were."""
    whole = len(tally.tried) > len(FAULTS) // 2
    names = [fault.name for fault in FAULTS] if whole else list(tally.tried or tally.faults)
    for name in sorted(names, key=lambda name: -tally.faults[name]):
        hit, tried = tally.faults[name], tally.tried[name]
        yield name, (f"{hit}" if hit else "NEVER HIT") + (f" of {tried}" if tally.tried else "")


def as_json(tally: Tally, spent_s: float) -> str:
    told = {of.name: getattr(tally, of.name) for of in fields(tally)}
    return json.dumps({**told, "seconds": spent_s})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--homes", type=int, default=4, help="so many at once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--from", type=int, default=0, dest="first", help="begin with this cycle")
    parser.add_argument("--replay", type=int, metavar="SEED", help="one cycle by its own seed")
    parser.add_argument("--kind", choices=list(KINDS), default="cpu", help="of home, to replay on")
    parser.add_argument("--only", metavar="NAME", help="faults whose name begins so")
    parser.add_argument("--sweep", action="store_true", help="every durability call of the daemon")
    parser.add_argument("--points", type=int, help="of the sweep: so many of them, spread evenly")
    parser.add_argument("--real", type=int, metavar="K", help="K kills of real training")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    return parser.parse_args()


def main() -> int:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    started = time.monotonic()
    if options.sweep:
        from bench.chaos.sweep import sweep

        tally = sweep(options.points)
    elif options.real is not None:
        from bench.chaos.real import real  # which needs torch

        tally = real(options.real, options.seed)
    elif options.replay is not None:
        tally = lane.replay(options.replay, options.kind, options.only)
    else:
        tally = campaign(options.cycles, options.homes, options.seed, options.first, options.only)
    spent_s = time.monotonic() - started
    if options.json:
        print(as_json(tally, spent_s))
    else:
        print(describe())
        report(tally, spent_s)
    return 1 if tally.violations else 0


if __name__ == "__main__":
    sys.exit(main())
