"""Models by the OpenAI SDK."""

import httpx2
import openai
import pytest

from tests.api.rest.face import BASE, Face

TUNED = f"ft:{BASE}:my-suffix:AbCd1234"


async def test_list_and_retrieve(client: openai.AsyncOpenAI, face: Face) -> None:
    await face.put_model(TUNED)
    listed = [model async for model in client.models.list()]
    assert [(model.id, model.owned_by) for model in listed] == [
        (BASE, "system"), (TUNED, "org-local")
    ]  # fmt: skip
    assert await client.models.retrieve(TUNED) == listed[1]
    assert (await client.models.retrieve("gpt-4o-mini")).id == BASE


async def test_the_shape(http: httpx2.AsyncClient) -> None:
    listed = (await http.get("/v1/models")).json()
    assert listed.keys() == {"object", "data"}
    assert listed["data"][0] == {
        "id": BASE, "object": "model", "created": 1_700_000_000, "owned_by": "system",
        "shutdown_date": None,
    }  # fmt: skip


async def test_delete(client: openai.AsyncOpenAI, face: Face) -> None:
    checkpoint = f"{TUNED}:ckpt-step-3"
    await face.put_model(TUNED)
    await face.put_model(checkpoint)
    gone = await client.models.delete(TUNED)
    assert (gone.id, gone.object, gone.deleted) == (TUNED, "model", True)
    assert [model.id async for model in client.models.list()] == [BASE, checkpoint]
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve(TUNED)
    assert caught.value.code == "model_not_found"


async def test_a_base_model_is_not_deleted(client: openai.AsyncOpenAI) -> None:
    for name in (BASE, "gpt-4o-mini"):
        with pytest.raises(openai.PermissionDeniedError, match="is a base model"):
            await client.models.delete(name)


async def test_a_slash_in_a_name_finds_its_route(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="The model `org/model` does not exist"):
        await client.models.retrieve("org/model")
