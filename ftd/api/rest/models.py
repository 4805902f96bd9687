"""/v1/models: base models, tuned models and checkpoints, by name."""

from fastapi import APIRouter

from ftd.api.rest import schema
from ftd.api.rest.auth import Caller, TheDoor

router = APIRouter(prefix="/v1/models", tags=["Models"])


@router.get("", operation_id="listModels")
async def list_models(door: TheDoor, caller: Caller) -> schema.ModelList:
    """Every model, without paging."""
    rows = await door.models.list(caller)
    return schema.ModelList(data=tuple(schema.model(row, door.jobs.organization) for row in rows))


# A client may quote a slash in a name as %2F, which is decoded before the route is chosen: hence
# `path`.
@router.get("/{model:path}", operation_id="retrieveModel")
async def retrieve(model: str, door: TheDoor, caller: Caller) -> schema.Model:
    """One model, by its name or an alias."""
    return schema.model(await door.models.get(caller, model), door.jobs.organization)


@router.delete("/{model:path}", operation_id="deleteModel")
async def delete(model: str, door: TheDoor, caller: Caller) -> schema.ModelDeleted:
    """Delete a tuned model or a checkpoint; a base model is refused."""
    await door.models.delete(caller, model)
    return schema.ModelDeleted(id=model)
