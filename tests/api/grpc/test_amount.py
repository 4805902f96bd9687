"""How much a message holds is told before it is made, for any bytes."""

from typing import Any

import pytest
from google.protobuf.message import DecodeError

from ftd.api.grpc.amount import holds_more
from ftd.v1 import chat_pb2, files_pb2, jobs_pb2
from tests.fuzz import mutated, seeded, seeds

ASK = chat_pb2.CompleteRequest
LENGTH = 200_000


def lengthy(number: int, payload: bytes) -> bytes:
    """A field that has a length: text, bytes, a message, or numbers in a row."""
    head = bytes([number << 3 | 2])
    size = len(payload)
    while size > 127:
        head, size = head + bytes([size & 127 | 128]), size >> 7
    return head + bytes([size]) + payload


SMALL_AND_MUCH = {
    "empty messages": lengthy(2, lengthy(1, b"") * LENGTH),
    "empty tool calls": lengthy(2, lengthy(1, lengthy(4, b"") * LENGTH)),
    "biases": lengthy(5, lengthy(9, b"") * LENGTH),
    "stops": lengthy(5, lengthy(5, b"") * LENGTH),
    "tokens in a row": lengthy(4, lengthy(1, b"\x01" * LENGTH)),
    "tokens one by one": lengthy(4, b"\x08\x01" * LENGTH),
    "one field again and again": b"\x0a\x00" * LENGTH,
    "fields that nobody knows": b"\x78\x01" * LENGTH,
    "groups that nobody knows": b"\x7b\x7c" * LENGTH,
}


@pytest.mark.parametrize("data", SMALL_AND_MUCH.values(), ids=SMALL_AND_MUCH)
def test_what_is_small_and_makes_much_is_known(data: bytes) -> None:
    assert holds_more(100_000, data, ASK.DESCRIPTOR)
    assert not holds_more(10_000_000, data, ASK.DESCRIPTOR)


def test_what_is_large_and_makes_little_is_let_through() -> None:
    chunk = files_pb2.UploadFileRequest(chunk=bytes(2**20))
    assert not holds_more(10, chunk.SerializeToString(), chunk.DESCRIPTOR)
    text = "user: \u0633\u0644\u0627\u0645 " * 100_000
    said = [chat_pb2.ChatMessage(role="user", content=text)] * 2
    ask = ASK(model="tiny", chat=chat_pb2.Conversation(messages=said))
    assert not holds_more(30, ask.SerializeToString(), ask.DESCRIPTOR)


def test_a_message_in_a_message_counts_with_every_field_that_it_may_have() -> None:
    call = chat_pb2.ToolCall.DESCRIPTOR
    data = lengthy(2, lengthy(1, lengthy(4, b"") * 10))
    assert holds_more(10 * len(call.fields), data, ASK.DESCRIPTOR)


def test_a_map_counts_by_its_entries() -> None:
    job = jobs_pb2.CreateJobRequest(metadata={f"k{n}": "v" for n in range(16)})
    assert not holds_more(100, job.SerializeToString(), job.DESCRIPTOR)
    assert holds_more(16, job.SerializeToString(), job.DESCRIPTOR)


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"\xff" * 20, b"\x0a\xff\xff\xff\xff\x7f", b"\x12", b"\x0d\x00", b"\x0f"]
)
def test_what_is_no_message_is_left_to_the_parser(data: bytes) -> None:
    assert not holds_more(100, data, ASK.DESCRIPTOR)


def test_random_bytes_are_counted_without_a_complaint() -> None:
    """And nothing that can be read holds more than was said."""
    good = ASK(
        model="tiny",
        chat=chat_pb2.Conversation(
            messages=[chat_pb2.ChatMessage(role="user", content="x", tool_calls=[{"id": "1"}])]
        ),
        sampling=chat_pb2.Sampling(stop=["a"], logit_bias={1: 2.0}, max_tokens=3),
    ).SerializeToString()
    for seed in seeds(500):
        with seeded(seed) as chance:
            data = good
            for _ in range(chance.randrange(1, 5)):
                data = mutated(data, chance, [b"\xff" * 9, b"\x0a\x7f", b"\x12\x00" * 9])
            said = next(
                most for most in range(10_000) if not holds_more(most, data, ASK.DESCRIPTOR)
            )
            try:
                made = ASK.FromString(data)
            except DecodeError:
                continue
            assert told(made) <= said


def told(message: Any) -> int:
    """How many values of a message were set, lists by their elements."""
    found = 0
    for field, value in message.ListFields():
        several = list(value.items()) if hasattr(value, "items") else value
        for one in several if field.is_repeated else [value]:
            found += told(one) if hasattr(one, "ListFields") else 1
    return found
