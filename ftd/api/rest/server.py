"""uvicorn inside the daemon's loop: our socket, our signals, our limits."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import uvicorn

from ftd.api.rest.app import create_app
from ftd.api.rest.ledger import Observe
from ftd.api.rest.protocol import BoundedProtocol
from ftd.core.errors import FtdError, Kind
from ftd.service.door import Door

MAX_HEAD_BYTES = 64 * 1024
KEEP_ALIVE_S = 75  # longer than clients keep idle connections, so that they close them, not we
GRACE_S = 1  # that open requests get at the end
BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A REST face that listens on `port`."""

    port: int
    _server: "_Server"
    _serving: "asyncio.Task[None]"

    async def stop(self) -> None:
        """Take no more requests, give the open ones GRACE_S, then cut them off."""
        self._server.should_exit = True
        await self._serving
        cut_off = set(self._server.server_state.tasks)
        if cut_off:
            await asyncio.wait(cut_off, timeout=GRACE_S)


async def serve(door: Door, host: str, port: int, observe: Observe) -> RunningServer:
    """Start the REST face; port 0 picks a free one.

    Raises UNAVAILABLE for an address that is taken or not ours.
    """
    listener = await _listen(host, port)
    server = _Server(
        uvicorn.Config(
            create_app(door, observe),
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,  # the ledger writes it, with fields and without queries
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    listening = asyncio.create_task(server.listening.wait())
    await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
    listening.cancel()
    if serving.done():
        serving.result()  # raises what stopped it
    return RunningServer(listener.getsockname()[1], server, serving)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: signals are the daemon's.

    uvicorn's own would raise the signal again after serving, and what the daemon does after it
    would never run.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


async def _listen(host: str, port: int) -> socket.socket:
    """A listening socket that nobody else shares (no SO_REUSEPORT)."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise FtdError(
            Kind.UNAVAILABLE, f"The REST face cannot listen on {host}:{port}: {error.strerror}."
        ) from error
    return listener
