"""Beside the API: /metrics, /healthz and /readyz for whoever watches over us, /openapi.json."""

from typing import Literal

from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.responses import JSONResponse

from ftd.api.rest.auth import TheDoor
from ftd.core.errors import FtdError, Kind

router = APIRouter(tags=["Node"])


class Health(BaseModel):
    status: Literal["ok"] = "ok"


@router.get("/healthz", operation_id="health")
async def healthz() -> Health:
    """The daemon answers."""
    return Health()


@router.get("/readyz", operation_id="readiness")
async def readyz(door: TheDoor) -> Health:
    """The daemon serves; 503 while it starts or ends."""
    if not door.node.ready():
        raise FtdError(Kind.UNAVAILABLE, "ftd is starting or ending.")
    return Health()


@router.get(
    "/metrics",
    operation_id="metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request, door: TheDoor) -> Response:
    """Prometheus text; open to this host unless configured. A key sees its own project's jobs."""
    text = await door.node.metrics(request.state.actor)
    return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> Response:
    """This face, described."""
    app: FastAPI = request.app
    return JSONResponse(app.openapi())
