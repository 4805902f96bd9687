"""Calls over the daemon's unix socket, as `ftctl` makes them."""

from typing import Any

import grpc

from ftd.v1 import files_pb2, files_pb2_grpc, keys_pb2, keys_pb2_grpc
from tests.running import Daemon


def minted(daemon: Daemon, name: str, *scopes: str) -> str:
    """A new key's token."""
    with _channel(daemon) as channel:
        stub: Any = keys_pb2_grpc.KeysStub(channel)
        request = keys_pb2.CreateKeyRequest(name=name, scopes=scopes)
        answer = stub.CreateKey(request, metadata=_bearer(daemon.key))
        return str(answer.token)


def delete_file(daemon: Daemon, file_id: str, key: str) -> grpc.StatusCode:
    """How the call ended."""
    with _channel(daemon) as channel:
        stub: Any = files_pb2_grpc.FilesStub(channel)
        try:
            stub.DeleteFile(files_pb2.DeleteFileRequest(id=file_id), metadata=_bearer(key))
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
        return grpc.StatusCode.OK


def _channel(daemon: Daemon) -> grpc.Channel:
    return grpc.insecure_channel(f"unix:{daemon.endpoint['grpc']['unix']}")


def _bearer(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)
