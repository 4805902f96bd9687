"""The gRPC server: one unix socket for its owner alone, and TCP where configured.

Without TLS a key travels in clear, so that no address but loopback is served; with it any is.
"""

import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from ftd.api.grpc.chat import ChatFace
from ftd.api.grpc.files import FilesFace
from ftd.api.grpc.gate import Gate, Observe
from ftd.api.grpc.jobs import JobsFace
from ftd.api.grpc.keys import KeysFace
from ftd.api.grpc.models import ModelsFace
from ftd.api.grpc.node import NodeFace
from ftd.core.errors import FtdError, Kind, invalid
from ftd.host.certificates import Identity
from ftd.service.door import Door
from ftd.service.rules import CALLS
from ftd.v1 import (
    chat_pb2,
    chat_pb2_grpc,
    files_pb2,
    files_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    keys_pb2,
    keys_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    node_pb2,
    node_pb2_grpc,
)

MAX_MESSAGE_BYTES = 4 * 2**20  # of a request; a chunk of an upload is 1 MiB
MAX_CALLS = 1024  # at once, streams included; more are refused with RESOURCE_EXHAUSTED
MAX_UNIX_PATH_BYTES = 107  # sockaddr_un has 108, and one is the closing zero

HANDSHAKE_S = 15  # from a connection to its first call, TLS included
DEAD_S = 60  # a peer is asked after so long without a word, and has 20 s to answer
IDLE_S = 600  # a connection without a call is closed after that; clients open another
MAX_METADATA_BYTES = 16 * 1024


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
    door: Door,
    *,
    unix_path: Path,
    tcp: tuple[str, ...],
    observe: Observe,
    identity: Identity | None = None,
) -> RunningServer:
    """Bind everything and serve, TCP with TLS where there is an identity. The caller holds the
    daemon's lock: a socket that lies at `unix_path` is a dead daemon's, and goes. Raises FtdError
    for an address that is taken, malformed, too long, or not loopback and in clear; then nothing
    stays bound."""
    for address in tcp:
        _check_address(address, in_clear=identity is None)
    server = grpc.aio.server(
        interceptors=(Gate(door, observe),),
        options=_options(door.settings.limits.connections),
        maximum_concurrent_rpcs=MAX_CALLS,
    )
    states = _add_services(server, door)
    try:
        bound = tuple(_bind_tcp(server, address, identity) for address in tcp)
        _bind_unix(server, unix_path)
        await server.start()
    except BaseException:
        await server.stop(None)
        raise
    return RunningServer(tcp_addresses=bound, _server=server, _health=states, _unix_path=unix_path)


def _options(connections: int) -> tuple[tuple[str, int], ...]:
    """`connections`: how many each address may have, those with which there is no TLS yet too."""
    return (
        # Without it a second daemon on a taken port would share it and steal every other call.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.max_allowed_incoming_connections", connections),
        ("grpc.max_concurrent_streams", MAX_CALLS),
        ("grpc.max_connection_idle_ms", IDLE_S * 1000),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_S * 1000),
        # A peer that is gone without a goodbye holds no stream; one that pings too often is hung
        # up on.
        ("grpc.keepalive_time_ms", DEAD_S * 1000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
        ("grpc.http2.max_ping_strikes", 4),
    )


def _add_services(server: grpc.aio.Server, door: Door) -> health.HealthServicer:
    jobs_pb2_grpc.add_JobsServicer_to_server(JobsFace(door.jobs), server)
    files_pb2_grpc.add_FilesServicer_to_server(FilesFace(door.files), server)
    models = ModelsFace(
        door.models, home=door.settings.home, organization=door.settings.organization
    )
    models_pb2_grpc.add_ModelsServicer_to_server(models, server)
    node_pb2_grpc.add_NodeServicer_to_server(NodeFace(door.node), server)
    chat_pb2_grpc.add_ChatServicer_to_server(ChatFace(door.chat), server)
    keys_pb2_grpc.add_KeysServicer_to_server(KeysFace(door.keys), server)
    states = health.HealthServicer()  # the whole server, named "", serves
    health_pb2_grpc.add_HealthServicer_to_server(states, server)
    ours = (chat_pb2, files_pb2, jobs_pb2, keys_pb2, models_pb2, node_pb2)
    services = [one for module in ours for one in module.DESCRIPTOR.services_by_name.values()]
    check_rules(services)
    names = [service.full_name for service in services]
    names.append(health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
    reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)
    return states


def check_rules(services: Iterable[ServiceDescriptor]) -> None:
    """Every call has a rule, and every rule a call. Raises AssertionError, at the start."""
    found = {
        f"{service.full_name}/{method.name}" for service in services for method in service.methods
    }
    if odd := found ^ CALLS.keys():
        raise AssertionError(f"calls without a rule, or rules without a call: {sorted(odd)}")


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


def _bind_tcp(server: grpc.aio.Server, address: str, identity: Identity | None) -> str:
    try:
        if identity is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, _credentials(identity))
    except RuntimeError as error:
        raise FtdError(
            Kind.CONFLICT, f"The gRPC address {address} cannot be bound; is it taken?"
        ) from error
    return f"{address.rpartition(':')[0]}:{port}"


def _credentials(identity: Identity) -> grpc.ServerCredentials:
    """gRPC's own lower bound is TLS 1.2, as that of the REST face is."""
    return grpc.ssl_server_credentials(
        [(identity.key, identity.certificate)],
        root_certificates=identity.client_ca,
        require_client_auth=identity.client_ca is not None,
    )


def _check_address(address: str, *, in_clear: bool) -> None:
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise invalid(f"The gRPC address {address} must be HOST:PORT.")
    if in_clear and host != "localhost" and not _is_loopback(host):
        raise invalid(
            f"The gRPC address {address} is not on loopback: keys would travel in clear. "
            "Give it a certificate in [tls], or reach 127.0.0.1 through a tunnel (ssh -L)."
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
