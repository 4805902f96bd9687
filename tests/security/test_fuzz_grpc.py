"""Bytes that nobody should send as a message: each call ends with a status that blames the client.

FTD_FUZZ=100000 python -m pytest --timeout 0 tests/security/test_fuzz_grpc.py
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from ftd.v1 import chat_pb2, files_pb2, jobs_pb2, keys_pb2, models_pb2, node_pb2
from tests.fuzz import mutated, seeded, seeds
from tests.running import Daemon, running

MESSAGES = 60  # for each method, unless asked for more
CALL_S = 30.0
OURS = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})
METHODS = [
    method
    for module in (chat_pb2, files_pb2, jobs_pb2, keys_pb2, models_pb2, node_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
TEXTS = ["", "x", "file-1", "ftjob-1", "../../etc/passwd", "\0", "\u202e", "x" * 5000, "tiny"]
NUMBERS = [0, 1, -1, 2**31 - 1, -(2**31)]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("fuzz") / "home") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def channel(daemon: Daemon) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"unix:{daemon.endpoint['grpc']['unix']}") as channel:
        yield channel


def filled(message: Message, chance: random.Random, depth: int = 3) -> None:
    """Give some of its fields values that their types allow."""
    for field in message.DESCRIPTOR.fields:
        if chance.random() < 0.4:
            continue
        if field.is_repeated:
            continue  # maps and lists come by mutation
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            if depth:
                filled(getattr(message, field.name), chance, depth - 1)
        else:
            setattr(message, field.name, value(field, chance))


def value(field: FieldDescriptor, chance: random.Random) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            text = chance.choice(TEXTS)
            return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text
        case FieldDescriptor.CPPTYPE_BOOL:
            return chance.random() < 0.5
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return chance.choice([0.0, -1.0, 1e308, float("nan"), float("inf")])
        case FieldDescriptor.CPPTYPE_ENUM:
            return chance.choice(field.enum_type.values).number
        case FieldDescriptor.CPPTYPE_UINT32 | FieldDescriptor.CPPTYPE_UINT64:
            return abs(chance.choice(NUMBERS))
    return chance.choice(NUMBERS)


def written(method: MethodDescriptor, chance: random.Random) -> bytes:
    """A message of the method's type, spoiled more often than not, or nothing of the kind."""
    if chance.random() < 0.2:
        return chance.randbytes(chance.randrange(200))
    message = GetMessageClass(method.input_type)()
    filled(message, chance)
    data = message.SerializeToString()
    for _ in range(chance.randrange(3)):
        data = mutated(data, chance, [b"\xff" * 9, b"\x0a\x7f", data[:9]])
    return data


def call(channel: grpc.Channel, method: MethodDescriptor, parts: list[bytes], key: str) -> Any:
    """The status with which the call ends."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    told: dict[str, Any] = {"timeout": CALL_S, "metadata": (("authorization", f"Bearer {key}"),)}
    try:
        if method.client_streaming:
            channel.stream_unary(path)(iter(parts), **told)
        elif method.server_streaming:
            for _ in channel.unary_stream(path)(parts[0], **told):
                pass
        else:
            channel.unary_unary(path)(parts[0], **told)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_random_messages(method: MethodDescriptor, daemon: Daemon, channel: grpc.Channel) -> None:
    for seed in seeds(MESSAGES):
        with seeded(seed) as chance:
            parts = [written(method, chance) for _ in range(chance.randrange(1, 4))]
            code = call(channel, method, parts, daemon.key)
            assert code not in OURS, (method.full_name, parts)
            assert code is not grpc.StatusCode.DEADLINE_EXCEEDED, (method.full_name, parts)


@pytest.mark.parametrize("key", ["", "x", "ftd-" + "x" * 40, "ftd_x_" + "y" * 43, "~", "a b"])
def test_nobody_gets_in_with_junk(key: str, daemon: Daemon, channel: grpc.Channel) -> None:
    for method in METHODS:
        assert call(channel, method, [b""], key) is grpc.StatusCode.UNAUTHENTICATED, method.name


def test_methods_that_are_not_there(daemon: Daemon, channel: grpc.Channel) -> None:
    told: dict[str, Any] = {"metadata": (("authorization", f"Bearer {daemon.key}"),)}
    for path in ("/", "/ftd.v1.Jobs", "/ftd.v1.Jobs/", "/x/y", "/ftd.v1.Jobs/GetJob/x", "//"):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(path)(b"", timeout=CALL_S, **told)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED, path


def test_too_large_a_message(daemon: Daemon, channel: grpc.Channel) -> None:
    (method,) = [one for one in METHODS if one.name == "CreateJob"]
    code = call(channel, method, [b"\x0a" + b"\xff" * 2**23], daemon.key)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_the_log_tells_of_no_fault(daemon: Daemon) -> None:
    """After all of that: nothing was raised that nobody expected."""
    assert "Traceback" not in daemon.log()
    assert Path(f"/proc/{daemon.pid}").exists()
