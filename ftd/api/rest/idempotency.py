"""Idempotency-Key: a create that is sent again, since its answer was lost, creates nothing more."""

from typing import Annotated

from fastapi import Depends, Header, Request
from pydantic import WithJsonSchema

from ftd.core.errors import invalid
from ftd.core.once import MAX_KEY, Once

_NAME = "idempotency-key"
_DOCUMENTED = WithJsonSchema(
    {"type": "string", "minLength": 1, "maxLength": MAX_KEY, "pattern": "^[ -~]*$"}
)


async def _key(
    request: Request,
    shown: Annotated[
        str | None,
        _DOCUMENTED,
        Header(
            alias="Idempotency-Key",
            description="Of your choice: sent again with the same request within 24 hours, it "
            "answers what was created then.",
        ),
    ] = None,
) -> str | None:
    del shown  # it puts the header into the OpenAPI document, and would take one of two
    found = request.headers.getlist(_NAME)
    if len(found) > 1:
        raise invalid(f"A request has one Idempotency-Key; this one has {len(found)}.")
    return found[0] if found else None


async def _once(request: Request, key: Annotated[str | None, Depends(_key)]) -> Once | None:
    if key is None:
        return None
    return Once.of(key, request.scope["path"], await request.body())


# What a route may ask for: the key, or with what was asked where that is the whole body.
IdempotencyKey = Annotated[str | None, Depends(_key)]
AskedOnce = Annotated[Once | None, Depends(_once)]
