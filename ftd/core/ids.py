"""Identifiers in OpenAI's forms, drawn from a source of chance that is handed in."""

import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

from ftd.core.keys import SECRET_CHARACTERS

ALPHABET = string.ascii_letters + string.digits

# Choice(alphabet) -> one character, of a key.
Choice = Callable[[str], str]
# Chance(n) -> n random bytes; secrets.token_bytes in the daemon, a seeded one in tests.
Chance = Callable[[int], bytes]

# A byte becomes a character by its remainder; the last few would make some characters likelier.
_FAIR = 256 - 256 % len(ALPHABET)
_CHARACTERS = bytes(ord(ALPHABET[byte % len(ALPHABET)]) for byte in range(256))
_UNFAIR = bytes(range(_FAIR, 256))
_IN_ORDER = "".join(sorted(ALPHABET))  # as an index has it


@dataclass(frozen=True, slots=True)
class Ids:
    """Mints ids. 24 characters of 62 are 142 bits, 8 are 47 bits."""

    chance: Chance

    def job(self) -> str:
        return "ftjob-" + self._draw(24)

    def file(self) -> str:
        return "file-" + self._draw(24)

    def event(self) -> str:
        return "ftevent-" + self._draw(24)

    def events(self) -> Iterator[str]:
        """Ids of events that are written together: 18 characters in common, which are 107 bits,
        then a count. So the index of a million ids is written in one place and not in hundreds."""
        stem = "ftevent-" + self._draw(18)
        for tail in product(_IN_ORDER, repeat=6):
            yield stem + "".join(tail)

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

    def key(self) -> str:
        """Names an API key; no secret."""
        return self._draw(12)

    def secret(self) -> str:
        """What an API key proves itself by."""
        return self._draw(SECRET_CHARACTERS)

    def model(self) -> str:
        """The last field of a tuned model's name."""
        return self._draw(8)

    def seed(self) -> int:
        """A seed for a job that named none: 0..2147483647."""
        return int.from_bytes(self.chance(4), "big") & 0x7FFFFFFF

    def _draw(self, length: int) -> str:
        """All at once: a call of the kernel for each character is what an event would cost."""
        drawn = b""
        while len(drawn) < length:
            drawn += self.chance(length + 4).translate(_CHARACTERS, _UNFAIR)
        return drawn[:length].decode()
