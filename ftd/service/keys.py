"""Who is calling: a bearer token becomes an actor, or nobody gets in."""

import os
from dataclasses import dataclass
from pathlib import Path

from ftd.core import keys
from ftd.core.errors import FtdError, Kind
from ftd.core.ids import ALPHABET, Choice

PROJECT = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """On whose behalf something is done; `name` is the key's."""

    project: str
    name: str


class Keys:
    """The admin key of home/admin.key, made at the first start, for its owner's eyes only."""

    def __init__(self, admin: str) -> None:
        self._admin = admin

    @classmethod
    def at(cls, path: Path, choice: Choice) -> "Keys":
        """Read the key file, or make it. Raises FtdError for one that others can read."""
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            if path.stat().st_mode & 0o077:
                raise FtdError(
                    Kind.FORBIDDEN, f"{path} can be read by others: chmod 600 {path}"
                ) from None
            kept = path.read_text().strip()
            if len(kept) < 16:
                raise FtdError(
                    Kind.INVALID, f"{path} holds no key of 16 characters or more; delete it"
                ) from None
            return cls(kept)
        admin = keys.mint(choice, ALPHABET)
        with os.fdopen(descriptor, "w") as file:
            file.write(admin + "\n")
            file.flush()
            os.fsync(file.fileno())
        return cls(admin)

    def authenticate(self, bearer: str | None) -> Actor:
        """The actor behind a token. Raises FtdError, UNAUTHENTICATED, in OpenAI's words."""
        if not bearer:
            raise FtdError(
                Kind.UNAUTHENTICATED,
                "You didn't provide an API key. You need to provide your API key in an "
                "Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY). "
                "ftd keeps its key in the file admin.key of its home.",
            )
        if not keys.same(bearer, self._admin):
            raise FtdError(
                Kind.UNAUTHENTICATED,
                f"Incorrect API key provided: {keys.shown(bearer)}. "
                "ftd keeps its key in the file admin.key of its home.",
                code="invalid_api_key",
            )
        return Actor(project=PROJECT, name="admin")
