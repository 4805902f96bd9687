"""idempotency-key in a call's metadata: a create that is sent again, since its answer was lost,
creates nothing more."""

from typing import Any

from google.protobuf.message import Message

from ftd.core.errors import invalid
from ftd.core.once import Once

_NAME = "idempotency-key"


def key(context: Any) -> str | None:
    """The call's key, if it has one. Raises INVALID for two."""
    found = [value for name, value in context.invocation_metadata() or () if name == _NAME]
    if len(found) > 1:
        raise invalid(f"A call has one {_NAME}; this one has {len(found)}.")
    return found[0] if found else None


def once(context: Any, request: Message) -> Once | None:
    """The call's key with what it asks, which is one message. Raises INVALID, as above."""
    given = key(context)
    if given is None:
        return None
    asked = request.SerializeToString(deterministic=True)
    return Once.of(given, request.DESCRIPTOR.full_name, asked)
