"""A request that its client may send again, and that is to be done once."""

from dataclasses import dataclass
from hashlib import sha256

from ftd.core.errors import FtdError, invalid

MAX_KEY = 255
KEPT_S = 24 * 3600  # for how long a key is remembered


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """The client's key, and the hash of what it asks: a key is for one request."""

    key: str
    sha256: str

    @classmethod
    def of(cls, key: str, *asked: str | bytes) -> "Once":
        """Raises INVALID for a key that is none."""
        if not (1 <= len(key) <= MAX_KEY and key.isascii() and key.isprintable()):
            raise invalid(f"An Idempotency-Key has 1 to {MAX_KEY} printable ASCII characters.")
        digest = sha256()
        for part in asked:
            data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
            digest.update(len(data).to_bytes(8, "big") + data)
        return cls(key=key, sha256=digest.hexdigest())


class Repeated(Exception):
    """It was done before; `made` is the id of what it made."""

    def __init__(self, made: str) -> None:
        super().__init__(made)
        self.made = made


def reused(key: str) -> FtdError:
    return invalid(
        f"The Idempotency-Key {key!r} came with another request before; a new request takes a new "
        "key.",
        code="idempotency_key_reused",
    )
