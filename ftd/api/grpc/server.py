"""The gRPC server: one unix socket for its owner alone, and TCP on loopback where configured.

A key travels in clear, so no other address is served; a tunnel (ssh -L) brings it elsewhere.
"""

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from ftd.api.grpc.chat import ChatFace
from ftd.api.grpc.files import FilesFace
from ftd.api.grpc.interceptors import Authentication, Observe, Outcomes
from ftd.api.grpc.jobs import JobsFace
from ftd.api.grpc.models import ModelsFace
from ftd.api.grpc.node import NodeFace
from ftd.core.errors import FtdError, Kind, invalid
from ftd.service.door import Door
from ftd.v1 import (
    chat_pb2,
    chat_pb2_grpc,
    files_pb2,
    files_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    node_pb2,
    node_pb2_grpc,
)

MAX_MESSAGE_BYTES = 4 * 2**20  # of a request; a chunk of an upload is 1 MiB
MAX_CALLS = 1024  # at once, streams included; more are refused with RESOURCE_EXHAUSTED
MAX_UNIX_PATH_BYTES = 107  # sockaddr_un has 108, and one is the closing zero

_OPTIONS = (
    # Without it a second daemon on a taken port would share it and steal every other call.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """Serves until stopped. `tcp_addresses` are those bound, with real ports for 0."""

    tcp_addresses: tuple[str, ...]
    _server: grpc.aio.Server
    _health: health.HealthServicer
    _unix_path: Path

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, give those under way `grace_s`, then break them off."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)
        self._unix_path.unlink(missing_ok=True)


async def serve(
    door: Door, *, unix_path: Path, tcp: tuple[str, ...], observe: Observe
) -> RunningServer:
    """Bind everything and serve. The caller holds the daemon's lock: a socket that lies at
    `unix_path` is a dead daemon's, and goes. Raises FtdError for an address that is taken,
    malformed, too long or not loopback; then nothing stays bound."""
    for address in tcp:
        _check_loopback(address)
    server = grpc.aio.server(
        interceptors=(Outcomes(observe), Authentication(door.keys)),
        options=_OPTIONS,
        maximum_concurrent_rpcs=MAX_CALLS,
    )
    states = _add_services(server, door)
    try:
        bound = tuple(_bind_tcp(server, address) for address in tcp)
        _bind_unix(server, unix_path)
        await server.start()
    except BaseException:
        await server.stop(None)
        raise
    return RunningServer(tcp_addresses=bound, _server=server, _health=states, _unix_path=unix_path)


def _add_services(server: grpc.aio.Server, door: Door) -> health.HealthServicer:
    jobs_pb2_grpc.add_JobsServicer_to_server(JobsFace(door.jobs), server)
    files_pb2_grpc.add_FilesServicer_to_server(FilesFace(door.files), server)
    models = ModelsFace(
        door.models, home=door.settings.home, organization=door.settings.organization
    )
    models_pb2_grpc.add_ModelsServicer_to_server(models, server)
    node_pb2_grpc.add_NodeServicer_to_server(NodeFace(door.node), server)
    chat_pb2_grpc.add_ChatServicer_to_server(ChatFace(door.chat), server)
    states = health.HealthServicer()  # the whole server, named "", serves
    health_pb2_grpc.add_HealthServicer_to_server(states, server)
    names = [
        module.DESCRIPTOR.services_by_name[service].full_name
        for module, service in (
            (jobs_pb2, "Jobs"),
            (files_pb2, "Files"),
            (models_pb2, "Models"),
            (node_pb2, "Node"),
            (chat_pb2, "Chat"),
            (health_pb2, "Health"),
        )
    ]
    reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)
    return states


def _bind_unix(server: grpc.aio.Server, path: Path) -> None:
    if len(os.fsencode(path)) > MAX_UNIX_PATH_BYTES:
        raise invalid(
            f"The socket path {path} is longer than the {MAX_UNIX_PATH_BYTES} bytes that a "
            "unix socket may have; set XDG_RUNTIME_DIR to a shorter directory."
        )
    if path.is_socket():
        path.unlink()
    elif path.exists():
        raise invalid(f"{path} is in the way: it is no socket.")
    before = os.umask(0o177)  # so that it is never open to others, not even for a moment
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError as error:
        raise invalid(f"The gRPC socket {path} cannot be bound: {error}") from error
    finally:
        os.umask(before)


def _bind_tcp(server: grpc.aio.Server, address: str) -> str:
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise FtdError(
            Kind.CONFLICT, f"The gRPC address {address} cannot be bound; is it taken?"
        ) from error
    return f"{address.rpartition(':')[0]}:{port}"


def _check_loopback(address: str) -> None:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise invalid(f"The gRPC address {address} must be HOST:PORT.")
    if host != "localhost" and not _is_loopback(host):
        raise invalid(
            f"The gRPC address {address} is not on loopback: keys would travel in clear. "
            "Serve 127.0.0.1 and reach it through a tunnel (ssh -L)."
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
