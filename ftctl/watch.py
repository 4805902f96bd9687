"""Watching a job to its end, and what the end means for whoever waits."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from ftctl import report, stream
from ftctl.client import Client
from ftctl.failure import Status
from ftctl.objects import struct
from ftctl.output import say
from ftctl.progress import showing
from ftd.v1 import jobs_pb2

if TYPE_CHECKING:
    from rich.console import Console

EVENTS_READ = 20  # the newest, among which a failed job's error is

_STATUSES = {
    "succeeded": Status.OK,
    "failed": Status.JOB_FAILED,
    "cancelled": Status.JOB_CANCELLED,
}


def watch_job(client: Client, job_id: str, screen: "Console") -> Status:
    """Show a job's events on `screen` until it is over, then how it ended on stderr."""
    job = stream.job(client, job_id)
    with detaching(job_id), showing(client, job, screen) as show:
        for event in stream.events(client, job_id):
            show(event)
    return conclude(client, job_id)


def conclude(client: Client, job_id: str) -> Status:
    """Say how a job that is over ended; its exit status."""
    job = stream.job(client, job_id)
    match job.status:
        case "succeeded":
            say(f"{job_id} succeeded: {job.fine_tuned_model}")
        case "failed":
            say(f"{job_id} failed: {job.error.message}")
            for fault in faults_of(client, job):
                say(f"  {fault}")
        case _:
            say(f"{job_id} is {job.status}")
    return _STATUSES[job.status]


def faults_of(client: Client, job: jobs_pb2.Job) -> list[str]:
    """The first faults of a failed job's files, each on a line; its error event holds them."""
    if job.status != "failed":
        return []
    request = jobs_pb2.ListEventsRequest(job_id=job.id, limit=EVENTS_READ)
    for event in client.call(client.jobs.ListEvents, request).data:
        faults = struct(event.data).get("errors")
        if event.level == "error" and faults:
            return report.faults(faults, len(faults))
    return []


@contextmanager
def detaching(job_id: str) -> Iterator[None]:
    """Ctrl-C ends the looking, not the job, and says so."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"detached; {job_id} goes on. `ftctl watch {job_id}` comes back to it")
        raise typer.Exit(Status.INTERRUPTED) from None
