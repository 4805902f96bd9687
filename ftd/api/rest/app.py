"""The REST face as one ASGI application: OpenAI's routes, and beside them what operators need."""

import secrets

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from ftd import __version__
from ftd.api.rest import chat, completions, errors, files, jobs, models, node
from ftd.api.rest.auth import Authentication, check_rules
from ftd.api.rest.hosts import Hosts
from ftd.api.rest.ledger import Ledger, Observe
from ftd.api.rest.limits import Allowance, Heads, Tenure
from ftd.config import Settings
from ftd.core.ids import Ids
from ftd.service.door import Door


def create_app(door: Door, observe: Observe) -> FastAPI:
    """Everything under /v1, and /metrics, /healthz, /readyz, /openapi.json; nothing else.

    `observe` is told each request's route template, method, status and seconds.
    """
    settings = door.settings
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
            Middleware(
                Ledger,
                observe=observe,
                request_id=Ids(secrets.token_bytes).request,
                body_bytes_per_s=settings.limits.body_bytes_per_s,
            ),
            Middleware(Heads),
            Middleware(Hosts, hosts=settings.hosts, origins=settings.origins),
            *_pages(settings),
            Middleware(Authentication, door=door),
            Middleware(Allowance, rates=door.rates),
            Middleware(Tenure, keys=door.keys),
        ],
    )
    app.state.door = door
    routers = [room.router for room in (files, jobs, models, chat, completions, node)]
    check_rules(routers)
    for router in routers:
        app.include_router(router)
    return app


def _pages(settings: Settings) -> list[Middleware]:
    """Tells browsers which pages' scripts may read answers; a preflight has no key."""
    if not settings.origins:
        return []
    every = ("*",)
    return [
        Middleware(
            CORSMiddleware, allow_origins=settings.origins, allow_methods=every, allow_headers=every
        )
    ]
