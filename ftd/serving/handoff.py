"""What another server promises that answers instead of our own workers."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ftd.core.chat import Answer, Generate
from ftd.core.models import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """Another server's answer, passed on as it comes. Read it to its end or close it."""

    status: int
    headers: Mapping[str, str]  # those that are the client's business
    body: AsyncIterator[bytes]
    close: Callable[[], Awaitable[None]]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.body

    async def aclose(self) -> None:
        await self.close()


class Handoff(Protocol):
    """Takes requests over, and knows the adapters that they may name."""

    async def relay(self, path: str, model: Model, body: bytes, *, renamed: bool) -> Relay:
        """Send a request on; `renamed` says that its body calls the model by an alias.

        Raises INVALID for a model that the other server cannot serve, UNAVAILABLE when it is
        not there.
        """
        ...

    def generate(self, model: Model, request: Generate) -> AsyncGenerator[Answer, None]:
        """As Pool.generate, by the other server; for faces that do not speak its calls."""
        ...

    async def run(self) -> None:
        """Keep the other server's adapters as our rows are, for ever."""
        ...

    async def close(self) -> None: ...
