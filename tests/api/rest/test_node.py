"""What operators look at."""

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from tests.api.rest.face import Face


async def test_metrics_can_be_scraped(http: httpx2.AsyncClient) -> None:
    answer = await http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    names = {family.name for family in text_string_to_metric_families(answer.text)}
    assert {"ftd_jobs", "ftd_storage_free_bytes"} <= names


async def test_readiness(face: Face, http: httpx2.AsyncClient) -> None:
    answer = await http.get("/readyz")
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "server_error")
    face.door.node.set_ready(True)
    assert (await http.get("/readyz")).status_code == 200
