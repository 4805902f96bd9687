"""Creates that are sent again because their answers were lost."""

import asyncio
from typing import Any

import httpx2
import openai

from tests.api.rest.face import BASE, Face, conversations

KEY = {"Idempotency-Key": "one"}


async def uploaded(http: httpx2.AsyncClient, data: bytes, **headers: str) -> httpx2.Response:
    return await http.post(
        "/v1/files",
        files={"file": ("a.jsonl", data)},
        data={"purpose": "fine-tune"},
        headers={key.replace("_", "-"): value for key, value in headers.items()},
    )


async def job(http: httpx2.AsyncClient) -> dict[str, Any]:
    file = (await uploaded(http, conversations(10))).json()
    return {"model": BASE, "training_file": file["id"]}


async def test_a_job_is_created_once(face: Face, http: httpx2.AsyncClient) -> None:
    body = await job(http)
    path = "/v1/fine_tuning/jobs"
    answers = await asyncio.gather(*(http.post(path, json=body, headers=KEY) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len((await http.get(path)).json()["data"]) == 1
    # The same answer when its file is gone, and another job without the key or with another.
    await http.delete(f"/v1/files/{body['training_file']}")
    again = await http.post(path, json=body, headers=KEY)
    assert again.json()["id"] == answers[0].json()["id"]


async def test_a_key_of_another_request_is_refused(http: httpx2.AsyncClient) -> None:
    body = await job(http)
    path = "/v1/fine_tuning/jobs"
    assert (await http.post(path, json=body, headers=KEY)).status_code == 200
    other = await http.post(path, json=body | {"seed": 1}, headers=KEY)
    assert other.status_code == 400
    assert other.json()["error"]["code"] == "idempotency_key_reused"
    twice = await http.post(path, json=body, headers=[*KEY.items(), *KEY.items()])
    assert twice.status_code == 400
    assert (await http.post(path, json=body, headers={"Idempotency-Key": ""})).status_code == 400


async def test_a_refused_create_does_not_use_the_key_up(http: httpx2.AsyncClient) -> None:
    path = "/v1/fine_tuning/jobs"
    body = await job(http) | {"model": "nothing"}
    for _ in range(2):
        assert (await http.post(path, json=body, headers=KEY)).status_code == 400
    body["model"] = BASE
    assert (await http.post(path, json=body, headers=KEY)).status_code == 200


async def test_a_file_is_stored_once(face: Face, http: httpx2.AsyncClient) -> None:
    data = conversations(10)
    first = await uploaded(http, data, Idempotency_Key="up")
    again = await uploaded(http, data, Idempotency_Key="up")
    assert first.status_code == again.status_code == 200
    assert first.json()["id"] == again.json()["id"]
    assert len((await http.get("/v1/files")).json()["data"]) == 1
    assert face.incoming() == []
    other = await uploaded(http, conversations(11), Idempotency_Key="up")
    assert other.json()["error"]["code"] == "idempotency_key_reused"
    plain = await uploaded(http, data)
    assert plain.json()["id"] != first.json()["id"]
    junk = [await uploaded(http, b"no json", Idempotency_Key="junk") for _ in range(2)]
    assert [answer.status_code for answer in junk] == [400, 400]


async def test_nobody_is_answered_what_is_about_to_be_refused(
    face: Face, http: httpx2.AsyncClient
) -> None:
    """Sent again while the first one's check runs, it waits for what that finds."""
    answers = await asyncio.gather(
        *(uploaded(http, b"no json", Idempotency_Key="junk") for _ in range(5))
    )
    assert {answer.status_code for answer in answers} == {400}
    assert len({answer.json()["error"]["message"] for answer in answers}) == 1
    good = await asyncio.gather(
        *(uploaded(http, conversations(10), Idempotency_Key="good") for _ in range(5))
    )
    assert {(answer.json()["id"], answer.json()["status"]) for answer in good} == {
        (good[0].json()["id"], "processed")
    }
    assert [path.name for path in face.home.files.iterdir() if path.is_file()] == [
        good[0].json()["id"]
    ]


async def test_the_sdk_can_send_it(http: httpx2.AsyncClient, client: openai.AsyncOpenAI) -> None:
    body = await job(http)
    made = [await client.fine_tuning.jobs.create(**body, extra_headers=KEY) for _ in range(2)]
    assert made[0].id == made[1].id
