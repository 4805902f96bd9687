"""On a full disk new work is refused, with a word on when to come again; the rest goes on."""

import httpx2

from tests.api.rest.face import BASE, Face, conversations

JOBS = "/v1/fine_tuning/jobs"


async def upload(http: httpx2.AsyncClient) -> httpx2.Response:
    files = {"file": ("a.jsonl", conversations(12)), "purpose": (None, "fine-tune")}
    return await http.post("/v1/files", files=files)


async def create(http: httpx2.AsyncClient, training: str) -> httpx2.Response:
    return await http.post(JOBS, json={"model": BASE, "training_file": training})


def assert_refused(answer: httpx2.Response) -> None:
    assert answer.status_code == 507
    assert int(answer.headers["Retry-After"]) > 0
    error = answer.json()["error"]
    assert error["type"] == "server_error"
    assert "disk" in error["message"]


async def test_new_work_is_refused_until_there_is_space(
    face: Face, http: httpx2.AsyncClient
) -> None:
    training = (await upload(http)).json()["id"]
    job = (await create(http, training)).json()["id"]
    face.space.full = True
    assert_refused(await upload(http))
    assert_refused(await create(http, training))
    assert (await http.get(f"{JOBS}/{job}")).status_code == 200
    assert (await http.post(f"{JOBS}/{job}/cancel")).json()["status"] == "cancelled"
    face.space.full = False
    assert (await create(http, training)).status_code == 200
    assert (await upload(http)).status_code == 200
