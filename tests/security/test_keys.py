"""Whoever comes with the wrong key: every route and every call, with every kind of it."""

import hmac
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import httpx2
import pytest
import pytest_asyncio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from ftd import config
from ftd.api.grpc.server import serve
from ftd.core import keys as core
from ftd.core.dataset import Format, Report
from ftd.core.errors import FtdError
from ftd.core.file import FINE_TUNE, File, FileStatus
from ftd.core.job import State
from ftd.core.keys import Scope, shown
from ftd.core.models import Model, ModelKind
from ftd.service.actor import Actor
from ftd.service.jobs import CreateJob
from ftd.service.keys import CreateKey
from ftd.service.rules import CALLS, ROUTES
from ftd.store import files, models
from ftd.v1 import chat_pb2, files_pb2, jobs_pb2, keys_pb2, models_pb2, node_pb2
from tests.api.rest.face import BASE, KEY, Face, serving

MODULES = (chat_pb2, files_pb2, jobs_pb2, keys_pb2, models_pb2, node_pb2)
METHODS = {
    f"{service.full_name}/{method.name}": method
    for module in MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
OURS = Actor(project="default", name="admin")
UNKNOWN = "0" * 24
CONTENT = b'{"messages": []}\n'


@dataclass(frozen=True)
class Things:
    """What a project has, by name; or names that are nobody's."""

    file: str
    job: str
    model: str
    key: str = "0" * 12

    def fill(self, route: str) -> tuple[str, str]:
        """A route's method and its path for these things."""
        method, _, path = route.partition(" ")
        for field, value in (
            ("{file_id}", self.file),
            ("{fine_tuning_job_id}", self.job),
            ("{model:path}", self.model),
        ):
            path = path.replace(field, value)
        return method, path

    def body(self, path: str) -> dict[str, Any] | None:
        if path.endswith("/chat/completions"):
            return {"model": self.model, "messages": [{"role": "user", "content": "hi"}]}
        if path.endswith("/completions"):
            return {"model": self.model, "prompt": "hi"}
        if path.endswith("/fine_tuning/jobs"):
            return {"model": self.model, "training_file": self.file}
        return None

    def request(self, method: MethodDescriptor) -> Message:
        """A call's request about these things."""
        request = GetMessageClass(method.input_type)()
        service = method.containing_service.name
        ids = {"Files": self.file, "Jobs": self.job, "Models": self.model, "Keys": self.key}
        for name, value in (
            ("id", ids.get(service)), ("job_id", self.job), ("model", self.model),
            ("training_file", self.file), ("name", "no/model"),
        ):  # fmt: skip
            if value is not None and name in method.input_type.fields_by_name:
                setattr(request, name, value)
        if isinstance(request, chat_pb2.CompleteRequest):
            request.chat.messages.add(role="user", content="hi")
        if isinstance(request, files_pb2.UploadFileRequest):
            request.header.filename = "a.jsonl"
            request.header.purpose = FINE_TUNE
        return request


NOBODYS = Things(file=f"file-{UNKNOWN}", job=f"ftjob-{UNKNOWN}", model="ft:tiny:x:00000000")


@dataclass
class House:
    """Both faces of one service, with something in it that is the default project's."""

    face: Face
    http: httpx2.AsyncClient
    channel: grpc.aio.Channel
    ours: Things

    async def key(self, *scopes: Scope, project: str = "theirs", **more: Any) -> str:
        request = CreateKey(name="somebody", scopes=scopes or tuple(Scope), project=project, **more)
        return (await self.face.door.keys.create(OURS, request)).token

    async def rest(self, route: str, things: Things, key: str | None) -> httpx2.Response:
        method, path = things.fill(route)
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        body = things.body(path)
        return await self.http.request(method, path, json=body, headers=headers)

    async def call(self, name: str, things: Things, key: str | None) -> tuple[str, str, str]:
        """The status of a call, its message, and OpenAI's code."""
        return await self.send(METHODS[name], things.request(METHODS[name]), key)

    async def send(
        self, method: MethodDescriptor, request: Message, key: str | None
    ) -> tuple[str, str, str]:
        """The same, with a request of one's own."""
        metadata = () if key is None else (("authorization", f"Bearer {key}"),)
        try:
            await self._answer(method, request, metadata)
        except grpc.aio.AioRpcError as error:
            said = dict(error.trailing_metadata() or ())
            return error.code().name, error.details() or "", str(said.get("ftd-code", ""))
        return "OK", "", ""

    async def _answer(
        self, method: MethodDescriptor, request: Message, metadata: tuple[tuple[str, str], ...]
    ) -> None:
        """Call by the descriptor alone; a stream is read to its end, or to its first answer."""
        path = f"/{method.containing_service.full_name}/{method.name}"
        types = {
            "request_serializer": type(request).SerializeToString,
            "response_deserializer": GetMessageClass(method.output_type).FromString,
        }
        streams = (method.client_streaming, method.server_streaming)
        if streams == (True, False):
            await self.channel.stream_unary(path, **types)(iter([request]), metadata=metadata)
        elif streams == (False, True):
            call = self.channel.unary_stream(path, **types)(request, metadata=metadata)
            await call.read()
            call.cancel()
        else:
            assert streams == (False, False)
            await self.channel.unary_unary(path, **types)(request, metadata=metadata)

    async def untouched(self) -> None:
        """Nothing of ours was changed by anybody."""
        door = self.face.door
        assert (await door.jobs.get(OURS, self.ours.job)).state is State.QUEUED
        with await door.files.content(OURS, self.ours.file) as content:
            assert content.read() == CONTENT
        assert (await door.models.get(OURS, self.ours.model)).name == self.ours.model
        assert len((await door.jobs.list(OURS)).data) == 1


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    settings = config.load(home=tmp_path / "home", metrics=config.Metrics(require_key=True))
    async with serving(settings) as face:
        ours = await furnish(face)
        path = tmp_path / "s"
        server = await serve(face.door, unix_path=path, tcp=(), observe=lambda *_: None)
        try:
            async with (
                face.http(headers={}) as http,
                grpc.aio.insecure_channel(f"unix:{path}") as channel,
            ):
                yield House(face, http, channel, ours)
        finally:
            await server.stop(0)


async def a_file(face: Face, project: str) -> str:
    """A training file that was checked."""
    file = File(
        seq=0, id=face.store.ids.file(), project=project, purpose=FINE_TUNE,
        filename="a.jsonl", bytes=len(CONTENT), sha256="0" * 64, created_at=1,
        status=FileStatus.PROCESSED,
        report=Report(format=Format.CHAT, examples=20, lines=20).to_json(),
    )  # fmt: skip
    face.home.file(file.id).write_bytes(CONTENT)
    await face.store.db.write(lambda tx: files.insert(tx, file))
    return file.id


async def furnish(face: Face) -> Things:
    """A file, a queued job and a tuned model of the default project."""
    file = await a_file(face, OURS.project)
    request = CreateJob(model=BASE, training_file=file)
    job = await face.door.jobs.create(OURS, request)
    tuned = Model(
        name="ft:tiny:secret:abcdefgh", project=OURS.project, kind=ModelKind.TUNED, base=BASE,
        path="adapters/abcdefgh", sha256="0" * 64, created_at=1, job=job.id,
    )  # fmt: skip
    await face.store.db.write(lambda tx: models.insert(tx, tuned))
    return Things(file=file, job=job.id, model=tuned.name)


async def strangers(house: House) -> dict[str, str | None]:
    """Those whom nobody knows, or does not know any more."""
    revoked, expired = await house.key(), await house.key(expires_after_s=10)
    await house.face.door.keys.revoke(OURS, revoked.split("_")[1])
    house.face.store.clock.time += 10  # type: ignore[attr-defined]  # it is turned by hand
    good = await house.key()
    _, key_id, secret = good.split("_")
    return {
        "none": None,
        "junk": "junk",
        "another form": f"ftd-{'x' * 40}",
        "revoked": revoked,
        "expired": expired,
        "an id without its secret": f"ftd_{key_id}_",
        "another's secret": f"ftd_{key_id}_{revoked.split('_')[2]}",
        "its hash for a secret": f"ftd_{key_id}_{'0' * 43}",
        "a secret without its id": f"ftd__{secret}",
        "one character more": f"{good}x",
        "one character less": good[:-1],
        "the admin key with a tail": f"{KEY}_{secret}",
    }


def closed(table: Any) -> Iterator[tuple[str, Scope]]:
    for name, scope in table.items():
        if scope is not None:
            yield name, scope


async def test_strangers_find_every_route_closed(house: House, subtests: pytest.Subtests) -> None:
    told: dict[bool, set[str]] = {True: set(), False: set()}
    for who, key in (await strangers(house)).items():
        for route, _ in closed(ROUTES):
            for things in (house.ours, NOBODYS):
                with subtests.test(who=who, route=route):
                    answer = await house.rest(route, things, key)
                    assert answer.status_code == 401
                    assert answer.json()["error"]["code"] == (key and "invalid_api_key")
                    assert key is None or key not in answer.text or key == "junk"
                    told[key is None].add(without(answer.text, key))
    assert [len(bodies) for bodies in told.values()] == [1, 1], "who has no key learns nothing"
    await house.untouched()


def without(text: str, key: str | None) -> str:
    """What was said, but for as much of a key as is repeated."""
    return text if key is None else text.replace(shown(key), "KEY")


async def test_strangers_find_every_call_closed(house: House, subtests: pytest.Subtests) -> None:
    for who, key in (await strangers(house)).items():
        for name in CALLS:
            with subtests.test(who=who, call=name):
                status, _, code = await house.call(name, house.ours, key)
                assert (status, code) == ("UNAUTHENTICATED", "invalid_api_key" if key else "")
    await house.untouched()


async def test_without_its_scope_no_route_is_open(house: House, subtests: pytest.Subtests) -> None:
    for route, needed in closed(ROUTES):
        key = await house.key(*(set(Scope) - {needed}), project="default")
        with subtests.test(route=route):
            answer = await house.rest(route, house.ours, key)
            assert answer.status_code == 403
            assert answer.content == (await house.rest(route, NOBODYS, key)).content
            error = answer.json()["error"]
            assert (error["type"], error["code"]) == ("invalid_request_error", "missing_scope")
            assert f"Missing scopes: {needed}." in error["message"]
    await house.untouched()


async def test_without_its_scope_no_call_is_open(house: House, subtests: pytest.Subtests) -> None:
    for name, needed in closed(CALLS):
        key = await house.key(*(set(Scope) - {needed}), project="default")
        with subtests.test(call=name):
            status, message, code = await house.call(name, house.ours, key)
            assert (status, code) == ("PERMISSION_DENIED", "missing_scope")
            assert (status, message, code) == await house.call(name, NOBODYS, key)
            assert f"Missing scopes: {needed}." in message
    await house.untouched()


async def test_with_its_scope_alone_every_route_is_open(
    house: House, subtests: pytest.Subtests
) -> None:
    for route, needed in closed(ROUTES):
        key = await house.key(needed, project="default")
        with subtests.test(route=route):
            answer = await house.rest(route, NOBODYS, key)
            assert answer.status_code in (200, 400, 404)


async def test_with_its_scope_alone_every_call_is_open(
    house: House, subtests: pytest.Subtests
) -> None:
    for name, needed in closed(CALLS):
        key = await house.key(needed, project="default")
        with subtests.test(call=name):
            status, _, _ = await house.call(name, NOBODYS, key)
            assert status in ("OK", "INVALID_ARGUMENT", "NOT_FOUND")


async def test_another_projects_things_are_as_if_they_were_not_there(
    house: House, subtests: pytest.Subtests
) -> None:
    """Every route answers about them in the words that it has for what never was."""
    key = await house.key()
    for route, _ in closed(ROUTES):
        with subtests.test(route=route):
            foreign = await house.rest(route, house.ours, key)
            unknown = await house.rest(route, NOBODYS, key)
            assert foreign.status_code == unknown.status_code
            if route not in ("GET /metrics", "GET /openapi.json"):
                assert plain(foreign.text, house.ours) == plain(unknown.text, NOBODYS)
            if "{" in route:
                assert foreign.status_code == 404
            elif foreign.status_code == 200:
                for name in (house.ours.file, house.ours.job, house.ours.model):
                    assert name not in foreign.text
    await house.untouched()


async def test_another_projects_things_are_no_calls_concern(
    house: House, subtests: pytest.Subtests
) -> None:
    key = await house.key()
    for name in CALLS:
        if "Keys/" in name:  # they are everybody's who may administer
            continue
        with subtests.test(call=name):
            status, message, code = await house.call(name, house.ours, key)
            unknown = await house.call(name, NOBODYS, key)
            assert (status, plain(message, house.ours), code) == (
                unknown[0], plain(unknown[1], NOBODYS), unknown[2],
            )  # fmt: skip
            if {"id", "job_id"} & set(METHODS[name].input_type.fields_by_name):
                assert status == "NOT_FOUND"
    await house.untouched()


def plain(text: str, things: Things) -> str:
    """What was said, whatever the things are called."""
    for name in (things.file, things.job, things.model):
        text = text.replace(name, "NAME")
    return text


async def test_what_one_may_not_see_is_no_cursor(house: House) -> None:
    key = await house.key()
    async with house.face.http(headers={"Authorization": f"Bearer {key}"}) as http:
        for path, name in (
            ("/v1/files", house.ours.file),
            ("/v1/fine_tuning/jobs", house.ours.job),
        ):
            foreign = (await http.get(path, params={"after": name})).json()
            assert foreign == (await http.get(path, params={"after": "nothing"})).json()


async def test_another_projects_files_and_models_cannot_be_trained_on(house: House) -> None:
    theirs = await house.key()
    async with house.face.http(headers={"Authorization": f"Bearer {theirs}"}) as http:
        for field in ("training_file", "validation_file", "model"):
            body = {"model": BASE, "training_file": await a_file(house.face, "theirs")}
            things = house.ours.file, house.ours.model
            body[field] = things[field == "model"]
            answer = await http.post("/v1/fine_tuning/jobs", json=body)
            assert answer.status_code == 400, field
            assert answer.json()["error"]["param"] == field
    assert len((await house.face.door.jobs.list(OURS)).data) == 1


async def test_a_revoked_key_is_out_at_once(house: House) -> None:
    key = await house.key()
    assert (await house.rest("GET /v1/models", NOBODYS, key)).status_code == 200
    await house.face.door.keys.revoke(OURS, key.split("_")[1])
    assert (await house.rest("GET /v1/models", NOBODYS, key)).status_code == 401
    assert (await house.call("ftd.v1.Models/ListModels", NOBODYS, key))[0] == "UNAUTHENTICATED"


class Secret(str):
    """One that tells by the time it takes how much of it was right, where == is asked."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        raise AssertionError("a secret was compared by ==")

    def __ne__(self, other: object) -> bool:
        raise AssertionError("a secret was compared by !=")


async def test_a_comparison_takes_as_long_however_much_is_right(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2025-59425, CVE-2024-7010: whoever compares, hmac.compare_digest does it."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(given: bytes, kept: bytes) -> bool:
        compared.append((given, kept))
        return hmac.compare_digest(given, kept)

    monkeypatch.setattr(core, "hmac", SimpleNamespace(compare_digest=compare))
    token = await house.key()
    _, key_id, secret = token.split("_")
    keys = house.face.door.keys
    live = keys._live[key_id]
    keys._live[key_id] = replace(live, sha256=Secret(live.sha256))
    keys._admin = Secret(KEY)
    assert keys.authenticate(KEY).name == "admin"
    assert compared.pop() == (KEY.encode(), KEY.encode())
    for wrong in (token[:-1] + "~", f"ftd_{key_id}_{'0' * 43}", "ftd-" + "x" * 40):
        with pytest.raises(FtdError):
            keys.authenticate(wrong)
    assert keys.authenticate(token).key_id == key_id
    hashes = [given for given, kept in compared if kept == live.sha256.encode()]
    assert hashes[-1] == live.sha256.encode()
    assert len(hashes) == 3, "each secret for a known id is compared by its hash"
    assert secret.encode() not in hashes


async def test_secrets_lie_nowhere(house: House) -> None:
    """Not in the database, which is all of the home that knows keys."""
    key = await house.key()
    await house.rest("GET /v1/models", NOBODYS, key)
    await house.face.door.keys.sweep()
    secret = key.split("_")[2].encode()
    for path in house.face.home.root.glob("ftd.db*"):
        assert secret not in path.read_bytes()
