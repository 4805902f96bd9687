"""Bytes that nobody should send as a message: each call ends with a status that blames the client.

    FTD_FUZZ=100000 python -m pytest --timeout 0 tests/security/test_fuzz_grpc.py

makes so many calls in all, a share of them for each method. The daemon is a real one, with a file
and a key in it, so that what is nearly right goes as far as what is right.
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from ftd.service.rules import CALLS
from ftd.v1 import chat_pb2, files_pb2, jobs_pb2, keys_pb2, models_pb2, node_pb2
from tests.fuzz import mutated, seeded, seeds
from tests.running import Daemon, running

MESSAGES = 60  # for each method, unless asked for more
CALL_S = 30.0  # a call that takes longer hangs
GROWTH_BYTES = 64 * 2**20  # of the daemon's memory, from its first thousand calls on
OURS = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})
METHODS = [
    method
    for module in (chat_pb2, files_pb2, jobs_pb2, keys_pb2, models_pb2, node_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
TEXTS = ["", "x", "file-1", "ftjob-1", "../../etc/passwd", "\0", "\u202e", "x" * 5000, "tiny"]
NUMBERS = [0, 1, -1, 2**31 - 1, -(2**31)]
LINE = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
GRPCS_OWN = [  # they need no key
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    place = tmp_path_factory.mktemp("fuzz")
    with running(place / "home", config="[limits]\nrequests_per_minute = 0\n") as daemon:
        (place / "a.jsonl").write_bytes(LINE * 20)
        with (place / "a.jsonl").open("rb") as data:
            file = daemon.client().files.create(file=data, purpose="fine-tune")
        TEXTS.append(file.id)
        yield daemon
        TEXTS.remove(file.id)


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
            several(message, field, chance, depth)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            if depth:
                filled(getattr(message, field.name), chance, depth - 1)
        else:
            setattr(message, field.name, value(field, chance))


def several(message: Message, field: FieldDescriptor, chance: random.Random, depth: int) -> None:
    """The same for a list, or a map."""
    for _ in range(chance.randrange(4) if depth else 0):
        held = getattr(message, field.name)
        kind = field.message_type
        if kind is None:
            held.append(value(field, chance))
        elif kind.GetOptions().map_entry:
            key, of = kind.fields_by_name["key"], kind.fields_by_name["value"]
            held[value(key, chance)] = value(of, chance)
        else:
            filled(held.add(), chance, depth - 1)


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


def parts(method: MethodDescriptor, chance: random.Random) -> list[bytes]:
    """What one call sends; some uploads come as far as their check, in a process of its own."""
    if method.name == "UploadFile" and chance.random() < 0.1:
        data = LINE * chance.randrange(4)
        if chance.random() < 0.5:
            data = mutated(data, chance, [b"\xff\xfe", b"[" * 999, LINE])
        header = files_pb2.UploadHeader(
            filename="a.jsonl", purpose="fine-tune", bytes=len(data) + chance.choice([0, 0, 0, 1])
        )
        sent = [files_pb2.UploadFileRequest(header=header)]
        sent += [
            files_pb2.UploadFileRequest(chunk=data[at : at + 99]) for at in range(0, len(data), 99)
        ]
        return [part.SerializeToString() for part in sent]
    return [written(method, chance) for _ in range(chance.randrange(1, 4))]


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


def memory_bytes(daemon: Daemon) -> int:
    pages = int(Path(f"/proc/{daemon.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def share(number: int) -> range:
    """The seeds of one method."""
    return seeds(MESSAGES * len(METHODS))[number :: len(METHODS)]


@pytest.mark.parametrize("number", range(len(METHODS)), ids=lambda number: METHODS[number].name)
def test_random_messages(number: int, daemon: Daemon, channel: grpc.Channel) -> None:
    """In an order of its own for each method: what is alive, and how large it is, is asked as we
    go."""
    method, early = METHODS[number], 0
    for count, seed in enumerate(share(number)):
        with seeded(seed) as chance:
            sent = parts(method, chance)
            code = call(channel, method, sent, daemon.key)
            assert code not in OURS, (method.full_name, sent)
            assert code is not grpc.StatusCode.DEADLINE_EXCEEDED, (method.full_name, sent)
        if count == 1000:
            early = memory_bytes(daemon)
    if early:
        assert memory_bytes(daemon) - early < GROWTH_BYTES, method.full_name


def test_every_method_is_among_them(channel: grpc.Channel) -> None:
    """Streams of both ways too; what is added to a service is fuzzed from then on."""
    assert {f"{method.containing_service.full_name}/{method.name}" for method in METHODS} == set(
        CALLS
    )
    kinds = {(method.client_streaming, method.server_streaming) for method in METHODS}
    assert kinds == {(False, False), (False, True), (True, False)}


@pytest.mark.parametrize("path", GRPCS_OWN)
def test_what_needs_no_key_takes_random_messages_too(
    path: str, daemon: Daemon, channel: grpc.Channel
) -> None:
    for seed in seeds(MESSAGES)[:1000]:
        with seeded(seed) as chance:
            data = chance.choice([chance.randbytes(chance.randrange(40)), b"\x0a\x01x", b""])
            code = own_call(channel, path, data)
            assert code is not grpc.StatusCode.DEADLINE_EXCEEDED, data


def own_call(channel: grpc.Channel, path: str, data: bytes) -> Any:
    """The status of a call without a key; of a watch, that of its first answer."""
    try:
        if path.endswith("Info"):
            list(channel.stream_stream(path)(iter([data]), timeout=CALL_S))
        elif path.endswith("Watch"):
            watch = channel.unary_stream(path)(data, timeout=CALL_S)
            next(watch)
            watch.cancel()
        else:
            channel.unary_unary(path)(data, timeout=CALL_S)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


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
