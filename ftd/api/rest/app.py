"""The REST face as one ASGI application: OpenAI's routes, and beside them what operators need."""

import secrets

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from ftd import __version__
from ftd.api.rest import chat, completions, errors, files, jobs, models, node
from ftd.api.rest.auth import Authentication
from ftd.api.rest.ledger import Ledger, Observe
from ftd.core.ids import Ids
from ftd.service.door import Door


def create_app(door: Door, observe: Observe) -> FastAPI:
    """Everything under /v1, and /metrics, /healthz, /readyz, /openapi.json; nothing else.

    `observe` is told each request's route template, method, status and seconds.
    """
    app = FastAPI(
        title="ftd",
        version=__version__,
        description="The OpenAI fine-tuning API on your own workstation.",
        openapi_url=None,  # a route of ours serves it
        redirect_slashes=False,
        responses={"default": {"model": errors.ErrorBody, "description": "What went wrong."}},
        exception_handlers={
            HTTPException: errors.on_http_error,
            RequestValidationError: errors.on_validation_error,
        },
        middleware=[
            Middleware(Ledger, observe=observe, request_id=Ids(secrets.token_bytes).request),
            Middleware(Authentication, door=door),
        ],
    )
    app.state.door = door
    for room in (files, jobs, models, chat, completions, node):
        app.include_router(room.router)
    return app
