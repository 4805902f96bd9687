"""The face's surface, and the document that describes it."""

from typing import Any

import httpx2
import pytest
from fastapi.routing import APIRoute

from ftd.api.rest import chat, completions, files, jobs, models, node
from tests.api.rest.face import BASE
from tests.api.rest.test_errors import error_of

# Adding a route means editing this table: a moment to doubt.
SURFACE = {
    "createFile": ("POST", "/v1/files"),
    "listFiles": ("GET", "/v1/files"),
    "retrieveFile": ("GET", "/v1/files/{file_id}"),
    "deleteFile": ("DELETE", "/v1/files/{file_id}"),
    "downloadFile": ("GET", "/v1/files/{file_id}/content"),
    "createFineTuningJob": ("POST", "/v1/fine_tuning/jobs"),
    "listPaginatedFineTuningJobs": ("GET", "/v1/fine_tuning/jobs"),
    "retrieveFineTuningJob": ("GET", "/v1/fine_tuning/jobs/{fine_tuning_job_id}"),
    "cancelFineTuningJob": ("POST", "/v1/fine_tuning/jobs/{fine_tuning_job_id}/cancel"),
    "pauseFineTuningJob": ("POST", "/v1/fine_tuning/jobs/{fine_tuning_job_id}/pause"),
    "resumeFineTuningJob": ("POST", "/v1/fine_tuning/jobs/{fine_tuning_job_id}/resume"),
    "listFineTuningEvents": ("GET", "/v1/fine_tuning/jobs/{fine_tuning_job_id}/events"),
    "listFineTuningJobCheckpoints": (
        "GET", "/v1/fine_tuning/jobs/{fine_tuning_job_id}/checkpoints"
    ),
    "listModels": ("GET", "/v1/models"),
    "retrieveModel": ("GET", "/v1/models/{model}"),
    "deleteModel": ("DELETE", "/v1/models/{model}"),
    "createChatCompletion": ("POST", "/v1/chat/completions"),
    "createCompletion": ("POST", "/v1/completions"),
    "health": ("GET", "/healthz"),
    "readiness": ("GET", "/readyz"),
    "metrics": ("GET", "/metrics"),
}  # fmt: skip


async def test_the_surface(http: httpx2.AsyncClient) -> None:
    paths = (await http.get("/openapi.json")).json()["paths"]
    found = {
        operation["operationId"]: (method.upper(), path)
        for path, operations in paths.items()
        for method, operation in operations.items()
    }
    assert found == SURFACE
    hidden = {
        route.path
        for room in (files, jobs, models, chat, completions, node)
        for route in room.router.routes
        if isinstance(route, APIRoute) and not route.include_in_schema
    }
    assert hidden == {"/openapi.json"}


async def test_every_operation_tells_its_errors_and_its_key(http: httpx2.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert "422" not in operation["responses"], path
            told = operation["responses"]["default"]["content"]["application/json"]["schema"]
            assert told == {"$ref": "#/components/schemas/ErrorBody"}
            assert ("security" in operation) == path.startswith("/v1/")
            assert operation["description"]


async def test_no_parameter_is_said_to_be_null(http: httpx2.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] != "metadata":  # which takes the word
                    assert "anyOf" not in parameter["schema"], parameter


async def test_bodies_are_described(http: httpx2.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    upload = document["paths"]["/v1/files"]["post"]["requestBody"]["content"]
    form = upload["multipart/form-data"]["schema"]
    assert form["required"] == ["file", "purpose"]
    # As they are sent: a field that holds an object would be another one.
    assert {"expires_after[anchor]", "expires_after[seconds]"} < form["properties"].keys()
    create = document["paths"]["/v1/fine_tuning/jobs"]["post"]["requestBody"]["content"]
    reference = create["application/json"]["schema"]["$ref"].rpartition("/")[2]
    body = document["components"]["schemas"][reference]
    assert body["required"] == ["model", "training_file"]
    assert body["properties"]["hyperparameters"]["deprecated"] is True
    job = document["components"]["schemas"]["Job"]
    assert set(job["required"]) == set(job["properties"])


@pytest.mark.parametrize(
    ("path", "valid"),
    [
        ("/v1/fine_tuning/jobs", {"model": BASE, "training_file": "file-x"}),
        (
            "/v1/chat/completions",
            {"model": BASE, "messages": [{"role": "user", "content": "a"}], "logprobs": True},
        ),
        ("/v1/completions", {"model": BASE, "prompt": "a"}),
    ],
)
async def test_the_bounds_in_the_document_are_those_that_hold(
    path: str, valid: dict[str, Any], http: httpx2.AsyncClient
) -> None:
    async def blamed(name: str, value: int) -> bool:
        answer = await http.post(path, json=valid | {name: value})
        return answer.status_code == 400 and error_of(answer)["param"] == name

    document = (await http.get("/openapi.json")).json()
    asked = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    body = document["components"]["schemas"][asked["$ref"].rpartition("/")[2]]
    bounded = {name: told for name, told in body["properties"].items() if "minimum" in told}
    assert "seed" in bounded
    bounded.pop("best_of", None)  # it must equal n
    for name, told in bounded.items():
        least = int(told["minimum"])
        most = int(told["maximum"]) if "maximum" in told else int(told["exclusiveMaximum"]) - 1
        assert not await blamed(name, least), name
        assert not await blamed(name, most), name
        assert await blamed(name, least - 1), name
        assert await blamed(name, most + 1), name
