"""Fine-tuning jobs over gRPC."""

from collections.abc import AsyncIterator
from typing import Any

from ftd.api.grpc import convert, idempotency
from ftd.api.grpc.gate import actor
from ftd.core.job import Job
from ftd.service.jobs import CreateJob, Jobs, MetadataFilter
from ftd.v1 import jobs_pb2, jobs_pb2_grpc


class JobsFace(jobs_pb2_grpc.JobsServicer):
    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def CreateJob(self, request: jobs_pb2.CreateJobRequest, context: Any) -> jobs_pb2.Job:
        wanted = CreateJob(
            model=request.model,
            training_file=request.training_file,
            validation_file=(
                request.validation_file if request.HasField("validation_file") else None
            ),
            requested=convert.requested(request.hyperparameters),
            method=request.method or "supervised",
            suffix=request.suffix if request.HasField("suffix") else None,
            seed=request.seed if request.HasField("seed") else None,
            metadata=dict(request.metadata) or None,
            priority=request.priority,
        )
        once = idempotency.once(context, request)
        return self._job(await self._jobs.create(actor(), wanted, once))

    async def ListJobs(
        self, request: jobs_pb2.ListJobsRequest, context: Any
    ) -> jobs_pb2.ListJobsResponse:
        pairs = dict(request.metadata)
        page = await self._jobs.list(
            actor(),
            after=request.after or None,
            limit=request.limit,
            metadata=MetadataFilter(pairs=pairs) if pairs else None,
        )
        return jobs_pb2.ListJobsResponse(data=map(self._job, page.data), has_more=page.has_more)

    async def GetJob(self, request: jobs_pb2.GetJobRequest, context: Any) -> jobs_pb2.Job:
        return self._job(await self._jobs.get(actor(), request.id))

    async def CancelJob(self, request: jobs_pb2.CancelJobRequest, context: Any) -> jobs_pb2.Job:
        return self._job(await self._jobs.cancel(actor(), request.id))

    async def PauseJob(self, request: jobs_pb2.PauseJobRequest, context: Any) -> jobs_pb2.Job:
        return self._job(await self._jobs.pause(actor(), request.id))

    async def ResumeJob(self, request: jobs_pb2.ResumeJobRequest, context: Any) -> jobs_pb2.Job:
        return self._job(await self._jobs.resume(actor(), request.id))

    async def ListEvents(
        self, request: jobs_pb2.ListEventsRequest, context: Any
    ) -> jobs_pb2.ListEventsResponse:
        page = await self._jobs.events(
            actor(), request.job_id, after=request.after or None, limit=request.limit
        )
        return jobs_pb2.ListEventsResponse(
            data=map(convert.event, page.data), has_more=page.has_more
        )

    async def ListCheckpoints(
        self, request: jobs_pb2.ListCheckpointsRequest, context: Any
    ) -> jobs_pb2.ListCheckpointsResponse:
        page = await self._jobs.checkpoints(
            actor(), request.job_id, after=request.after or None, limit=request.limit
        )
        return jobs_pb2.ListCheckpointsResponse(
            data=map(convert.checkpoint, page.data), has_more=page.has_more
        )

    async def WatchEvents(
        self, request: jobs_pb2.WatchEventsRequest, context: Any
    ) -> AsyncIterator[jobs_pb2.Event]:
        async for event in self._jobs.watch(actor(), request.job_id, after=request.after or None):
            yield convert.event(event)

    async def GetLogs(
        self, request: jobs_pb2.GetLogsRequest, context: Any
    ) -> AsyncIterator[jobs_pb2.LogChunk]:
        async for data in self._jobs.logs(actor(), request.job_id, follow=request.follow):
            yield jobs_pb2.LogChunk(data=data)

    def _job(self, job: Job) -> jobs_pb2.Job:
        return convert.job(job, self._jobs.organization)
