"""Under `python -O`, where an assert is nothing, every door is as shut as ever (CVE-2026-41523)."""

import subprocess
import sys
from pathlib import Path

# Asks what nobody may without a key, and past the rules; says the statuses.
ASKS = """
import asyncio, sys
from pathlib import Path
from ftd import config
from ftd.api.rest.app import create_app
from ftd.service.rules import ROUTES
from tests.api.rest.face import KEY, serving
import httpx2

async def main():
    async with serving(config.load(home=Path(sys.argv[1]))) as face:
        app = create_app(face.door, lambda *_: None)
        app.add_api_route("/v1/secrets", lambda: "secret")
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
            for route, needed in ROUTES.items():
                method, path = route.split(" ")
                if needed is not None and route != "GET /metrics":
                    print((await http.request(method, path)).status_code)
            print((await http.get("/v1/secrets")).status_code)
            print((await http.get("/v1/models", headers={"Authorization": "Bearer x"})).status_code)
        assert False, "asserts are off"

asyncio.run(main())
"""


def test_no_door_is_an_assert(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-O", "-c", ASKS, str(tmp_path / "home")],
        capture_output=True, text=True, timeout=60, check=True,
        cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    statuses = done.stdout.split()
    assert len(statuses) > 20
    assert set(statuses) == {"401"}
