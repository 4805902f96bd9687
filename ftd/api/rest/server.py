"""uvicorn inside the daemon's loop: our socket, our signals, our limits."""

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import uvicorn

from ftd.api.rest.app import create_app
from ftd.api.rest.crowd import Crowd, Listener
from ftd.api.rest.ledger import Observe
from ftd.api.rest.limits import MAX_HEAD_BYTES
from ftd.api.rest.protocol import HEAD_S, BoundedProtocol
from ftd.core.errors import FtdError, Kind, invalid
from ftd.host.certificates import Identity
from ftd.service.door import Door

KEEP_ALIVE_S = 75  # longer than clients keep idle connections, so that they close them, not we
GRACE_S = 1  # that open requests get at the end
BACKLOG = 1024
UNREAD_S = 60.0  # that a client may leave what we answer unread; then the kernel hangs up


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A REST face that listens on `port`."""

    port: int
    _crowd: Crowd
    _server: "_Server"
    _serving: "asyncio.Task[None]"

    @property
    def connections(self) -> int:
        """How many are open, those with which there is no TLS yet too."""
        return len(self._crowd)

    async def stop(self) -> None:
        """Take no more requests, give the open ones GRACE_S, then cut them off."""
        self._server.should_exit = True
        await self._serving
        cut_off = set(self._server.server_state.tasks)
        if cut_off:
            await asyncio.wait(cut_off, timeout=GRACE_S)


async def serve(
    door: Door, host: str, port: int, observe: Observe, identity: Identity | None = None
) -> RunningServer:
    """Start the REST face; port 0 picks a free one. With an identity it speaks TLS.

    Raises UNAVAILABLE for an address that is taken or not ours, INVALID for one that is not on
    loopback and has no TLS.
    """

    class Protocol(BoundedProtocol):
        crowd = Crowd(door.settings.limits.connections)

    logging.getLogger("uvicorn.error").addFilter(_not_told)
    listener = await _listen(host, port, in_clear=identity is None)
    listener.crowd = Protocol.crowd
    server = _Server(
        uvicorn.Config(
            create_app(door, observe),
            http=Protocol,
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
        ),
        identity,
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    listening = asyncio.create_task(server.listening.wait())
    await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
    listening.cancel()
    if serving.done():
        serving.result()  # raises what stopped it
    return RunningServer(listener.getsockname()[1], Protocol.crowd, server, serving)


def _not_told(record: logging.LogRecord) -> bool:
    """Whether the ledger has not told of it: there an answer that breaks off has its reason."""
    return record.msg != "ASGI callable returned without completing response."


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: signals are the daemon's.

    uvicorn's own would raise the signal again after serving, and what the daemon does after it
    would never run.
    """

    def __init__(self, config: uvicorn.Config, identity: Identity | None) -> None:
        config.load()
        config.ssl = None if identity is None else identity.context
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's for sockets that are given, with the heads' deadline for handshakes too."""
        loop, config = asyncio.get_running_loop(), self.config
        protocol: Callable[..., asyncio.Protocol] = config.http_protocol_class
        connect = partial(protocol, config=config, server_state=self.server_state, app_state={})
        self.servers = [
            await loop.create_server(
                connect,
                sock=listener,
                ssl=config.ssl,
                ssl_handshake_timeout=None if config.ssl is None else HEAD_S,
                backlog=BACKLOG,
            )
            for listener in sockets or ()
        ]
        self.started = True
        self.listening.set()


async def _listen(host: str, port: int, *, in_clear: bool) -> Listener:
    """A listening socket that nobody else shares (no SO_REUSEPORT). Its connections inherit the
    bound on what stays unread, which holds for those that are being closed too."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        if in_clear and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
            raise invalid(
                f"The REST face cannot serve {host}:{port} in clear: keys would travel with it. "
                "Give it a certificate in [tls], or serve 127.0.0.1 behind a proxy or a tunnel."
            )
        listener = Listener(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            unread_ms = int(UNREAD_S * 1000)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unread_ms)
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
