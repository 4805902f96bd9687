"""Identifiers in OpenAI's forms, drawn from a source of chance that is handed in."""

import string
from collections.abc import Callable
from dataclasses import dataclass

ALPHABET = string.ascii_letters + string.digits

# Choice(alphabet) -> one character; secrets.choice in the daemon, a seeded one in tests.
Choice = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Ids:
    """Mints ids. 24 characters of 62 are 142 bits, 8 are 47 bits."""

    choice: Choice

    def job(self) -> str:
        return "ftjob-" + self._draw(24)

    def file(self) -> str:
        return "file-" + self._draw(24)

    def event(self) -> str:
        return "ftevent-" + self._draw(24)

    def checkpoint(self) -> str:
        return "ftckpt_" + self._draw(24)

    def request(self) -> str:
        return "req_" + self._draw(24)

    def chat(self) -> str:
        """Names one answer to a conversation."""
        return "chatcmpl-" + self._draw(24)

    def text(self) -> str:
        """Names one answer to a text."""
        return "cmpl-" + self._draw(24)

    def launch(self) -> str:
        """Names a run directory and its shim."""
        return "run-" + self._draw(12)

    def model(self) -> str:
        """The last field of a tuned model's name."""
        return self._draw(8)

    def seed(self) -> int:
        """A seed for a job that named none: 0..2147483647."""
        digits = "".join(self.choice("0123456789abcdef") for _ in range(8))
        return int(digits, 16) & 0x7FFFFFFF

    def _draw(self, length: int) -> str:
        return "".join(self.choice(ALPHABET) for _ in range(length))
