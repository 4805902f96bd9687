"""Messages that make much of few bytes, and bytes that are no message."""

import json
from pathlib import Path

import grpc
import pytest

from ftd.api.grpc import convert_chat, messages
from ftd.v1 import chat_pb2, files_pb2
from tests.api.grpc.serving import BEARER, refused, served
from tests.api.grpc.test_amount import SMALL_AND_MUCH
from tests.api.grpc.test_chat import asking

COMPLETE = "/ftd.v1.Chat/Complete"


@pytest.mark.parametrize("data", SMALL_AND_MUCH.values(), ids=SMALL_AND_MUCH)
async def test_what_is_small_and_makes_much_is_refused(tmp_path: Path, data: bytes) -> None:
    async with served(tmp_path) as (_, _, channel):
        call = channel.unary_stream(COMPLETE)(data, metadata=BEARER)
        code, said, _ = await refused(call.read())
    assert (code, said) == (grpc.StatusCode.INVALID_ARGUMENT, messages.TOO_MUCH)


async def test_a_strangers_message_is_not_even_read(tmp_path: Path) -> None:
    for data in (b"\xff", *SMALL_AND_MUCH.values()):
        async with served(tmp_path) as (_, _, channel):
            code, _, _ = await refused(channel.unary_stream(COMPLETE)(data).read())
        assert code is grpc.StatusCode.UNAUTHENTICATED


async def test_an_upload_is_looked_at_part_by_part(tmp_path: Path) -> None:
    header = files_pb2.UploadFileRequest(
        header=files_pb2.UploadHeader(filename="a.jsonl", purpose="fine-tune", bytes=10)
    )
    parts = [header.SerializeToString(), b"\x78\x01" * 200_000]
    async with served(tmp_path) as (_, _, channel):
        call = channel.stream_unary("/ftd.v1.Files/UploadFile")(iter(parts), metadata=BEARER)
        code, said, _ = await refused(call)
    assert (code, said) == (grpc.StatusCode.INVALID_ARGUMENT, messages.TOO_MUCH)


async def test_what_is_no_message_is_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, _, channel):
        code, said, _ = await refused(
            channel.unary_stream(COMPLETE)(b"\xff", metadata=BEARER).read()
        )
    assert (code, said) == (grpc.StatusCode.INVALID_ARGUMENT, messages.NOT_OF_ITS_TYPE)


async def test_what_is_no_message_is_refused_where_no_key_is_wanted(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, _, channel):
        code, said, _ = await refused(channel.unary_unary("/grpc.health.v1.Health/Check")(b"\xff"))
    assert (code, said) == (grpc.StatusCode.INVALID_ARGUMENT, messages.NOT_OF_ITS_TYPE)


BOMBS = {
    "wide": "[" + "[]," * convert_chat.MAX_VALUES + "[]]",
    "deep": "[" * 65 + "]" * 65,
    "deeper": "[" * 100_000,
    "many keys": json.dumps({str(n): n for n in range(convert_chat.MAX_VALUES)}),
}


@pytest.mark.parametrize("field", ["tools_json", "tool_choice_json", "response_format_json"])
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
async def test_json_in_a_field_has_the_bounds_of_a_body(
    tmp_path: Path, field: str, bomb: str
) -> None:
    async with served(tmp_path) as (_, _, channel):
        request = asking(**{field: bomb})
        call = channel.unary_stream(
            COMPLETE, request_serializer=chat_pb2.CompleteRequest.SerializeToString
        )(request, metadata=BEARER)
        code, said, trailers = await refused(call.read())
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert said.startswith(f"Invalid JSON in '{field}': ")
    assert trailers["ftd-param"] == field
