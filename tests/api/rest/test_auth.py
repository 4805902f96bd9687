"""Every route is closed to strangers, whether we thought of it or not."""

from pathlib import Path

import httpx2
import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.types import Message

from ftd import config
from ftd.api.rest import chat, completions, files, jobs, models, node
from ftd.api.rest.app import create_app
from ftd.api.rest.auth import Caller, check_rules
from tests.api.rest.face import KEY, Face, serving

ROUTERS = [module.router for module in (chat, completions, files, jobs, models, node)]
ROUTES = sorted(
    (method, route.path)
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, APIRoute)
    for method in route.methods
)
OPEN = {"/healthz", "/readyz", "/metrics"}
CLOSED = [route for route in ROUTES if route[1] not in OPEN] + [
    ("GET", "/"), ("GET", "/v1"), ("POST", "/v1/chat/completions"), ("DELETE", "/healthz/x"),
    ("GET", "//healthz"), ("GET", "/healthz/"), ("OPTIONS", "/v1/files"),
]  # fmt: skip


STRANGERS = [
    None, "", "Bearer", f"Basic {KEY}", KEY, "Bearer wrong", f"Bearer {KEY}x", "Bearer \xff",
]  # fmt: skip


async def test_strangers_stay_out(face: Face, subtests: pytest.Subtests) -> None:
    async with face.http(headers={}) as stranger:
        for sent in STRANGERS:
            headers = {} if sent is None else {"Authorization": sent.encode("latin-1")}
            with subtests.test(authorization=sent):
                for method, path in CLOSED:
                    told_nothing(await stranger.request(method, path, headers=headers))


def told_nothing(answer: httpx2.Response) -> None:
    assert answer.status_code == 401, answer.request.url
    assert answer.headers["www-authenticate"] == 'Bearer realm="ftd"'
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    expected = "Incorrect API key provided" if error["code"] else "You didn't provide an API key"
    assert error["message"].startswith(expected)
    assert KEY not in answer.text


def test_a_route_without_a_rule_is_no_start() -> None:
    routers = [module.router for module in (chat, completions, files, jobs, models, node)]
    check_rules(routers)
    forgotten = APIRouter()
    forgotten.add_api_route("/v1/secrets", lambda: None)
    with pytest.raises(AssertionError, match="GET /v1/secrets"):
        check_rules([*routers, forgotten])
    with pytest.raises(AssertionError, match="rules without a route"):
        check_rules(routers[1:])


async def test_what_is_reached_past_the_rules_acts_for_nobody(face: Face) -> None:
    """Should a route ever be found where no rule was: it has no actor to act for."""
    app = create_app(face.door, lambda *_: None)
    app.add_api_route("/v1/secrets", _tell)
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://localhost", headers=headers
    ) as http:
        assert (await http.get("/v1/models")).status_code == 200
        answer = await http.get("/v1/secrets")
    assert answer.status_code == 500
    assert "default" not in answer.text


async def _tell(caller: Caller) -> str:
    return caller.project


async def test_the_scheme_is_written_as_one_likes(face: Face) -> None:
    for value in (f"bearer {KEY}", f"BEARER  {KEY}"):
        async with face.http(headers={"Authorization": value}) as http:
            assert (await http.get("/v1/models")).status_code == 200


async def test_what_is_open(face: Face) -> None:
    async with face.http(headers={}) as http:
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/metrics")).status_code == 200
        assert (await http.get("/readyz")).status_code == 503
        face.door.node.set_ready(True)
        assert (await http.get("/readyz")).json() == {"status": "ok"}


async def test_metrics_want_the_key_where_it_is_configured(tmp_path: Path) -> None:
    settings = config.load(home=tmp_path / "home", metrics=config.Metrics(require_key=True))
    async with serving(settings) as face:
        async with face.http(headers={}) as http:
            assert (await http.get("/metrics")).status_code == 401
        async with face.http() as http:
            assert (await http.get("/metrics")).status_code == 200


async def test_metrics_are_open_to_this_host_alone(face: Face) -> None:
    for peer, status in (
        ("127.0.0.1", 200), ("127.8.8.8", 200), ("::1", 200), ("::ffff:127.0.0.1", 200),
        ("10.0.0.7", 401), ("::ffff:10.0.0.7", 401), ("2001:db8::1", 401), (None, 401),
    ):  # fmt: skip
        assert await metrics_asked_from(face, peer) == status, peer


async def metrics_asked_from(face: Face, peer: str | None) -> int:
    """The app's answer to a made-up peer, which claims to be forwarded for a better one."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "GET", "path": "/metrics", "query_string": b"",
        "raw_path": b"/metrics",
        "headers": [(b"host", b"localhost"), (b"x-forwarded-for", b"127.0.0.1")],
        "client": peer and (peer, 9),
        "http_version": "1.1", "scheme": "http", "root_path": "", "server": ("ftd", 80),
    }  # fmt: skip
    await create_app(face.door, lambda *_: None)(scope, receive, send)
    status: int = sent[0]["status"]
    return status
