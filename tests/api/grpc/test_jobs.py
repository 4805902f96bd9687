"""Jobs over gRPC: every RPC, its defaults, and streams that end when they should."""

from pathlib import Path

import grpc
import grpc.aio
import pytest

from ftd.core.hyperparams import Requested
from ftd.core.job import Checkpoint, JobError, State
from ftd.v1 import jobs_pb2, jobs_pb2_grpc
from tests.api.grpc.fake_door import FakeDoor
from tests.api.grpc.serving import BEARER, refused, served, until


def jobs(channel: grpc.aio.Channel) -> jobs_pb2_grpc.JobsStub:
    return jobs_pb2_grpc.JobsStub(channel)


async def create(door: FakeDoor, channel: grpc.aio.Channel, **more: object) -> jobs_pb2.Job:
    door.files.add("file-data", b"{}\n")
    request = jobs_pb2.CreateJobRequest(model="smollm2", training_file="file-data", **more)
    return await jobs(channel).CreateJob(request, metadata=BEARER)


async def test_create_with_nothing_but_the_required(tmp_path: Path) -> None:
    async with served(tmp_path) as (door, _, channel):
        job = await create(door, channel)
    (asked,) = door.jobs.created
    assert (asked.method, asked.suffix, asked.seed, asked.metadata) == (
        "supervised",
        None,
        None,
        None,
    )
    assert asked.requested == Requested()
    assert job.status == "queued"
    assert job.organization_id == "org-local"
    assert job.wait_reason == "no device is free"
    assert not job.HasField("finished_at")
    assert not job.HasField("error")
    assert not job.hyperparameters.HasField("n_epochs")
    assert not job.has_metadata
    assert list(job.result_files) == []


async def test_create_with_everything(tmp_path: Path) -> None:
    async with served(tmp_path) as (door, _, channel):
        await create(
            door,
            channel,
            validation_file="file-data",
            hyperparameters=jobs_pb2.Hyperparameters(n_epochs=3, learning_rate_multiplier=0.5),
            suffix="",
            seed=0,
            metadata={"team": "a"},
            priority=-5,
        )
    (asked,) = door.jobs.created
    assert asked.requested == Requested(n_epochs=3, learning_rate_multiplier=0.5)
    assert asked.suffix == ""
    assert asked.seed == 0
    assert asked.metadata == {"team": "a"}
    assert asked.priority == -5


async def test_list_pages_and_filters(tmp_path: Path) -> None:
    async with served(tmp_path) as (door, _, channel):
        for number in range(3):
            await create(door, channel, metadata={"odd": str(number % 2)})
        page = await jobs(channel).ListJobs(jobs_pb2.ListJobsRequest(limit=2), metadata=BEARER)
        assert [job.id for job in page.data] == ["ftjob-3", "ftjob-2"]
        assert page.has_more
        request = jobs_pb2.ListJobsRequest(after="ftjob-2")
        page = await jobs(channel).ListJobs(request, metadata=BEARER)
        assert [job.id for job in page.data] == ["ftjob-1"]
        assert not page.has_more
        request = jobs_pb2.ListJobsRequest(metadata={"odd": "1"})
        page = await jobs(channel).ListJobs(request, metadata=BEARER)
        assert [job.id for job in page.data] == ["ftjob-2"]


async def test_cancel_and_cancel_again(tmp_path: Path) -> None:
    async with served(tmp_path) as (door, _, channel):
        job = await create(door, channel)
        request = jobs_pb2.CancelJobRequest(id=job.id)
        cancelled = await jobs(channel).CancelJob(request, metadata=BEARER)
        assert cancelled.status == "cancelled"
        code, details, _ = await refused(jobs(channel).CancelJob(request, metadata=BEARER))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert details == f"Job has already completed: {job.id}"


async def test_pause_and_resume_again_and_again(tmp_path: Path) -> None:
    async with served(tmp_path) as (door, _, channel):
        job = await create(door, channel)
        pause = jobs_pb2.PauseJobRequest(id=job.id)
        resume = jobs_pb2.ResumeJobRequest(id=job.id)
        for _ in range(2):
            paused = await jobs(channel).PauseJob(pause, metadata=BEARER)
            assert paused.status == "paused"
        for _ in range(2):
            resumed = await jobs(channel).ResumeJob(resume, metadata=BEARER)
            assert resumed.status == "queued"
        door.jobs.change(job.id, state=State.RUNNING, phase="training")
        paused = await jobs(channel).PauseJob(pause, metadata=BEARER)
        assert (paused.status, paused.phase) == ("running", "pausing")
        resumed = await jobs(channel).ResumeJob(resume, metadata=BEARER)
        assert (resumed.status, resumed.phase) == ("running", "training")
        door.jobs.finish(job.id, State.SUCCEEDED)
        for call, request in ((jobs(channel).PauseJob, pause), (jobs(channel).ResumeJob, resume)):
            code, details, _ = await refused(call(request, metadata=BEARER))
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert details == f"Job has already completed: {job.id}"


async def test_a_failed_job_shows_its_error(tmp_path: Path) -> None:
    async with served(tmp_path) as (door, _, channel):
        job = await create(door, channel)
        error = JobError(code="invalid_n_examples", message="too few", param="training_file")
        door.jobs.finish(job.id, State.FAILED, error=error)
        job = await jobs(channel).GetJob(jobs_pb2.GetJobRequest(id=job.id), metadata=BEARER)
    assert (job.status, job.error.code, job.error.message, job.error.param) == (
        "failed",
        "invalid_n_examples",
        "too few",
        "training_file",
    )


async def test_events_and_checkpoints(tmp_path: Path) -> None:
    async with served(tmp_path) as (door, _, channel):
        job = await create(door, channel)
        door.jobs.step(job.id, 1, 9, 1.5)
        door.jobs.saved[job.id].append(
            Checkpoint(
                seq=1,
                id="ftckpt_1",
                job=job.id,
                created_at=5,
                step=9,
                model="ft:m::x",
                metrics={"step": 9, "train_loss": 0.25},
            )
        )
        events = await jobs(channel).ListEvents(
            jobs_pb2.ListEventsRequest(job_id=job.id, limit=1), metadata=BEARER
        )
        assert events.has_more
        assert events.data[0].message == "Step 1/9: training loss=1.50"
        assert events.data[0].data["train_loss"] == 1.5
        checkpoints = await jobs(channel).ListCheckpoints(
            jobs_pb2.ListCheckpointsRequest(job_id=job.id), metadata=BEARER
        )
    (checkpoint,) = checkpoints.data
    assert checkpoint.fine_tuning_job_id == job.id
    assert checkpoint.fine_tuned_model_checkpoint == "ft:m::x"
    assert dict(checkpoint.metrics) == {"step": 9.0, "train_loss": 0.25}


async def test_a_watch_tells_each_event_once_and_ends_with_the_job(tmp_path: Path) -> None:
    async with served(tmp_path) as (door, _, channel):
        job = await create(door, channel)
        stream = jobs(channel).WatchEvents(
            jobs_pb2.WatchEventsRequest(job_id=job.id), metadata=BEARER
        )
        seen = []
        async for event in stream:
            seen.append(event.message)
            if len(seen) < 3:
                door.jobs.tell(job.id, f"told after {len(seen)}")
            else:
                door.jobs.finish(job.id, State.SUCCEEDED)
        assert seen[1:] == ["told after 1", "told after 2"]
        request = jobs_pb2.WatchEventsRequest(job_id=job.id, after="ftevent-2")
        rest = [event.id async for event in jobs(channel).WatchEvents(request, metadata=BEARER)]
    assert rest == ["ftevent-3"]


async def test_a_watcher_that_leaves_is_forgotten(tmp_path: Path) -> None:
    async with served(tmp_path) as (door, _, channel):
        job = await create(door, channel)
        stream = jobs(channel).WatchEvents(
            jobs_pb2.WatchEventsRequest(job_id=job.id), metadata=BEARER
        )
        await stream.read()
        assert door.jobs.watching == 1
        stream.cancel()
        await until(lambda: door.jobs.watching == 0)


async def test_stopping_breaks_off_the_watchers(tmp_path: Path) -> None:
    async with served(tmp_path) as (door, server, channel):
        job = await create(door, channel)
        stream = jobs(channel).WatchEvents(
            jobs_pb2.WatchEventsRequest(job_id=job.id), metadata=BEARER
        )
        await stream.read()
        await server.stop(0.05)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        await until(lambda: door.jobs.watching == 0)


async def test_logs(tmp_path: Path) -> None:
    async with served(tmp_path) as (door, _, channel):
        job = await create(door, channel)
        door.jobs.logged[job.id] = b"loading\n\xff\n"
        request = jobs_pb2.GetLogsRequest(job_id=job.id)
        chunks = [c.data async for c in jobs(channel).GetLogs(request, metadata=BEARER)]
    assert b"".join(chunks) == b"loading\n\xff\n"
