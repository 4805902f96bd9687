"""Who may delete a model: its project a tuned one, an administrator one that is everybody's."""

from dataclasses import replace

import pytest

from ftd.core.keys import Scope
from tests.api.rest.face import BASE
from tests.security.test_keys import House, house

__all__ = ["house"]

ROUTE, CALL = "DELETE /v1/models/{model:path}", "ftd.v1.Models/DeleteModel"
SUBMIT, ADMIN = Scope.SUBMIT, Scope.ADMIN


async def has(house: House, name: str) -> bool:
    answer = await house.rest("GET /v1/models", house.ours, await house.key(project="default"))
    return name in [model["id"] for model in answer.json()["data"]]


@pytest.mark.parametrize("over", ["REST", "gRPC"])
async def test_a_tuned_model_goes_when_its_project_says_so(house: House, over: str) -> None:
    theirs = await house.key()
    assert (await house.rest(ROUTE, house.ours, theirs)).status_code == 404
    assert (await house.call(CALL, house.ours, theirs))[0] == "NOT_FOUND"
    assert await has(house, house.ours.model)
    key = await house.key(SUBMIT, project="default")
    if over == "REST":
        answer = await house.rest(ROUTE, house.ours, key)
        assert answer.json() == {"id": house.ours.model, "object": "model", "deleted": True}
    else:
        assert (await house.call(CALL, house.ours, key))[0] == "OK"
    assert not await has(house, house.ours.model)


async def test_a_base_goes_by_an_administrators_call_alone(house: House) -> None:
    base = replace(house.ours, model=BASE)
    key = await house.key(*(set(Scope) - {ADMIN}), project="default")
    assert (await house.rest(ROUTE, base, key)).status_code == 403
    status, message, code = await house.call(CALL, base, key)
    assert (status, code) == ("PERMISSION_DENIED", "missing_scope")
    assert "Missing scopes: admin." in message
    admin = await house.key(SUBMIT, ADMIN, project="default")
    assert (await house.rest(ROUTE, base, admin)).status_code == 403
    assert (await house.call(CALL, base, admin))[0] == "FAILED_PRECONDITION", "it is built on"
    await house.rest(ROUTE, house.ours, admin)
    assert (await house.call(CALL, base, admin))[0] == "OK"
    assert not await has(house, BASE)
