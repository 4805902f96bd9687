"""Keys over gRPC: the key itself is told once."""

from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, ServiceDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from ftd.api.grpc.server import check_rules
from ftd.core.keys import USUAL, Scope
from ftd.v1 import keys_pb2, keys_pb2_grpc
from tests.api.grpc.serving import BEARER, refused, served


async def test_a_key_is_made_listed_and_revoked(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, _, channel):
        stub = keys_pb2_grpc.KeysStub(channel)
        request = keys_pb2.CreateKeyRequest(
            name="ci", scopes=["submit", "read"], project="team", expires_after_seconds=60
        )
        made = await stub.CreateKey(request, metadata=BEARER)
        assert made.token == f"ftd_{made.key.id}_secret"
        assert (made.key.name, made.key.project) == ("ci", "team")
        assert list(made.key.scopes) == ["read", "submit"]
        assert made.key.expires_at == made.key.created_at + 60
        assert not made.key.HasField("last_used_at")
        usual = await stub.CreateKey(keys_pb2.CreateKeyRequest(name="n"), metadata=BEARER)
        assert set(usual.key.scopes) == USUAL
        assert usual.key.project == "default"
        assert not usual.key.HasField("expires_at")
        listed = await stub.ListKeys(keys_pb2.ListKeysRequest(limit=1), metadata=BEARER)
        assert (list(listed.data), listed.has_more) == ([usual.key], True)
        after = keys_pb2.ListKeysRequest(after=usual.key.id)
        rest = await stub.ListKeys(after, metadata=BEARER)
        assert (list(rest.data), rest.has_more) == ([made.key], False)
        gone = await stub.RevokeKey(keys_pb2.RevokeKeyRequest(id=made.key.id), metadata=BEARER)
        assert gone.HasField("revoked_at")


async def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, _, channel):
        stub = keys_pb2_grpc.KeysStub(channel)
        wrong = keys_pb2.CreateKeyRequest(name="n", scopes=["root"])
        code, _, said = await refused(stub.CreateKey(wrong, metadata=BEARER))
        assert (code, said["ftd-param"]) == (grpc.StatusCode.INVALID_ARGUMENT, "scopes")
        unknown = keys_pb2.RevokeKeyRequest(id="x")
        code, _, _ = await refused(stub.RevokeKey(unknown, metadata=BEARER))
        assert code is grpc.StatusCode.NOT_FOUND


async def test_without_its_scope_a_call_is_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as (door, _, channel):
        door.keys.scopes = frozenset(Scope) - {Scope.ADMIN}
        stub = keys_pb2_grpc.KeysStub(channel)
        wanted = keys_pb2.CreateKeyRequest(name="n")
        code, message, said = await refused(stub.CreateKey(wanted, metadata=BEARER))
        assert (code, said["ftd-code"]) == (grpc.StatusCode.PERMISSION_DENIED, "missing_scope")
        assert "Missing scopes: admin." in message
        assert not door.keys.rows


def test_a_call_without_a_rule_is_no_start() -> None:
    service = ServiceDescriptorProto(name="Odd")
    service.method.add(name="Do", input_type=".ftd.v1.It", output_type=".ftd.v1.It")
    file = FileDescriptorProto(name="odd.proto", package="ftd.v1", service=[service])
    file.message_type.add(name="It")
    pool = DescriptorPool()
    pool.Add(file)
    with pytest.raises(AssertionError, match=r"ftd\.v1\.Odd/Do"):
        check_rules([pool.FindServiceByName("ftd.v1.Odd")])
