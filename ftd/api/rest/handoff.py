"""Where another server answers, a request goes through to it, and its answer back, as they are."""

from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from ftd.api.rest.errors import ErrorBody
from ftd.api.rest.presence import Attended, stream
from ftd.api.rest.strict_json import StrictRequest, StrictRoute
from ftd.config import Limits
from ftd.service.door import Door


class HandoffRequest(StrictRequest):
    """A request whose body may hold a long conversation."""

    def limit(self, limits: Limits) -> int:
        return limits.chat_bytes


class HandoffRoute(StrictRoute):
    """A route that another server may answer: before we judge anything but the model's name."""

    request_class = HandoffRequest

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handed_off(request: Request) -> Response:
            door: Door = request.app.state.door
            if door.settings.serving.backend == "embedded":
                return await handle(request)
            request = self.request_class(request.scope, request.receive)
            body = await request.json()
            model = body.get("model") if isinstance(body, dict) else None
            if not isinstance(model, str):
                return await handle(request)  # which says so
            return Attended(_relay(door, request, model, await request.body()))

        return handed_off


def _relay(door: Door, request: Request, model: str, body: bytes) -> Any:
    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        path = scope["path"]
        relay = await door.chat.relay(request.state.actor, path, model, body)
        assert relay is not None, "the backend is another server"
        async with aclosing(relay):
            headers = [
                (name.lower().encode("latin-1"), value.encode("latin-1"))
                for name, value in relay.headers.items()
            ]
            piece = await stream(send, status=relay.status, headers=headers)
            async for data in relay:
                if data:
                    await piece(data)
        await piece(b"")

    return work


def streamed(whole: type[BaseModel], chunk: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """Describes an answer that comes whole, or in chunks where the request has `stream`."""
    piece = _inlined(chunk.model_json_schema(mode="serialization"))
    piece["required"].remove("usage")  # which is there only where it is asked for
    broken = _inlined(ErrorBody.model_json_schema(mode="serialization"))
    told = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"anyOf": [piece, broken]},
    }
    event = {
        "type": "object",
        "description": "Where `stream` is true: events with a chunk each, then one with [DONE], or "
        "one with the error that broke it off.",
        "required": ["data"],
        "properties": {"data": {"anyOf": [told, {"const": "[DONE]"}]}},
    }
    return {
        200: {
            "model": whole,
            "description": "The answer.",
            # OpenAPI 3.2's word for what each event is, as FastAPI writes it too.
            "content": {"text/event-stream": {"itemSchema": event}},
        }
    }


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without references, which would have to be at the document's root."""
    known = schema.pop("$defs", {})

    def walk(node: Any) -> Any:
        if isinstance(node, list):
            return [walk(each) for each in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return walk(known[node["$ref"].rpartition("/")[2]])
        return {key: walk(value) for key, value in node.items()}

    walked: dict[str, Any] = walk(schema)
    return walked
