"""Training beside TRL: tokens a second, peak memory and final loss, in one run.

    python -m bench.train_speed [--rounds 3] [--only SUBJECT ...] [--examples N] [--anyway] [--json]
    python -m bench.train_speed --against-reference      our losses beside one example a pass
    python -m bench.train_speed --shape NAME             random weights: see bench.shapes

Everybody trains LoRA (rank 16, alpha 32, all linear layers) on SmolLM2-135M-Instruct for one epoch
in batches of 8, from the same file in the same order, at a peak rate of 2e-4, with two threads and
without evaluation. `ordinary` is 160 short real conversations, `shared` is 64 of them under one
long system prompt (bench.data).

tokens/s counts the real tokens of the examples, the same for everybody whatever is padded, cut out
or computed once, from the end of the first step to the end of the last; so imports, loading, the
first step and saving do not count. Memory is the largest resident set of the whole process, from
its start to its end, mapped files included.

    ours           in float32, as jobs are trained on a processor
    ours-bfloat16  with training.dtype = "bfloat16"
    trl            TRL with its defaults: bfloat16 autocast, every layer recomputed
    trl-float32    the same in float32 with nothing recomputed
    trl-packed     trl-float32 that packs rows (best fit, so in another order) of about 8 examples,
                   a row a step: the same effective batch

What must hold is asked of subjects that compute in the same precision; bench/README.md says why.

TRL trains on every token, ours on what the assistant says: their losses do not compare. To see that
ours is right is what --against-reference is for.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import child, data, shapes, trainer
from bench.machine import Spread, alternate, describe, require_quiet, say, table
from ftd.worker.train.schedule import Stream, order
from tests.starter import starter_model

PLAIN = Path(__file__).resolve().parent / "plain"
THREADS = 2
REFERENCE_STEPS = 20
REFERENCE_LOSS = 1e-4  # the most that two losses of the same step may differ by

_FASTER = {"bf16": False, "gradient_checkpointing": False}
TRL: dict[str, dict[str, Any]] = {
    "trl": {},
    "trl-float32": _FASTER,
    "trl-packed": _FASTER | {"packing": True, "per_device_train_batch_size": 1},
}
OURS: dict[str, dict[str, Any]] = {"ours": {}, "ours-bfloat16": {"dtype": "bfloat16"}}
SUBJECTS = (*OURS, *TRL)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Examples in the order of training."""

    name: str
    examples: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Result:
    tokens: int
    tokens_per_s: float
    peak_bytes: int
    loss: float


def datasets(limit: int | None) -> list[Dataset]:
    sets = {
        "ordinary": data.conversations(160),
        "shared": data.conversations(64, data.SYSTEM_PROMPT),
    }
    return [Dataset(name, examples[:limit]) for name, examples in sets.items()]


def ours(dataset: Dataset, changes: dict[str, Any]) -> Result:
    with tempfile.TemporaryDirectory(prefix="ftd-bench-") as scratch:
        spec = trainer.spec(threads=THREADS, **changes)
        root = Path(scratch) / "run"
        trainer.prepare(root, starter_model(), data.lines(dataset.examples), spec)
        done = trainer.train(root)
    tokens = sum(step.tokens for step in done.steps)
    return Result(tokens, done.tokens_per_s(), done.peak_bytes, done.losses[-1])


def trl(dataset: Dataset, changes: dict[str, Any], tokens: int) -> Result:
    """TRL on the examples in the very order in which ours takes them.

    `tokens` is how many ours counted, to be sure that both were given the same.
    """
    batch = trainer.spec().batch_size
    config = {
        "learning_rate": trainer.LEARNING_RATE,
        "per_device_train_batch_size": batch,
        "num_train_epochs": 1,
    } | changes
    if changes.get("packing"):
        config["max_length"] = tokens * batch // len(dataset.examples)
    settings = {
        "threads": THREADS,
        "config": config,
        "lora": {"r": trainer.RANK, "lora_alpha": trainer.ALPHA, "target_modules": "all-linear"},
    }
    plan = order(trainer.spec().seed, Stream.TRAINING, 0, len(dataset.examples))
    with tempfile.TemporaryDirectory(prefix="ftd-bench-") as scratch:
        root = Path(scratch)
        (root / "model").symlink_to(starter_model())
        (root / "training.jsonl").write_bytes(data.lines([dataset.examples[n] for n in plan]))
        (root / "settings.json").write_text(json.dumps(settings))
        python = str(data.VENV / "bin" / "python")
        ended = child.run([python, str(PLAIN / "trl_sft.py"), scratch], threads=THREADS)
    return _told_by_trl([json.loads(line.text) for line in ended.lines], ended.peak_bytes, config)


def _told_by_trl(told: list[dict[str, Any]], peak_bytes: int, config: dict[str, Any]) -> Result:
    ends_s = [line["at_s"] for line in told if "at_s" in line]
    # The template ends each example with a line break, which ours does not compute.
    rows = next(
        [row["tokens"] - row["examples"] for row in line["rows"]] for line in told if "rows" in line
    )
    counted = sum(rows[config["per_device_train_batch_size"] :])
    loss = [line["loss"] for line in told if "loss" in line][-1]
    return Result(sum(rows), counted / (ends_s[-1] - ends_s[0]), peak_bytes, loss)


Results = dict[str, list[Result]]


def measure(chosen: list[str], rounds: int, limit: int | None) -> dict[str, Results]:
    """Of each dataset and subject, the results of all rounds."""
    found: dict[str, Results] = {}
    for dataset in datasets(limit):
        results: Results = {name: [] for name in chosen}

        def subject(name: str, dataset: Dataset = dataset, results: Results = results) -> float:
            tokens = results["ours"][0].tokens if results["ours"] else 0
            given = OURS.get(name)
            done = trl(dataset, TRL[name], tokens) if given is None else ours(dataset, given)
            if tokens and done.tokens != tokens:
                sys.exit(f"{name} has {done.tokens:,} tokens where ours has {tokens:,}")
            results[name].append(done)
            return done.tokens_per_s

        subjects: dict[str, Callable[[], float]] = {
            name: lambda name=name, subject=subject: subject(name)  # type: ignore[misc]
            for name in chosen
        }
        say(f"{dataset.name}: {len(dataset.examples)} examples")
        alternate(subjects, rounds)
        found[dataset.name] = results
    return found


def speed(results: Results, name: str) -> float:
    return Spread(tuple(result.tokens_per_s for result in results[name])).median


def peak(results: Results, name: str) -> float:
    return Spread(tuple(result.peak_bytes / 2**30 for result in results[name])).median


def verdicts(found: dict[str, Results]) -> list[tuple[str, str, bool]]:
    """What must hold, each with its figure; only of subjects that were measured."""
    held = []
    for dataset, name, against, least in (
        ("ordinary", "ours-bfloat16", "trl", 4.0),
        ("ordinary", "ours", "trl-float32", 4.0),
        ("ordinary", "ours", "trl-packed", 3.0),
        ("shared", "ours-bfloat16", "trl", 12.0),
        ("shared", "ours", "trl-float32", 12.0),
    ):
        results = found[dataset]
        if name in results and against in results:
            ratio = speed(results, name) / speed(results, against)
            asked = f"{dataset}, tokens/s of {name} against {against}: at least {least:g}"
            held.append((asked, ratio, ratio >= least))
    for name, against in (("ours-bfloat16", "trl"), ("ours", "trl-float32")):
        results = found["ordinary"]
        if name in results and against in results:
            share = peak(results, name) / peak(results, against)
            asked = f"ordinary, memory of {name} against {against}: at most 1/3"
            held.append((asked, share, share <= 1 / 3))
    return [(name, f"{figure:.3g}", holds) for name, figure, holds in held]


def against_reference() -> tuple[list[float], list[float]]:
    """The losses of the first steps: ours, and those of one example a pass."""
    with tempfile.TemporaryDirectory(prefix="ftd-bench-") as scratch:
        spec = trainer.spec(threads=THREADS)
        lines = data.lines(datasets(None)[0].examples)
        root = trainer.prepare(Path(scratch) / "run", starter_model(), lines, spec)
        say("ours, packed")
        packed = trainer.train(root).losses[:REFERENCE_STEPS]
        say("the reference, one example a pass")
        command = [sys.executable, str(PLAIN / "reference.py"), str(root), str(REFERENCE_STEPS)]
        ended = child.run(command, threads=THREADS)
    return packed, [float(line.text) for line in ended.lines]


def report_reference(*, as_json: bool) -> bool:
    packed, single = against_reference()
    worst = max(abs(one - other) for one, other in zip(packed, single, strict=True))
    holds = worst <= REFERENCE_LOSS
    if as_json:
        print(json.dumps({"packed": packed, "reference": single, "largest_difference": worst}))
        return holds
    print(f"{'step':>4}  {'packed':>10}  {'one by one':>10}  {'difference':>10}")
    for step, (one, other) in enumerate(zip(packed, single, strict=True), 1):
        print(f"{step:>4}  {one:>10.6f}  {other:>10.6f}  {one - other:>+10.1e}")
    name = f"largest difference of {len(packed)} losses: at most {REFERENCE_LOSS:g}"
    table([(name, f"{worst:.2g} {'holds' if holds else 'FAILS'}")])
    return holds


def report(found: dict[str, Results], rounds: int, *, as_json: bool) -> bool:
    held = verdicts(found)
    if as_json:
        print(json.dumps({
            dataset: {
                name: {
                    "tokens": taken[0].tokens,
                    "tokens_per_s": [result.tokens_per_s for result in taken],
                    "peak_bytes": [result.peak_bytes for result in taken],
                    "final_loss": [result.loss for result in taken],
                }
                for name, taken in results.items()
            }
            for dataset, results in found.items()
        }))  # fmt: skip
        return all(holds for _, _, holds in held)
    print(f"{describe()}; {THREADS} threads; median (least to most) of {rounds} rounds")
    for dataset, results in found.items():
        print(f"\n{dataset}: {results['ours'][0].tokens:,} tokens")
        print(f"{'':<13}  {'tokens/s':<24}  {'peak GiB':<24}  final loss")
        for name, taken in results.items():
            speeds = Spread(tuple(result.tokens_per_s for result in taken))
            peaks = Spread(tuple(result.peak_bytes / 2**30 for result in taken))
            print(f"{name:<13}  {speeds!s:<24}  {peaks!s:<24}  {taken[-1].loss:.3f}")
    print()
    table([(name, f"{figure} {'holds' if holds else 'FAILS'}") for name, figure, holds in held])
    return all(holds for _, _, holds in held)


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=[], metavar="SUBJECT",
                        help="ours beside these: " + ", ".join(SUBJECTS[1:]))  # fmt: skip
    parser.add_argument("--examples", type=int, help="of each dataset; fewer is a quick look")
    parser.add_argument("--against-reference", action="store_true")
    parser.add_argument("--shape", choices=shapes.SHAPES)
    parser.add_argument("--peak-tflops", type=float, help="of the device, where it is not known")
    parser.add_argument("--anyway", action="store_true", help="measure on a busy machine too")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # and the child with it
    require_quiet(anyway=options.anyway)
    if options.shape:
        shapes.report(options.shape, options.peak_tflops, as_json=options.json)
        return 0
    if options.against_reference:
        return 0 if report_reference(as_json=options.json) else 1
    os.environ["PYTHONHASHSEED"] = "0"  # of every subject alike
    chosen = ["ours", *(name for name in SUBJECTS[1:] if not options.only or name in options.only)]
    found = measure(chosen, options.rounds, options.examples)
    return 0 if report(found, options.rounds, as_json=options.json) else 1


if __name__ == "__main__":
    sys.exit(main())
