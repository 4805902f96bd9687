"""A fake worker for the runner: it plays the script that lies in the place of the training file.

Beside the verbs of tests/launch/fakeworker.py:

    ["attempt", n, verb ...]  plays the verb in the job's attempt of that number alone
    ["checkpoint", step]    publishes one, with a manifest, and says saved; a trainer that has taken
                            no step yet says that it took this one
    ["point", step]         the same between two epochs
    ["damaged", step]       the same with a model that is not what its manifest says
    ["onward", every, n]    takes so many steps, after in/resume, publishes a point and is killed;
                            the attempt that comes to step n has made the model
    ["gate"]                waits until out/open is there
    ["done", step]          says done and exits 0
    ["train", n, gates, s]  takes n steps, or those after in/resume, saves and says done; after one
                            that is in `gates` it waits until it is asked to stop, which takes s
                            seconds (none unless given); it saves if it shall
    ["tokens", directory]   leaves a copy of it as out/tokens/training, unless it was lent one; says
                            which in a notice

Those of traps.py are a liar's.
"""

import faulthandler
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "launch"))
sys.path.insert(0, str(Path(__file__).parent))

import fakeworker
import traps


def checkpoint(step: int, *, epoch_end: bool = True, damaged: bool = False) -> None:
    if step and not {"step", "resumed"} & fakeworker.SAID.keys():
        fakeworker.say(fakeworker.step(step, step))
    place = Path(f"out/checkpoints/step-{step}")
    (place / "adapter").mkdir(parents=True)
    weights = b"weights %d" % step
    written = weights.upper() if damaged else weights
    (place / "adapter" / "adapter_model.safetensors").write_bytes(written)
    listed = {
        "name": "adapter/adapter_model.safetensors",
        "size": len(weights),
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    manifest = json.dumps({"version": 1, "step": step, "epoch": 1, "files": [listed]}).encode()
    (place / "MANIFEST.json").write_bytes(manifest)
    sha256 = hashlib.sha256(manifest).hexdigest()
    fakeworker.say(
        {
            "kind": "saved",
            "step": step,
            "epoch": 1,
            "path": f"checkpoints/step-{step}",
            "manifest_sha256": sha256,
            "epoch_end": epoch_end,
        }
    )


def point(step: int) -> None:
    checkpoint(step, epoch_end=False)


def damaged(step: int) -> None:
    checkpoint(step, damaged=True)


def gate() -> None:
    while not Path("out/open").exists():
        time.sleep(0.01)


def onward(every: int, total: int) -> None:
    resumed = Path("in/resume/MANIFEST.json")
    begun = json.loads(resumed.read_text())["step"] if resumed.exists() else 0
    if begun:
        fakeworker.say({"kind": "resumed", "step": begun})
    for taken in range(begun, begun + every):
        fakeworker.say(fakeworker.step(taken + 1, total))
    if begun + every >= total:
        checkpoint(total)
        done(total)
    point(begun + every)
    os.kill(os.getpid(), signal.SIGKILL)


def attempt(number: int, verb: str, *arguments: Any) -> None:
    if json.loads(Path("in/spec.json").read_text())["attempt"] == number:
        fakeworker.play([[verb, *arguments]])


def done(step: int) -> None:
    fakeworker.say({"kind": "done", "step": step, "trained_tokens": 64 * step})
    sys.exit(0)


def tokens(directory: str) -> None:
    lent = Path("in/tokens/training").is_dir()
    if not lent:
        shutil.copytree(directory, "out/tokens/training", symlinks=True)
    message = "took lent tokens" if lent else "made tokens"
    fakeworker.say({"kind": "notice", "level": "info", "message": message})


def train(total: int, gates: list[int], save_s: float = 0.0) -> None:
    resumed = Path("in/resume/MANIFEST.json")
    begun = json.loads(resumed.read_text())["step"] if resumed.exists() else 0
    if begun:
        fakeworker.say({"kind": "resumed", "step": begun})
    for taken in range(begun, total):
        waits = taken in gates and taken > begun
        if stop := fakeworker.stop_asked(None if waits else 0):
            Path("out/stop.json").write_text(json.dumps(stop))
            time.sleep(save_s)
            if stop.get("save") and taken > begun:
                checkpoint(taken, epoch_end=False)
            fakeworker.say({"kind": "stopped", "step": taken})
            sys.exit(0)
        fakeworker.say(fakeworker.step(taken + 1, total))
    checkpoint(total)
    done(total)


def main() -> None:
    fakeworker.die_with_shim()
    faulthandler.register(signal.SIGUSR1)
    fakeworker.VERBS |= {"attempt": attempt}
    fakeworker.VERBS |= traps.VERBS
    fakeworker.VERBS |= {"checkpoint": checkpoint, "done": done, "tokens": tokens, "train": train}
    fakeworker.VERBS |= {"damaged": damaged, "point": point, "gate": gate, "onward": onward}
    fakeworker.say({"kind": "started", "version": 1, "pid": 1})
    assign = fakeworker.hear([])[0]
    if assign["kind"] == "stop":
        return
    fakeworker.say({"kind": "accepted", "job": assign["job"], "attempt": assign["attempt"]})
    fakeworker.play(json.loads(Path("in/training.jsonl").read_text()))


if __name__ == "__main__":
    main()
