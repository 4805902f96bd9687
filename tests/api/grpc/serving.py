"""A gRPC face over a door in memory, and how to ask it."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from ftd.api.grpc.server import RunningServer, serve
from tests.api.grpc.fake_door import KEY, FakeDoor

BEARER = (("authorization", f"Bearer {KEY}"),)


class Observed(list[tuple[str, str, str, float]]):
    def __call__(self, service: str, method: str, code: str, seconds: float) -> None:
        self.append((service, method, code, seconds))

    def codes(self) -> list[tuple[str, str]]:
        return [(method, code) for _, method, code, _ in self]


@asynccontextmanager
async def served(
    tmp_path: Path, *, tcp: tuple[str, ...] = (), observe: Callable[..., None] | None = None
) -> AsyncIterator[tuple[FakeDoor, RunningServer, grpc.aio.Channel]]:
    door = FakeDoor(tmp_path)
    path = tmp_path / "s"
    heard = Observed() if observe is None else observe
    server = await serve(door, unix_path=path, tcp=tcp, observe=heard)
    try:
        # A pool of its own: in the common one a test would find the connection to the last server.
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.insecure_channel(f"unix:{path}", options=options) as channel:
            yield door, server, channel
    finally:
        await server.stop(0)


async def refused(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    return error.code(), error.details() or "", dict(error.trailing_metadata())


async def drained(messages: AsyncIterable[object]) -> None:
    async for _ in messages:
        pass


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # of the other side, which sets no event
            await asyncio.sleep(0.005)
