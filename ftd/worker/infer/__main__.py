"""The inference worker as a program: one model, answering until it is stopped (see program)."""

import sys
from pathlib import Path

from ftd.core.spec import ServeSpec
from ftd.core.wire import Accepted, Assign, Phase
from ftd.worker import program
from ftd.worker.report import Inbox, Report

_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "llguidance")


def main() -> int:
    return program.run("inference worker", _LIBRARIES, load)


def load() -> program.Work:
    from ftd.worker.infer import model
    from ftd.worker.infer.service import serve

    def work(assignment: Assign, report: Report, inbox: Inbox) -> None:
        spec = ServeSpec.model_validate_json(Path(assignment.spec).read_bytes())
        report(Accepted(job=assignment.job, attempt=assignment.attempt))
        report(Phase(name="loading"))
        serve(model.load(spec, Path()), spec, Path(), report, inbox.asked)

    return work


if __name__ == "__main__":
    sys.exit(main())
