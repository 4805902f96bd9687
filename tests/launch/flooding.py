"""A worker that pours: megabytes on stdout or stderr between the steps that it says.

Its spec is {"megabytes": n, "kind": kind, "steps": n}, kind one of those in KINDS.
"""

import json
import os
import time
from pathlib import Path

import fakeworker

PIECE = 2**16
KINDS = {
    "lines": b"x" * 99 + b"\n",
    "no newline": b"y" * 128,
    "binary": bytes(range(256)),
    "ansi": b"\x1b[31mred\x1b[0m\r\x1b[2K",
}


def pour(descriptor: int, pattern: bytes, size: int) -> None:
    piece = (pattern * (PIECE // len(pattern) + 1))[:PIECE]
    while size > 0:
        size -= os.write(descriptor, piece[:size])


def main() -> None:
    fakeworker.say({"kind": "started", "version": 1, "pid": os.getpid()})
    assign = fakeworker.hear([])[0]
    if assign["kind"] == "stop":
        return
    fakeworker.say({"kind": "accepted", "job": assign["job"], "attempt": assign["attempt"]})
    spec = json.loads(Path(assign["spec"]).read_text())
    os.write(1, b"the very first words\n")
    began = time.monotonic()
    share = spec["megabytes"] * 2**20 // spec["steps"]
    for number in range(1, spec["steps"] + 1):
        pour(1 + number % 2, KINDS[spec["kind"]], share)
        fakeworker.say(fakeworker.step(number, spec["steps"]))
    took = time.monotonic() - began
    os.write(2, b"\nthe very last words\n")
    message = f"poured in {took:.3f} s"
    fakeworker.say({"kind": "notice", "level": "info", "message": message})
    fakeworker.say({"kind": "done", "step": spec["steps"], "trained_tokens": 0})


if __name__ == "__main__":
    main()
