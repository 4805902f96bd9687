"""Logs are events with fields: one line each, for the night; people read ftctl."""

import logging
import os
import sys

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PRIORITY = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}  # syslog's


class Formatter(logging.Formatter):
    """`time LEVEL logger event key=value ...`; under systemd a priority instead of the time."""

    def __init__(self, journal: bool) -> None:
        super().__init__(datefmt="%Y-%m-%dT%H:%M:%S")
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(
            f" {key}={_value(value)}"
            for key, value in vars(record).items()
            if key not in _OWN and value is not None
        )
        line = f"{record.name} {record.getMessage()}{fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        if self._journal:
            prefix = f"<{_PRIORITY.get(record.levelname, 6)}>"
            return prefix + line.replace("\n", f"\n{prefix}")
        return f"{self.formatTime(record, self.datefmt)} {record.levelname} {line}"


def set_up(level: str) -> None:
    """Send everything from `level` on to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter(journal="JOURNAL_STREAM" in os.environ))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("asyncio", "aiosqlite", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _value(value: object) -> str:
    """One word: escaped, so that nothing can forge a second line or field."""
    text = str(value)
    plain = text.isprintable() and text and not set(text) & set(' "=')
    return text if plain else repr(text)
