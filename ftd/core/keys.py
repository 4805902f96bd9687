"""API keys: what they look like and how they are compared."""

import hmac
from collections.abc import Callable

PREFIX = "ftd-"


def mint(choice: Callable[[str], str], alphabet: str) -> str:
    """A new key of 40 characters, 238 bits of chance."""
    return PREFIX + "".join(choice(alphabet) for _ in range(40))


def same(given: str, kept: str) -> bool:
    """Compare without telling by the time it takes how much of the key was right."""
    return hmac.compare_digest(given.encode(), kept.encode())


def shown(given: str) -> str:
    """As much of a key as an error message may repeat."""
    return f"{given[:4]}...{given[-4:]}" if len(given) >= 16 else "..."
