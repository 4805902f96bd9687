"""Kills, freezes and full disks against a real daemon, with a checker behind them.

    python -m bench.chaos [--cycles 1000] [--homes 4] [--seed 1] [--from 0] [--json]
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
from collections.abc import Mapping
from dataclasses import asdict

from bench.chaos import lane
from bench.chaos.lane import KINDS, Tally
from bench.machine import describe, table

SHOWN = 12  # places where the daemon was killed, the most frequent


def campaign(cycles: int, homes: int, seed: int, first: int) -> Tally:
    """The cycles from `first` on, dealt out to as many homes as there are lanes."""
    total = Tally()
    numbers = range(first, first + cycles)
    context = multiprocessing.get_context("spawn")
    lanes = []
    for n in range(homes):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=lane.run, args=(theirs, n, numbers[n::homes], seed))
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
            *((f"  {name}", count) for name, count in tally.faults.most_common()),
            ("daemon killed at so many different places", len(tally.points)),
            *((f"  {name}", count) for name, count in tally.points.most_common(SHOWN)),
            ("kills at them", kills),
            ("jobs acknowledged", tally.jobs),
            *((f"  {name}", count) for name, count in tally.ends.most_common()),
            ("events read", tally.events),
            ("requests answered", tally.answers),
            ("requests refused with 5xx", tally.refusals),
            ("most steps done again after a loss", tally.redone),
            ("violations", len(tally.violations)),
        ]
    )


def as_json(tally: Tally, spent_s: float) -> str:
    told: Mapping[str, object] = asdict(tally)
    return json.dumps({**told, "seconds": spent_s})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--homes", type=int, default=4, help="so many at once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--from", type=int, default=0, dest="first", help="begin with this cycle")
    parser.add_argument("--replay", type=int, metavar="SEED", help="one cycle by its own seed")
    parser.add_argument("--kind", choices=list(KINDS), default="cpu", help="of home, to replay on")
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
        tally = lane.replay(options.replay, options.kind)
    else:
        tally = campaign(options.cycles, options.homes, options.seed, options.first)
    spent_s = time.monotonic() - started
    if options.json:
        print(as_json(tally, spent_s))
    else:
        print(describe())
        report(tally, spent_s)
    return 1 if tally.violations else 0


if __name__ == "__main__":
    sys.exit(main())
