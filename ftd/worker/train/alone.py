"""The trainer alone: one job from its spec file, without a daemon or a shim.

    python -m ftd.worker.train SPEC.json [--root DIR] [--random-weights]

What it says goes to stdout as JSON lines, the same facts that a daemon hears; the log to stderr.
The paths in the spec are relative to DIR, by default the current directory, as is `out`, where
tokens and checkpoints land. SIGINT and SIGTERM ask it to save and stop at the next step boundary;
a second SIGINT ends it at once. With --random-weights the model's directory needs only config.json
and a tokenizer: the weights are drawn by the seed, on the device, in the spec's dtype; so a speed
can be measured without a model to download.

It exits 0 when the job is done, 1 when it failed, 2 for a spec or path that cannot be used, 130
when it was stopped.
"""

import argparse
import importlib.metadata
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from ftd.core.errors import FtdError
from ftd.core.spec import TrainSpec
from ftd.core.wire import Fact, Notice, Started, Stop, Stopped
from ftd.worker import program
from ftd.worker.report import Asked, Report

DONE = 0
FAILED = 1
UNUSABLE = 2
STOPPED = 130


class Unusable(Exception):
    """The spec, or a path in it, cannot be used: one line that says why."""


def main(arguments: Sequence[str], libraries: Sequence[str]) -> int:
    """Be the program; returns its exit status."""
    options = _options(arguments)
    try:
        spec = _spec(options.spec)
        _check(spec, options)
    except Unusable as error:
        _say(str(error))
        return UNUSABLE
    report = Report(_facts())
    asked = _stoppable()
    program.settle()
    try:
        return _train(spec, options, libraries, report, asked)
    except BrokenPipeError:
        _say("nobody reads the facts any more")
        return FAILED
    except Exception as error:  # noqa: BLE001 - the one place where any fault becomes a fact
        if not isinstance(error, FtdError):
            traceback.print_exc()
        failed = program.failure(error, "trainer")
        _say(failed.message)
        report(failed)
        return FAILED


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ftd.worker.train", description="Train one job, without the daemon."
    )
    parser.add_argument("spec", metavar="SPEC.json", type=Path)
    parser.add_argument("--root", metavar="DIR", type=Path, default=Path())
    parser.add_argument(
        "--random-weights", action="store_true", help="the model's directory holds none"
    )
    return parser.parse_args(arguments)


def _spec(path: Path) -> TrainSpec:
    try:
        return TrainSpec.model_validate_json(path.read_bytes())
    except OSError as error:
        raise Unusable(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = "".join(f"{part}: " for part in first["loc"])
        raise Unusable(f"{path}: {where}{first['msg']}") from error


def _check(spec: TrainSpec, options: argparse.Namespace) -> None:
    """Refuse what a daemon would never have assigned, before seconds of imports."""
    needed = [spec.model, spec.training_file, spec.validation_file, spec.adapter, spec.resume]
    for name in needed:
        if name is not None and not (options.root / name).exists():
            raise Unusable(f"{options.root / name}: there is no such file or directory")
    if options.random_weights and spec.resume is not None:
        raise Unusable("--random-weights begins anew: the spec must not resume from a checkpoint")


def _say(words: str) -> None:
    sys.stderr.write(f"{words}\n")


def _facts() -> int:
    """A descriptor of stdout for facts alone; what libraries print goes to the log from now on."""
    facts = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return facts


def _stoppable() -> Asked:
    """What SIGINT and SIGTERM ask for."""
    asked = Asked()

    def stop(signum: int, _: FrameType | None) -> None:
        asked.ask(Stop(save=True))
        signal.signal(signum, signal.default_int_handler)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, lambda *_: asked.ask(Stop(save=True)))
    return asked


def _train(
    spec: TrainSpec,
    options: argparse.Namespace,
    libraries: Sequence[str],
    report: Callable[[Fact], None],
    asked: Asked,
) -> int:
    from ftd.worker import pretrained
    from ftd.worker.train.loop import attempt

    versions = {library: importlib.metadata.version(library) for library in libraries}
    report(Started(pid=os.getpid(), libraries=versions))
    (options.root / "out").mkdir(exist_ok=True)
    read = pretrained.draw if options.random_weights else pretrained.load
    outcome = attempt(spec, options.root, report, asked, read)
    report(_memory())
    report(outcome)
    return STOPPED if isinstance(outcome, Stopped) else DONE


def _memory() -> Notice:
    """The most that this process has held so far, and the most that it had of its GPU."""
    import torch

    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return Notice(
        message=f"Peak memory: {host / 2**30:.2f} GiB of the host, {device / 2**30:.2f} of the GPU",
        data={"peak_host_bytes": host, "peak_device_bytes": device},
    )
