"""/v1/fine_tuning/jobs: create, list, look at, cancel, pause, resume."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from ftd.api.rest import schema
from ftd.api.rest.auth import Caller, TheDoor
from ftd.api.rest.bodies import CreateJobBody
from ftd.api.rest.idempotency import AskedOnce
from ftd.api.rest.queries import Limit, Text
from ftd.api.rest.strict_json import StrictRoute
from ftd.core.errors import invalid
from ftd.service.jobs import MetadataFilter

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["Fine-tuning"], route_class=StrictRoute)

_METADATA = {
    "parameters": [
        {
            "name": "metadata",
            "in": "query",
            "required": False,
            "style": "deepObject",
            "explode": True,
            "schema": {"type": ["object", "null"], "additionalProperties": {"type": "string"}},
            "description": "metadata[key]=value, every pair must match; metadata=null for none.",
        }
    ]
}


async def metadata_filter(request: Request) -> MetadataFilter | None:
    """`metadata[k]=v` (all of them) or `metadata=null`; absent or empty is no filter."""
    pairs: dict[str, str] = {}
    null = False
    for name, value in request.query_params.multi_items():
        if name == "metadata" and value:
            if value != "null":
                raise invalid("metadata must be null or metadata[key]=value.", param="metadata")
            null = True
        elif name.startswith("metadata[") and name.endswith("]"):
            pairs[name.removeprefix("metadata[").removesuffix("]")] = value
    if null and pairs:
        raise invalid("metadata=null and metadata[key] exclude each other.", param="metadata")
    return MetadataFilter(pairs=pairs, null=null) if null or pairs else None


@router.post("", operation_id="createFineTuningJob")
async def create(body: CreateJobBody, door: TheDoor, caller: Caller, once: AskedOnce) -> schema.Job:
    """Create a fine-tuning job; it waits for its files where they are still processing."""
    created = await door.jobs.create(caller, body.request(), once)
    return schema.job(created, door.jobs.organization)


@router.get("", operation_id="listPaginatedFineTuningJobs", openapi_extra=_METADATA)
async def list_jobs(
    door: TheDoor,
    caller: Caller,
    metadata: Annotated[MetadataFilter | None, Depends(metadata_filter)],
    after: Text = None,
    limit: Limit = None,
) -> schema.JobList:
    """Newest first, 20 where no limit is given."""
    page = await door.jobs.list(caller, after=after, limit=limit, metadata=metadata)
    return schema.job_list(page, door.jobs.organization)


@router.get("/{fine_tuning_job_id}", operation_id="retrieveFineTuningJob")
async def retrieve(fine_tuning_job_id: str, door: TheDoor, caller: Caller) -> schema.Job:
    """One job."""
    job = await door.jobs.get(caller, fine_tuning_job_id)
    return schema.job(job, door.jobs.organization)


@router.post("/{fine_tuning_job_id}/cancel", operation_id="cancelFineTuningJob")
async def cancel(fine_tuning_job_id: str, door: TheDoor, caller: Caller) -> schema.Job:
    """Cancelled at once; the trainer ends behind the answer."""
    job = await door.jobs.cancel(caller, fine_tuning_job_id)
    return schema.job(job, door.jobs.organization)


@router.post("/{fine_tuning_job_id}/pause", operation_id="pauseFineTuningJob")
async def pause(fine_tuning_job_id: str, door: TheDoor, caller: Caller) -> schema.Job:
    """Paused at once where it has not begun; a running one is, when its checkpoint is
    published."""
    job = await door.jobs.pause(caller, fine_tuning_job_id)
    return schema.job(job, door.jobs.organization)


@router.post("/{fine_tuning_job_id}/resume", operation_id="resumeFineTuningJob")
async def resume(fine_tuning_job_id: str, door: TheDoor, caller: Caller) -> schema.Job:
    """Queued again; it goes on from its checkpoint."""
    job = await door.jobs.resume(caller, fine_tuning_job_id)
    return schema.job(job, door.jobs.organization)


@router.get("/{fine_tuning_job_id}/events", operation_id="listFineTuningEvents")
async def list_events(
    fine_tuning_job_id: str,
    door: TheDoor,
    caller: Caller,
    after: Text = None,
    limit: Limit = None,
) -> schema.EventList:
    """What happened, newest first, 20 where no limit is given."""
    page = await door.jobs.events(caller, fine_tuning_job_id, after=after, limit=limit)
    return schema.event_list(page)


@router.get("/{fine_tuning_job_id}/checkpoints", operation_id="listFineTuningJobCheckpoints")
async def list_checkpoints(
    fine_tuning_job_id: str,
    door: TheDoor,
    caller: Caller,
    after: Text = None,
    limit: Limit = None,
) -> schema.CheckpointList:
    """Published checkpoints, highest step first, 10 where no limit is given."""
    page = await door.jobs.checkpoints(caller, fine_tuning_job_id, after=after, limit=limit)
    return schema.checkpoint_list(page)
