"""Every failure in OpenAI's envelope: {"error": {"message", "type", "param", "code"}}."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from ftd.api.rest.auth import methods
from ftd.core.errors import FtdError, Kind, invalid

TOLD = 5  # faults of one request that its answer names

_CODES = {"missing": "missing_required_parameter"}


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """What every failed request answers."""

    error: ErrorDetail


def response(error: FtdError, headers: Mapping[str, str] | None = None) -> Response:
    """The answer to a failed request; 401 says how to do better, 429, 503 and 507 when."""
    kind = error.kind
    extra = dict(headers or {})
    if kind is Kind.UNAUTHENTICATED:
        extra["WWW-Authenticate"] = 'Bearer realm="ftd"'
    if error.retry_s is not None:
        extra.setdefault("Retry-After", str(error.retry_s))
    return JSONResponse(body(error).model_dump(), status_code=kind.http_status, headers=extra)


def body(error: FtdError) -> ErrorBody:
    return ErrorBody(
        error=ErrorDetail(
            message=error.message,
            type=error.kind.openai_type,
            param=error.param,
            code=error.code,
        )
    )


def internal(request_id: str) -> FtdError:
    """What a client learns of our own mistake: where to look for the rest."""
    return FtdError(
        Kind.INTERNAL,
        "The server had an error while processing your request. "
        f"Its log tells more under the request id {request_id}.",
    )


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answers what the framework refuses: unknown routes, wrong methods, unreadable bodies."""
    assert isinstance(error, HTTPException), "registered for HTTPException"
    if isinstance(error.__cause__, FtdError | ClientDisconnect):
        raise error.__cause__  # FastAPI wraps what reading a body raises; the ledger takes it
    headers = dict(error.headers or {})
    if error.status_code == Kind.METHOD_NOT_ALLOWED.http_status:
        # The framework names those of one route alone.
        headers["Allow"] = ", ".join(methods(request.scope["path"]))
    return response(_from_http(request, error), headers)


async def on_validation_error(request: Request, error: Exception) -> Response:
    """Answers parameters of a wrong shape: 400, never 422, with OpenAI's `param`."""
    assert isinstance(error, RequestValidationError), "registered for RequestValidationError"
    return response(from_validation(error.errors(), request.headers.get("content-type")))


def from_validation(faults: Sequence[Mapping[str, Any]], content_type: str | None) -> FtdError:
    """Say in sentences what pydantic found; `param` is where the first fault is."""
    first = faults[0]
    if first["loc"] == ("body",) and isinstance(first["input"], bytes):
        return invalid(
            f"Unsupported content type: {content_type!r}. This call takes 'application/json'.",
            code="unsupported_content_type",
        )
    sentences = [_sentence(fault) for fault in faults[:TOLD]]
    if len(faults) > TOLD:
        sentences.append(f"{len(faults) - TOLD} more parameters are wrong.")
    return invalid(" ".join(sentences), code=_code(first["type"]), param=_param(first["loc"]))


def _from_http(request: Request, error: HTTPException) -> FtdError:
    method, path = request.method, request.scope["path"]
    if error.status_code == Kind.NOT_FOUND.http_status:
        return FtdError(Kind.NOT_FOUND, f"Invalid URL ({method} {path})", code="unknown_url")
    if error.status_code == Kind.METHOD_NOT_ALLOWED.http_status:
        return FtdError(
            Kind.METHOD_NOT_ALLOWED,
            f"Not allowed to {method} on {path}. "
            "(HINT: Perhaps you meant to use a different HTTP method?)",
            code="method_not_supported",
        )
    return invalid(str(error.detail))


def _sentence(fault: Mapping[str, Any]) -> str:
    param = _param(fault["loc"])
    if fault["type"] == "missing":
        return f"Missing required parameter: '{param}'." if param else "The request body is empty."
    reason = str(fault["msg"]).rstrip(".")
    reason = reason[:1].lower() + reason[1:]
    return f"Invalid value for '{param}': {reason}." if param else f"Invalid body: {reason}."


def _code(fault_type: str) -> str:
    if fault_type.endswith("_type"):
        return "invalid_type"
    return _CODES.get(fault_type, "invalid_value")


def _param(location: Sequence[str | int]) -> str | None:
    """`("body", "messages", 0, "role")` as OpenAI writes it: `messages[0].role`."""
    param = ""
    for part in location[1:]:
        if isinstance(part, int):
            param += f"[{part}]"
        else:
            param += f".{part}" if param else part
    return param or None
