"""What a trainer of ill will leaves in its run directory, and how it floods: verbs of scripted.py.

["traps"]               leaves, in out/, paths that lead nowhere good; see below
["again"]               says again what was last said of a checkpoint
["spoil", how, where]   makes the model of the last checkpoint what it must not be
["write", name, text]   a file of the run directory
["flood", n]            says n steps as fast as the pipe takes them
["end the shim"]        kills its shim, and ends
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import fakeworker

PIECE = 400  # steps in one write of a flood: no more than a pipe holds


def traps() -> None:
    """circle: links that lead to themselves; pipe: a manifest that never comes; endless: one that
    never ends; outside: a directory of somebody else."""
    out = Path("out")
    (out / "circle").symlink_to("circle")
    (out / "pipe").mkdir()
    os.mkfifo(out / "pipe" / "MANIFEST.json")
    (out / "endless").mkdir()
    (out / "endless" / "MANIFEST.json").symlink_to("/dev/zero")
    (out / "outside").symlink_to("/etc")


def again() -> None:
    fakeworker.say(fakeworker.SAID["saved"])


def spoil(how: str, where: str) -> None:
    model = Path("out") / fakeworker.SAID["saved"]["path"] / "adapter"
    shutil.rmtree(model)
    match how:
        case "link":
            model.symlink_to(where)
        case "nested link":
            model.mkdir()
            (model / "adapter_model.safetensors").symlink_to(f"{where}/adapter_model.safetensors")
        case "pipe":
            model.mkdir()
            os.mkfifo(model / "adapter_model.safetensors")
        case "changed":
            model.mkdir()
            (model / "adapter_model.safetensors").write_bytes(b"a disk's own idea")
        case _:
            assert how == "missing"


def write(name: str, text: str) -> None:
    Path(name).write_text(text)


def flood(total: int) -> None:
    for start in range(1, total + 1, PIECE):
        numbers = range(start, min(start + PIECE, total + 1))
        steps = (json.dumps(fakeworker.step(number, total)).encode() for number in numbers)
        data = b"".join(step + b"\n" for step in steps)
        while data:
            data = data[os.write(fakeworker.FACTS, data) :]


def end_the_shim() -> None:
    os.kill(int(os.environ["FTD_SHIM_PID"]), signal.SIGKILL)
    sys.exit(0)


VERBS = {
    "traps": traps,
    "again": again,
    "spoil": spoil,
    "write": write,
    "flood": flood,
    "end the shim": end_the_shim,
}
