"""Paths where an id, a name or a cursor should be: in every field of every route and call."""

import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from ftd.service.rules import CALLS, ROUTES
from tests.security.test_keys import METHODS, NOBODYS, House, Things, house

__all__ = ["house"]

CANARY = "canary-8f3a"


def traps(home: Path) -> Iterator[str]:
    """Ways of writing where the canary lies, from every directory that things lie in."""
    for up in ("", "../", "../../", "../../../", "..\\..\\", "....//....//", "./../"):
        yield f"{up}canary"
    yield str(home / "canary")
    yield f"file://{home}/canary"
    yield f"../{home.name}/canary"
    yield "canary\0.jsonl"
    yield "..%2fcanary"
    yield "%2e%2e%2fcanary"
    yield "\uff0e\uff0e/canary"
    yield "../files/incoming/../../canary"
    yield "../admin.key"
    yield "../ftd.db"


def tree(home: Path) -> dict[str, tuple[int, int]]:
    """What lies in the home, but for the database."""
    return {
        str(path.relative_to(home)): (path.lstat().st_mode, path.lstat().st_size)
        for path in home.rglob("*")
        if not path.name.startswith("ftd.db")
    }


def planted(house: House) -> Path:
    root = house.face.home.root
    (root / "canary").write_text(CANARY)
    return root


def fields(request: Message) -> Iterator[tuple[Message, FieldDescriptor]]:
    """Every field of text, and that of messages in it."""
    for field in request.DESCRIPTOR.fields:
        if field.message_type is not None and not field.is_repeated:
            yield from fields(getattr(request, field.name))
        elif field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated:
            yield request, field


@pytest.mark.parametrize("quoted", [True, False])
async def test_no_id_of_a_route_is_a_path(house: House, quoted: bool) -> None:
    root = planted(house)
    key, before = await house.key(project="default"), tree(root)
    for trap in traps(root):
        written = urllib.parse.quote(trap, safe="" if quoted else "/\\:%.")
        things = Things(file=written, job=written, model=written)
        for route in ROUTES:
            if "{" in route:
                answer = await house.rest(route, things, key)
                assert 400 <= answer.status_code < 500, (route, trap)
                assert CANARY not in answer.text
    assert tree(root) == before
    await house.untouched()


async def test_no_field_of_a_body_or_a_query_is_a_path(house: House) -> None:
    root = planted(house)
    key, before = await house.key(project="default"), tree(root)
    headers = {"Authorization": f"Bearer {key}"}
    for trap in traps(root):
        for field in ("model", "training_file", "validation_file"):
            body: dict[str, Any] = {"model": "tiny", "training_file": house.ours.file}
            answer = await house.http.post(
                "/v1/fine_tuning/jobs", json=body | {field: trap}, headers=headers
            )
            assert answer.status_code == 400, (field, trap)
            assert CANARY not in answer.text
        for path in ("/v1/files", "/v1/fine_tuning/jobs"):
            answer = await house.http.get(path, params={"after": trap}, headers=headers)
            assert (answer.status_code, answer.json()["data"]) == (200, [])
        answer = await house.http.get("/v1/files", params={"purpose": trap}, headers=headers)
        assert (answer.status_code, answer.json()["data"]) == (200, [])
    assert tree(root) == before
    await house.untouched()


async def test_no_field_of_a_call_is_a_path(house: House) -> None:
    """But the source of a model, which is one: for who administers."""
    root = planted(house)
    key, before = await house.key(project="default"), tree(root)
    for name in CALLS:
        template = GetMessageClass(METHODS[name].input_type)()
        for number, (_, field) in enumerate(fields(template)):
            if field.name in ("source", "key", "name", "project"):
                continue  # a key's name is text, a model's is looked at in test_model_directories
            for trap in traps(root):
                request = NOBODYS.request(METHODS[name])
                holder, same = list(fields(request))[number]
                setattr(holder, same.name, trap)
                status, said, _ = await house.send(METHODS[name], request, key)
                assert status in ("OK", "NOT_FOUND", "INVALID_ARGUMENT"), (name, field.name, trap)
                assert CANARY not in said
    assert tree(root) == before
    await house.untouched()
