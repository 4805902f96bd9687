"""Stands in for `vllm serve --enable-lora`: the documented calls for adapters, and two answers.

Shapes and texts are those of vLLM's documentation and of its errors, without a model behind them.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

KEY = "a-vllm-key"
EVENTS = (
    b'data: {"choices":[{"index":0,"delta":{"content":"Par"}}],"usage":{"prompt_tokens":7}}\n\n',
    b'data: {"choices":[{"index":0,"delta":{"content":"is"},"finish_reason":"length"}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\n',
    b"data: [DONE]\n\n",
)


@dataclass
class StandIn:
    """One server; `runtime` False is one without VLLM_ALLOW_RUNTIME_LORA_UPDATING."""

    base: str = "tiny"
    runtime: bool = True
    max_rank: bool = False  # refuses every adapter
    adapters: dict[str, str] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)  # after a stream's first event
    events: tuple[bytes, ...] = EVENTS
    failing: str = ""  # how it fails, a key of QUOTING
    left: asyncio.Event = field(default_factory=asyncio.Event)  # a stream's reader went away
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def restart(self) -> None:
        """Started anew, it knows nothing of what was registered."""
        self.adapters.clear()

    async def models(self, request: Request) -> Response:
        cards: list[dict[str, Any]] = [
            {"id": self.base, "object": "model", "root": "/weights", "parent": None}
        ]
        for name, path in self.adapters.items():
            cards.append({"id": name, "object": "model", "root": path, "parent": self.base})
        return JSONResponse({"object": "list", "data": cards})

    async def load(self, request: Request) -> Response:
        asked = await request.json()
        name, path = asked["lora_name"], asked["lora_path"]
        self.loads.append(name)
        if name in self.adapters:
            return error(
                400, "InvalidUserInput", f"The lora adapter '{name}' has already been loaded."
            )
        if self.max_rank:
            return error(400, "BadRequestError", "LoRA rank 64 is greater than max_lora_rank 16.")
        if not (Path(path) / "adapter_config.json").is_file():
            return error(404, "NotFoundError", f"No adapter found for {path}")
        self.adapters[name] = path
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    async def unload(self, request: Request) -> Response:
        name = (await request.json())["lora_name"]
        if self.adapters.pop(name, None) is None:
            return error(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    async def answer(self, request: Request) -> Response:
        body = await request.body()
        self.bodies.append(body)
        self.heads.append(dict(request.headers))
        asked = json.loads(body)
        if asked["model"] != self.base and asked["model"] not in self.adapters:
            return error(404, "NotFoundError", f"The model `{asked['model']}` does not exist.")
        if self.failing:
            return QUOTING[self.failing](body.decode())
        if asked.get("temperature", 0) > 2:
            return error(400, "BadRequestError", "temperature must be in [0, 2].")
        if asked.get("stream"):
            return StreamingResponse(self.stream(), media_type="text/event-stream")
        return Response(b'{"id" : "cmpl-1",  "choices":[ ]}', media_type="application/json")

    async def stream(self) -> AsyncIterator[bytes]:
        try:
            yield self.events[0]
            await self.go_on.wait()
            for event in self.events[1:]:
                yield event
        except asyncio.CancelledError:
            self.left.set()
            raise

    def app(self) -> Starlette:
        routes = [
            Route("/v1/models", self.models),
            Route("/v1/chat/completions", self.answer, methods=["POST"]),
            Route("/v1/completions", self.answer, methods=["POST"]),
        ]
        if self.runtime:
            routes.append(Route("/v1/load_lora_adapter", self.load, methods=["POST"]))
            routes.append(Route("/v1/unload_lora_adapter", self.unload, methods=["POST"]))
        return Starlette(routes=routes)


def error(code: int, sort: str, message: str) -> Response:
    told = {"message": message, "type": sort, "param": None, "code": code}
    return JSONResponse({"error": told}, status_code=code)


def _events(told: dict[str, Any]) -> Response:
    events = (f"data: {json.dumps(told)}\n\n".encode(), *EVENTS[1:])
    return Response(b"".join(events), media_type="text/event-stream")


def _choice(index: object, logprob: object) -> dict[str, Any]:
    content = [{"token": "x", "logprob": logprob}]
    return {"index": index, "delta": {"content": "x"}, "logprobs": {"content": content}}


# How it fails in words that quote what it was asked.
QUOTING: dict[str, Callable[[str], Response]] = {
    "a refusal": lambda words: error(400, "BadRequestError", words),
    "a fault": lambda words: error(500, "InternalServerError", words),
    "no JSON": lambda words: PlainTextResponse(words, status_code=502),
    "an event": lambda words: _events({"error": {"message": words, "code": words}}),
    "no index": lambda words: _events({"choices": [_choice(words, 0.0)]}),
    "no logprob": lambda words: _events({"choices": [_choice(0, words)]}),
    "no tokens": lambda words: _events({"choices": [], "usage": {"prompt_tokens": words}}),
}


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(stand_in: StandIn) -> AsyncIterator[StandIn]:
    """Serve it on a loopback port, the same one again if it had one."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", stand_in.port))
    stand_in.port = listener.getsockname()[1]
    server = _Server(
        uvicorn.Config(stand_in.app(), lifespan="off", log_config=None, timeout_graceful_shutdown=1)
    )
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield stand_in
    finally:
        server.should_exit = True
        stand_in.go_on.set()
        await running
