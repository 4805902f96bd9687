"""API keys: what they look like, what they allow, and how they are compared.

The home's own key is `ftd-` and 40 characters. Every other one is `ftd_<id>_<secret>`: it is found
by its id, which is no secret, and compared by the hash of its secret, which is all that is kept.
A secret of 256 bits cannot be guessed, so its hash need not be slow.
"""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

PREFIX = "ftd-"
TOKEN = "ftd"  # noqa: S105 - what a token begins with
SECRET_CHARACTERS = 43  # of 62: 256 bits
MAX_NAME = 64


class Scope(StrEnum):
    """What a key may do. None includes another."""

    READ = "read"  # look at what the project has
    SUBMIT = "submit"  # have files and jobs, and delete the models that came of them
    INFER = "infer"  # ask models
    ADMIN = "admin"  # add and remove models, and make keys of any project


# What a key is given that is made without a word about it.
USUAL = frozenset({Scope.READ, Scope.SUBMIT, Scope.INFER})


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key as it is kept: without its secret. Times are Unix seconds."""

    id: str
    name: str
    project: str
    scopes: frozenset[Scope]
    sha256: str  # of the secret
    created_at: int
    expires_at: int | None = None
    used_at: int | None = None  # to the minute
    revoked_at: int | None = None

    def valid(self, now: int) -> bool:
        """Whether it lets anybody in at this moment."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


def mint(choice: Callable[[str], str], alphabet: str) -> str:
    """The home's own key: 40 characters, 238 bits of chance."""
    return PREFIX + "".join(choice(alphabet) for _ in range(40))


def token(key_id: str, secret: str) -> str:
    """What a client sends."""
    return f"{TOKEN}_{key_id}_{secret}"


def parse(given: str) -> tuple[str, str] | None:
    """A token's id and secret; None for what is no token of ours."""
    match given.split("_"):
        case [begin, key_id, secret] if begin == TOKEN and len(secret) == SECRET_CHARACTERS:
            return key_id, secret
    return None


def digest(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def same(given: str, kept: str) -> bool:
    """Compare without telling by the time it takes how much of the key was right."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), kept.encode())


def shown(given: str) -> str:
    """As much of a key as an error message may repeat."""
    return f"{given[:4]}...{given[-4:]}" if len(given) >= 16 else "..."
