"""A connection to the daemon: stubs, the key on every call, and errors in words.

grpc is imported by whoever connects: help and completion do without its tenth of a second.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import typer

from ftctl import address
from ftctl.failure import Failure, Status
from ftctl.tls import SCHEME, Tls

if TYPE_CHECKING:
    import grpc

CALL_S = 60.0  # the most that a plain call may take
ANSWER_S = 1.0  # on loopback: whether anybody listens
MAX_REPLY_BYTES = 64 * 2**20  # a page of 10,000 files has a few

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_REPLY_BYTES),
    ("grpc.enable_http_proxy", 0),  # the daemon is on this machine
    # A daemon's host that lost its power says no goodbye: who follows a job would wait for ever.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),  # as many as there are minutes without an event
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 20_000),  # how long a connection may take to come about
    ("grpc.max_reconnect_backoff_ms", 2000),
)

_STATUSES = {
    "NOT_FOUND": Status.NOT_FOUND,
    "UNAUTHENTICATED": Status.NOT_ALLOWED,
    "PERMISSION_DENIED": Status.NOT_ALLOWED,
    "DEADLINE_EXCEEDED": Status.TIMED_OUT,
}

# Which field was wrong -> where to look for the right one.
_WHERE = {
    "fine_tune_id": "`ftctl list` shows the jobs",
    "id": "`ftctl files list` shows the files",
    "training_file": "`ftctl files list` shows the files",
    "validation_file": "`ftctl files list` shows the files",
    "model": "`ftctl models list` shows the models",
    "key": "`ftctl keys list` shows the keys",
}
_KEYLESS = (
    "give the key by --key or FTD_API_KEY; the daemon keeps it in the file admin.key of its home"
)


@dataclass(frozen=True, slots=True)
class Options:
    """What stands before the command."""

    addr: str | None
    key: str | None
    tls: Tls


class Client:
    """The daemon's services. Calls raise grpc.RpcError; `connect` turns it into a Failure."""

    def __init__(self, channel: "grpc.Channel", key: str | None) -> None:
        from ftd.v1 import (
            chat_pb2_grpc,
            files_pb2_grpc,
            jobs_pb2_grpc,
            keys_pb2_grpc,
            models_pb2_grpc,
            node_pb2_grpc,
        )

        self.jobs = jobs_pb2_grpc.JobsStub(channel)
        self.files = files_pb2_grpc.FilesStub(channel)
        self.models = models_pb2_grpc.ModelsStub(channel)
        self.node = node_pb2_grpc.NodeStub(channel)
        self.chat = chat_pb2_grpc.ChatStub(channel)
        self.keys = keys_pb2_grpc.KeysStub(channel)
        self._metadata = () if key is None else (("authorization", f"Bearer {key}"),)

    def call(
        self, rpc: Callable[..., Any], request: object, *, timeout_s: float | None = CALL_S
    ) -> Any:
        """The answer to one request, or to a stream of them."""
        return rpc(request, metadata=self._metadata, timeout=timeout_s)

    def stream(
        self, rpc: Callable[..., Any], request: object, *, timeout_s: float | None = None
    ) -> Any:
        """The answers to one request, for as long as they come."""
        return rpc(request, metadata=self._metadata, timeout=timeout_s)


@contextmanager
def connect(context: typer.Context) -> Iterator[Client]:
    """A client for one command. Raises Failure for whatever a call in the block meets."""
    import grpc

    options = context.find_object(Options)
    assert options is not None, "the callback of the app sets them"
    target = address.target(options.addr)
    with _channel(target, options.tls) as channel:
        try:
            yield Client(channel, address.key(options.key))
        except grpc.RpcError as error:
            raise explain(error, target) from error


def _channel(target: str, tls: Tls) -> "grpc.Channel":
    """TLS for `tls://`, and on loopback where an authority is named; a socket needs none."""
    import grpc

    bare = target.removeprefix(SCHEME)
    if bare == target and (tls.ca is None or target.startswith("unix:")):
        return grpc.insecure_channel(target, options=_OPTIONS)
    return grpc.secure_channel(bare, tls.credentials(), options=_OPTIONS)


def is_lost(error: "grpc.RpcError") -> bool:
    """Whether the daemon went away, in contrast to an answer of its own."""
    ours = "ftd-kind" in _trailers(error)
    return not ours and error.code().name in ("UNAVAILABLE", "CANCELLED")


def explain(error: "grpc.RpcError", target: str) -> Failure:
    """A broken call in words, with the exit status that scripts know it by."""
    said = _trailers(error)
    if is_lost(error):
        return _unreachable(target, error.details() or "")
    status = _STATUSES.get(error.code().name, Status.ERROR)
    message = error.details() or error.code().name
    match status:
        case Status.NOT_ALLOWED:
            unknown = error.code().name == "UNAUTHENTICATED"
            return Failure(message, hint=_KEYLESS if unknown else None, status=status)
        case Status.TIMED_OUT:
            return Failure(f"the daemon at {target} does not answer", status=status)
        case _:
            mistaken = error.code().name in ("NOT_FOUND", "INVALID_ARGUMENT")
            hint = _WHERE.get(said.get("ftd-param", "")) if mistaken else None
            return Failure(message, hint=hint, status=status)


def _unreachable(target: str, details: str) -> Failure:
    if "handshake" in details or "CERTIFICATE" in details:
        return Failure(
            f"there is no TLS with {target}: {details}",
            hint="--ca names who has signed its certificate; some want one of yours: --cert and "
            "--client-key",
            status=Status.UNREACHABLE,
        )
    if _is_taken(target):
        return Failure(
            f"what answers at {target} does not speak gRPC in this way: it may be the REST port, "
            "or want TLS",
            hint="give the address of `ftd serve --grpc`, or none for the socket of the home; "
            "--ca for one with TLS",
            status=Status.UNREACHABLE,
        )
    return Failure(
        f"the daemon at {target} cannot be reached",
        hint="start it with `ftd serve`, or name another with --addr",
        status=Status.UNREACHABLE,
    )


def _is_taken(target: str) -> bool:
    """Whether somebody listens at HOST:PORT, though a call did not come through."""
    host, _, port = target.removeprefix(SCHEME).rpartition(":")
    if target.startswith("unix:"):
        return False
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except OSError:
        return False
    return True


def _trailers(error: "grpc.RpcError") -> dict[str, str]:
    return {
        item.key: unquote(item.value)
        for item in error.trailing_metadata() or ()
        if isinstance(item.value, str)
    }
