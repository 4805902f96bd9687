"""Whatever goes wrong, the client reads OpenAI's envelope, and never a traceback."""

import logging

import httpx2
import pytest

from ftd.api.rest import errors
from ftd.service.jobs import Jobs
from tests.api.rest.face import Face

JOBS = "/v1/fine_tuning/jobs"


def error_of(answer: httpx2.Response) -> dict[str, str | None]:
    body = answer.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    error: dict[str, str | None] = body["error"]
    return error


async def test_an_unknown_route(http: httpx2.AsyncClient) -> None:
    for path in ("/", "/docs", "/redoc", "/v1", "/v1/files/", "/v1/uploads", f"{JOBS}/x/stop"):
        answer = await http.get(path)
        assert answer.status_code == 404
        assert error_of(answer)["message"] == f"Invalid URL (GET {path})"


async def test_a_wrong_method(http: httpx2.AsyncClient) -> None:
    answer = await http.put("/v1/models")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert str(error_of(answer)["message"]).startswith("Not allowed to PUT on /v1/models.")
    assert (await http.head("/v1/models")).status_code == 405


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/v1/files", "GET, POST"), ("/v1/files/x", "DELETE, GET"), (JOBS, "GET, POST"),
     ("/v1/models/a/b", "DELETE, GET"), (f"{JOBS}/x/cancel", "POST"), ("/healthz", "GET")],
)  # fmt: skip
async def test_a_wrong_method_is_told_all_right_ones(
    path: str, allowed: str, http: httpx2.AsyncClient
) -> None:
    answer = await http.request("PATCH", path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


async def test_our_own_mistake(
    http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a secret of ours")

    monkeypatch.setattr(Jobs, "get", broken)
    with caplog.at_level(logging.ERROR):
        answer = await http.get(f"{JOBS}/x")
    assert answer.status_code == 500
    error = error_of(answer)
    assert error["type"] == "server_error"
    assert str(error["message"]).startswith("The server had an error while processing your request")
    assert answer.headers["x-request-id"] in str(error["message"])
    assert "secret" not in answer.text
    assert "a secret of ours" in caplog.text
    assert vars(caplog.records[0])["request"] == answer.headers["x-request-id"]


BAD_JSON = [
    (b'{"model": ', "invalid_json", "EOF while parsing"),
    (b"{'model': 1}", "invalid_json", "could not parse the JSON body"),
    (b'{"seed": NaN}', "invalid_json", "line 1 column"),
    (b'{"seed": -Infinity}', "invalid_json", "line 1 column"),
    (b'{"seed": ' + b"[" * 65 + b"]" * 65 + b"}", "invalid_json", "nests deeper than 64 levels"),
    (b'{"suffix": "\\ud800"}', "invalid_json", "hex escape"),
    (b'{"suffix": "\xff"}', "invalid_json", "line 1 column"),
    (b"\xef\xbb\xbf{}", "invalid_json", "line 1 column 1"),
    (b'{"seed": ' + b"9" * 5000 + b"}", "invalid_json", "out of range"),
    (b"[" * 30_000, "invalid_json", "recursion"),
    (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "invalid_json", "recursion"),
    (b'{"seed": 1, "seed": 2}', "invalid_json", "has the key seed more than once"),
    (b'{"a": [{"b\\"": 1, "\\u0062\\"": ":"}]}', "invalid_json", 'the key b" more than once'),
    (b'{"n": 1e999, "a": 1, "a": 1e999}', "invalid_json", "has the key a more than once"),
    (b'{"n": 1e999}', "invalid_json", "has a number that is out of range"),
    (b'{"n": [-%s.5]}' % (b"9" * 400), "invalid_json", "has a number that is out of range"),
    (b"", "missing_required_parameter", "The request body is empty."),
    (b"null", "invalid_type", "Invalid body"),
    (b"[]", "invalid_type", "Invalid body"),
    (b'"text"', "invalid_type", "Invalid body"),
    (b"{}", "missing_required_parameter", "Missing required parameter: 'training_file'."),
]


async def test_bad_json(http: httpx2.AsyncClient, subtests: pytest.Subtests) -> None:
    for body, code, words in BAD_JSON:
        with subtests.test(body=body[:40]):
            headers = {"Content-Type": "application/json"}
            answer = await http.post(JOBS, content=body, headers=headers)
            assert answer.status_code == 400
            error = error_of(answer)
            assert error["code"] == code
            assert words in str(error["message"])


async def test_json_under_another_name(http: httpx2.AsyncClient) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", None):
        headers = {} if content_type is None else {"Content-Type": content_type}
        answer = await http.post(JOBS, content=b'{"model": "m"}', headers=headers)
        assert answer.status_code == 400
        assert error_of(answer)["code"] == "unsupported_content_type"


async def test_a_body_too_large(face: Face, http: httpx2.AsyncClient) -> None:
    limit = face.door.settings.limits.body_bytes
    answer = await http.post(JOBS, json={"model": "x" * limit})
    assert answer.status_code == 413
    assert error_of(answer)["message"] == f"The request body is larger than {limit:,} bytes."


async def test_names_of_any_kind_are_not_found(http: httpx2.AsyncClient) -> None:
    for name in (
        "%00",
        "%FF%FE",
        "..%2F..%2Fetc",
        "%F0%9F%98%80",
        "a" * 5000,
        "'; DROP TABLE jobs",
    ):
        for path in ("/v1/models/", "/v1/files/", f"{JOBS}/"):
            answer = await http.get(path + name)
            assert answer.status_code == 404, (path, name)
            error_of(answer)


def test_many_faults_are_told_at_once_and_counted() -> None:
    faults = [
        {"type": "missing", "loc": ("body", "list", n, "key"), "msg": "-", "input": {}}
        for n in range(8)
    ]
    error = errors.from_validation(faults, None)
    assert error.param == "list[0].key"
    assert error.message.count("Missing required parameter") == errors.TOLD
    assert error.message.endswith("3 more parameters are wrong.")
