"""A fake worker for the runner: it plays the script that lies in the place of the training file.

Beside the verbs of tests/launch/fakeworker.py:

    ["checkpoint", step]    publishes one, with a manifest, and says saved
    ["done", step]          says done and exits 0
    ["tokens", directory]   leaves a copy of it as out/tokens/training, unless it was lent one; says
                            which in a notice
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "launch"))

import fakeworker


def checkpoint(step: int) -> None:
    place = Path(f"out/checkpoints/step-{step}")
    (place / "adapter").mkdir(parents=True)
    (place / "adapter" / "adapter_model.safetensors").write_bytes(b"weights %d" % step)
    manifest = json.dumps({"step": step}).encode()
    (place / "MANIFEST.json").write_bytes(manifest)
    sha256 = hashlib.sha256(manifest).hexdigest()
    fakeworker.say(
        {
            "kind": "saved",
            "step": step,
            "epoch": 1,
            "path": f"checkpoints/step-{step}",
            "manifest_sha256": sha256,
        }
    )


def done(step: int) -> None:
    fakeworker.say({"kind": "done", "step": step, "trained_tokens": 64 * step})
    sys.exit(0)


def tokens(directory: str) -> None:
    lent = Path("in/tokens/training").is_dir()
    if not lent:
        shutil.copytree(directory, "out/tokens/training", symlinks=True)
    message = "took lent tokens" if lent else "made tokens"
    fakeworker.say({"kind": "notice", "level": "info", "message": message})


def main() -> None:
    fakeworker.VERBS |= {"checkpoint": checkpoint, "done": done, "tokens": tokens}
    fakeworker.say({"kind": "started", "version": 1, "pid": 1})
    assign = fakeworker.hear([])[0]
    if assign["kind"] == "stop":
        return
    fakeworker.say({"kind": "accepted", "job": assign["job"], "attempt": assign["attempt"]})
    fakeworker.play(json.loads(Path("in/training.jsonl").read_text()))


if __name__ == "__main__":
    main()
