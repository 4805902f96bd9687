"""The trainer as a program: one job, from its spec to Done, Stopped or Failed.

Without arguments it is what a shim starts and assigns a job to (see program); with a spec file it
trains alone (see alone).
"""

import sys
from pathlib import Path

from ftd.core.spec import TrainSpec
from ftd.core.wire import Accepted, Assign
from ftd.worker import program
from ftd.worker.report import Inbox, Report
from ftd.worker.train import alone

_LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "safetensors")


def main() -> int:
    if sys.argv[1:]:
        return alone.main(sys.argv[1:], _LIBRARIES)
    return program.run("trainer", _LIBRARIES, load, words=True)


def load() -> program.Work:
    from ftd.worker.train.loop import attempt

    def work(assignment: Assign, report: Report, inbox: Inbox) -> None:
        spec = TrainSpec.model_validate_json(Path(assignment.spec).read_bytes())
        report(Accepted(job=assignment.job, attempt=assignment.attempt))
        report(attempt(spec, Path(), report, inbox.asked))

    return work


if __name__ == "__main__":
    sys.exit(main())
