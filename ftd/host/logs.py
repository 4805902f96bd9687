"""Logs are events with fields: one line each, for the night; people read ftctl."""

import logging
import os
import sys
from types import TracebackType
from typing import TypeAlias

from ftd.host import redact

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
AUDIT = "ftd.audit"  # the logger of ftd.service.audit
_PRIORITY = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}  # syslog's

_ExcInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)


class Formatter(logging.Formatter):
    """`time LEVEL logger event key=value ...`; under systemd a priority instead of the time."""

    def __init__(self, journal: bool, words: bool = False) -> None:
        """`words`: those of errors that may quote what was sent, too."""
        super().__init__(datefmt="%Y-%m-%dT%H:%M:%S")
        self._journal = journal
        self._words = words

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(
            f" {key}={_value(value)}"
            for key, value in vars(record).items()
            if key not in _OWN and value is not None
        )
        line = f"{record.name} {_line(self._message(record))}{fields}"
        if record.exc_info:  # indented: whatever an error says, it begins no event
            trace = self.formatException(record.exc_info).splitlines()
            line += "".join(f"\n  {_line(each)}" for each in trace)
        line = redact.without_keys(line)
        if self._journal:
            prefix = f"<{_PRIORITY.get(record.levelname, 6)}>"
            return prefix + line.replace("\n", f"\n{prefix}")
        return f"{self.formatTime(record, self.datefmt)} {record.levelname} {line}"

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802 - logging's name
        if ei[1] is None or self._words:
            return super().formatException(ei)
        return redact.trace(ei[1])

    def _message(self, record: logging.LogRecord) -> str:
        """What it says; asyncio puts into it the error of a task that nobody awaited."""
        message = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        if error is None or self._words or not redact.quotes(error):
            return message
        return message.replace(repr(error), type(error).__qualname__)


def set_up(level: str) -> None:
    """Send everything from `level` on to stderr, and who did what at every level."""
    handler = logging.StreamHandler(sys.stderr)
    words = level.upper() == "DEBUG"
    handler.setFormatter(Formatter(journal="JOURNAL_STREAM" in os.environ, words=words))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("asyncio", "aiosqlite", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger(AUDIT).setLevel(logging.INFO)


def _line(text: str) -> str:
    """On one line, and with nothing in it that steers a terminal: others' words are in messages."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _value(value: object) -> str:
    """One word: escaped, so that nothing can forge a second line or field."""
    text = str(value)
    plain = text.isprintable() and text and not set(text) & set(' "=')
    return text if plain else repr(text)
