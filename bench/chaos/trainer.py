"""A stand-in trainer that is quick and cannot cheat: every step is one more link of a hash chain.

    python -I -S trainer.py WITNESS

It speaks a worker's protocol with the standard library alone: a step takes 5 ms, a checkpoint holds
the chain's value where a real one holds weights and is published as a real one is. At its end it
compares the chain with that of a run that nobody disturbed. All the while it tells a witness file,
of which ftd knows nothing, what it does; that is how two trainers of one job, or steps that were
done again, are seen. A file whose first line has the word FLOOD makes it print 64 MB first.
"""

import ctypes
import errno
import faulthandler
import hashlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STEP_S = 0.005
EVERY = 10  # steps between checkpoints
FLOOD = b"FLOOD"
FLOOD_BYTES = 64 * 2**20
WEIGHTS = "adapter_model.safetensors"
PR_SET_PDEATHSIG = 1
FULL = (errno.ENOSPC, errno.EDQUOT)


class Course:
    """The whole of a job as a chain: `value(n)` is what its weights are after n steps."""

    def __init__(self, lines: Sequence[bytes], *, seed: int, epochs: int, batch: int) -> None:
        self._seed = seed
        self._batches = [b"".join(lines[at : at + batch]) for at in range(0, len(lines), batch)]
        self.epoch_steps = len(self._batches)
        self.steps = self.epoch_steps * epochs

    def begin(self) -> str:
        return hashlib.sha256(b"%d" % self._seed).hexdigest()

    def link(self, value: str, step: int) -> str:
        """The value after `step`, from that before it."""
        epoch, batch = divmod(step - 1, self.epoch_steps)
        data = b"%s %d " % (value.encode(), epoch) + self._batches[batch]
        return hashlib.sha256(data).hexdigest()

    def value(self, step: int) -> str:
        value = self.begin()
        for number in range(1, step + 1):
            value = self.link(value, number)
        return value

    def ends_epoch(self, step: int) -> bool:
        return step % self.epoch_steps == 0


class Witness:
    """Lines of a file that others append to as well, each written at once."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.of: dict[str, Any] = {"pid": os.getpid()}

    def __call__(self, what: str, step: int) -> None:
        seen = {"at": time.clock_gettime_ns(time.CLOCK_BOOTTIME), "what": what, "step": step}
        os.write(self._descriptor, json.dumps(self.of | seen).encode() + b"\n")


class Asked:
    """What the daemon and SIGTERM ask for, looked at between two steps."""

    def __init__(self) -> None:
        self.stop = False
        self._discard = False
        self.locks: list[int] = []  # kept open: they are the proof that this process lives
        self._commands = socket.socket(fileno=os.dup(0))
        signal.signal(signal.SIGTERM, lambda *_: self.ask({"save": True}))

    @property
    def save(self) -> bool:
        return self.stop and not self._discard

    def ask(self, stop: dict[str, Any]) -> None:
        self.stop = True
        self._discard = self._discard or not stop.get("save", False)

    def hear(self, timeout_s: float | None) -> list[dict[str, Any]]:
        """The commands that have come; a stop where nobody speaks any more."""
        if not select.select([self._commands], [], [], timeout_s)[0]:
            return []
        data, locks, _, _ = socket.recv_fds(self._commands, 65536, 64)
        self.locks += locks
        return [json.loads(line) for line in data.splitlines()] if data else [{"kind": "stop"}]

    def look(self) -> None:
        for command in self.hear(0):
            if command["kind"] == "stop":
                self.ask(command)


def say(kind: str, **fact: Any) -> None:
    line = json.dumps({"kind": kind} | fact).encode() + b"\n"
    os.write(int(os.environ["FTD_FACTS_FD"]), line)


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(os.environ["FTD_SHIM_PID"]):
        sys.exit(1)
    faulthandler.register(signal.SIGUSR1)
    witness, asked = Witness(sys.argv[1]), Asked()
    say("started", version=1, pid=os.getpid())
    assign = asked.hear(None)[0]
    if assign["kind"] == "stop":
        return
    witness.of |= {
        "job": assign["job"], "attempt": assign["attempt"], "run": Path.cwd().name,
        "devices": assign.get("gpus") or ["cpu"],
    }  # fmt: skip
    try:
        work(assign, witness, asked)
    except OSError as error:  # a full disk is told as the real trainer tells it
        if error.errno not in FULL:
            raise
        witness("failed", 0)
        say("failed", code="no_space", message=f"The disk is full: {error.strerror}.")


def work(assign: dict[str, Any], witness: Witness, asked: Asked) -> None:
    spec = json.loads(Path(assign["spec"]).read_bytes())
    places = [spec["resume"], *spec.get("resume_else", ())] if spec.get("resume") else []
    (step, value), damaged = choose(places)
    witness("begin", step)
    say("accepted", job=assign["job"], attempt=assign["attempt"])
    for place in damaged:
        say("notice", level="warn", message=f"The checkpoint {place} is damaged. It is not used.")
    if damaged and not step:
        say("resumed", step=0)  # all of them are of no use, and it begins anew
    say("phase", name="loading")
    lines = Path(spec["training_file"]).read_bytes().splitlines(keepends=True)
    if FLOOD in lines[0]:
        flood()
    epochs, batch = spec["n_epochs"], spec["batch_size"]
    course = Course(lines, seed=spec["seed"], epochs=epochs, batch=batch)
    say(
        "prepared", examples=len(lines), epoch_tokens=8 * len(lines),
        steps_per_epoch=course.epoch_steps, total_steps=course.steps,
    )  # fmt: skip
    if step:
        say("resumed", step=step)
    say("phase", name="training")
    train(course, step, value or course.begin(), witness, asked)


def train(course: Course, step: int, value: str, witness: Witness, asked: Asked) -> None:
    saved = step
    while step < course.steps:
        asked.look()
        if asked.stop:
            if asked.save and saved != step:
                save(course, step, value, witness)
            witness("stopped", step)
            say("stopped", step=step)
            return
        time.sleep(STEP_S)
        step += 1
        value = course.link(value, step)
        witness("step", step)
        say(
            "step", step=step, total_steps=course.steps, train_loss=1 / step, tokens=8,
            train_mean_token_accuracy=0.5, learning_rate=1e-4, loss_tokens=4, seconds=STEP_S,
        )  # fmt: skip
        if step % EVERY == 0 or course.ends_epoch(step):
            save(course, step, value, witness)
            saved = step
    if value != course.value(step):
        witness("broken", step)
        say("failed", code="chain_broken", message="The chain is not that of a run in peace.")
        return
    witness("done", step)
    say("done", step=step, trained_tokens=8 * step)


def save(course: Course, step: int, value: str, witness: Witness) -> None:
    """Publish a checkpoint as the real trainer does: aside, synced, named, synced, told."""
    say("phase", name="saving")
    parent = Path("out/checkpoints")
    final, draft = parent / f"step-{step}", parent / f".step-{step}.draft"
    (draft / "adapter").mkdir(parents=True)
    contents = {
        f"adapter/{WEIGHTS}": value,
        "adapter/adapter_config.json": "{}",
        "state.json": json.dumps({"step": step, "value": value}),
    }
    try:
        for name, text in contents.items():
            (draft / name).write_text(text)
            sync(draft / name)
        files = [
            {"name": name, "size": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}
            for name, text in sorted(contents.items())
        ]
        epoch = step // course.epoch_steps
        manifest = json.dumps({"version": 1, "step": step, "epoch": epoch, "files": files})
        (draft / "MANIFEST.json").write_text(manifest)
        sync(draft / "MANIFEST.json", draft / "adapter", draft)
        draft.rename(final)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    sync(parent)
    sha256 = hashlib.sha256(manifest.encode()).hexdigest()
    say(
        "saved", step=step, epoch=epoch, path=f"checkpoints/{final.name}", manifest_sha256=sha256,
        epoch_end=course.ends_epoch(step),
    )  # fmt: skip
    witness("saved", step)
    say("phase", name="training")


def choose(places: Sequence[str]) -> tuple[tuple[int, str], list[str]]:
    """The step and the value of the newest checkpoint that is as it was published, or of none; and
    those before it that are not."""
    for number, place in enumerate(places):
        restored = restore(Path(place))
        if restored is not None:
            return restored, list(places[:number])
    return (0, ""), list(places)


def restore(checkpoint: Path) -> tuple[int, str] | None:
    """The step and the value of a checkpoint; None when it does not hold what was published."""
    try:
        for file in json.loads((checkpoint / "MANIFEST.json").read_bytes())["files"]:
            data = (checkpoint / file["name"]).read_bytes()
            if hashlib.sha256(data).hexdigest() != file["sha256"]:
                return None
    except FileNotFoundError:
        return None
    state = json.loads((checkpoint / "state.json").read_bytes())
    return state["step"], state["value"]


def sync(*paths: Path) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def flood() -> None:
    block = b"\xff" * 65536  # no line ends, and no text
    for _ in range(FLOOD_BYTES // len(block)):
        os.write(1, block)


if __name__ == "__main__":
    main()
