"""ftctl events, watch, wait and logs: what a job tells, while it runs and after."""

import codecs
import io
import sys
from typing import Annotated

import typer

from ftctl import objects, stream
from ftctl.client import connect
from ftctl.commands.jobs import JobId
from ftctl.output import (
    Columns,
    Format,
    Output,
    clock,
    console,
    safe,
    say,
    show_data,
    show_page,
    to_json,
)
from ftctl.progress import line
from ftctl.watch import conclude, detaching, watch_job
from ftd.v1 import jobs_pb2

COLUMNS: Columns = (
    ("TIME", lambda event: clock(event.created_at)),
    ("LEVEL", lambda event: event.level),
    ("MESSAGE", lambda event: event.message),
)


def events(
    context: typer.Context,
    job: JobId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="All of them, and new ones as they come.")
    ] = False,
    limit: Annotated[int, typer.Option(help="How many of the newest, without --follow.")] = 20,
    after: Annotated[str, typer.Option(help="Older than this event; newer, with --follow.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Show a job's events: a table has the newest last, json is the API's list."""
    with connect(context) as client:
        if follow:
            with detaching(job):
                for event in stream.events(client, job, after=after):
                    _print_event(event, output)
            return
        request = jobs_pb2.ListEventsRequest(job_id=job, after=after, limit=limit)
        answer = client.call(client.jobs.ListEvents, request)
    page = objects.page(map(objects.event, answer.data), answer.has_more)
    show_page(page, answer.data[::-1], COLUMNS, output)


def watch(context: typer.Context, job: JobId) -> None:
    """Watch a job until it is over: a live bar on a terminal, lines in a pipe.

    Ctrl-C detaches; the job goes on. The exit status is the job's: 0, 5 failed, 6 cancelled.
    """
    with connect(context) as client:
        status = watch_job(client, job, console())
    raise typer.Exit(status)


def wait(
    context: typer.Context,
    job: JobId,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds after which to give up, with status 8.", min=0)
    ] = None,
) -> None:
    """Wait until a job is over. The exit status is the job's: 0, 5 failed, 6 cancelled."""
    with connect(context) as client, detaching(job):
        request = jobs_pb2.ListEventsRequest(job_id=job, limit=1)
        newest = client.call(client.jobs.ListEvents, request).data
        after = newest[0].id if newest else ""
        for _ in stream.events(client, job, after=after, timeout_s=timeout):
            pass
        status = conclude(client, job)
    raise typer.Exit(status)


def logs(
    context: typer.Context,
    job: JobId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job is over.")
    ] = False,
) -> None:
    """Print what the trainer wrote: the log of the job's newest attempt."""
    decoder = io.IncrementalNewlineDecoder(
        codecs.getincrementaldecoder("utf-8")("replace"), translate=True
    )
    request = jobs_pb2.GetLogsRequest(job_id=job, follow=follow)
    written = False
    with connect(context) as client, detaching(job):
        for chunk in client.stream(client.jobs.GetLogs, request):
            written = written or bool(chunk.data)
            sys.stdout.write(safe(decoder.decode(chunk.data)))
            sys.stdout.flush()
    sys.stdout.write(safe(decoder.decode(b"", final=True)))
    if not written:
        say(f"{job} has written nothing; `ftctl events {job}` shows what it told")


def _print_event(event: jobs_pb2.Event, format: Format) -> None:
    match format:
        case Format.TABLE:
            print(line(event), flush=True)
        case Format.JSON:
            print(to_json(objects.event(event)), flush=True)
        case Format.YAML:
            print("---")
            show_data(objects.event(event), [], format)
        case Format.NAME:
            print(event.id, flush=True)
