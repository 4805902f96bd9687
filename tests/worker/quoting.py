"""A program that fails at a row, in words that quote it. With in/words it may log them."""

import sys
from pathlib import Path

from pydantic import BaseModel

from ftd.core.wire import Assign
from ftd.worker import program
from ftd.worker.report import Inbox, Report


class Row(BaseModel):
    text: str


def load() -> program.Work:
    def work(assignment: Assign, report: Report, inbox: Inbox) -> None:
        row = Row.model_validate_json(Path(assignment.spec).read_bytes())
        try:
            int(row.text)
        except ValueError as error:
            raise KeyError(row.text) from error

    return work


if __name__ == "__main__":
    words = Path("in/words").exists()
    sys.exit(program.run("quoting program", (), load, words=words))
