"""The face's surface, and the document that describes it."""

import httpx2
from fastapi.routing import APIRoute

from ftd.api.rest import chat, completions, files, jobs, models, node

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


async def test_bodies_are_described(http: httpx2.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    upload = document["paths"]["/v1/files"]["post"]["requestBody"]["content"]
    assert upload["multipart/form-data"]["schema"]["required"] == ["file", "purpose"]
    create = document["paths"]["/v1/fine_tuning/jobs"]["post"]["requestBody"]["content"]
    reference = create["application/json"]["schema"]["$ref"].rpartition("/")[2]
    body = document["components"]["schemas"][reference]
    assert body["required"] == ["model", "training_file"]
    assert body["properties"]["hyperparameters"]["deprecated"] is True
    job = document["components"]["schemas"]["Job"]
    assert set(job["required"]) == set(job["properties"])
