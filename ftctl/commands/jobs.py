"""ftctl submit, list, show, cancel, pause, resume and checkpoints."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from ftctl import objects, report, stream
from ftctl.client import Client, connect
from ftctl.failure import Failure
from ftctl.objects import optional
from ftctl.output import (
    Columns,
    Format,
    Output,
    ago,
    clock,
    console,
    say,
    show_object,
    show_page,
    text,
)
from ftctl.upload import is_id, upload
from ftctl.watch import faults_of, watch_job
from ftd.v1 import files_pb2, jobs_pb2, models_pb2

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id (ftjob-...).")]


def submit(
    context: typer.Context,
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A .jsonl file, or the id of an uploaded one.")
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", help="The base, or a tuned model to go on from.")
    ],
    validation: Annotated[
        str | None, typer.Option(help="A .jsonl file or an id, to measure the model by.")
    ] = None,
    suffix: Annotated[str | None, typer.Option(help="A part of the new model's name.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Default: auto.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Default: auto.")] = None,
    lr_multiplier: Annotated[float | None, typer.Option(help="Default: auto.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same model.")] = None,
    method: Annotated[str, typer.Option(help="How to train.")] = "supervised",
    priority: Annotated[int, typer.Option(help="Higher goes first.")] = 0,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Watch it until it is over.")
    ] = False,
    output: Output = Format.NAME,
) -> None:
    """Fine-tune MODEL on DATA. Prints the job's id; a job outlives this command and the daemon."""
    with connect(context) as client:
        # A misspelt name must not cost an upload.
        client.call(client.models.GetModel, models_pb2.GetModelRequest(id=model))
        given = (data,) if validation is None else (data, validation)
        with _uploads(client) as sent:
            training_file, *validation_file = _file_ids(client, given, sent)
            request = jobs_pb2.CreateJobRequest(
                model=model,
                training_file=training_file,
                validation_file=validation_file[0] if validation_file else None,
                hyperparameters=jobs_pb2.Hyperparameters(
                    n_epochs=epochs, batch_size=batch_size, learning_rate_multiplier=lr_multiplier
                ),
                method=method,
                suffix=suffix,
                seed=seed,
                priority=priority,
            )
            job = client.call(client.jobs.CreateJob, request)
        show_job(client, job, output)
        if watch:
            raise typer.Exit(watch_job(client, job.id, console(stderr=True)))
    say(f"submitted; `ftctl watch {job.id}` shows how it goes")


def list_jobs(
    context: typer.Context,
    limit: Annotated[int, typer.Option(help="How many.")] = 20,
    after: Annotated[str, typer.Option(help="Older than this job.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """List the jobs, newest first, and why those wait that wait."""
    with connect(context) as client:
        request = jobs_pb2.ListJobsRequest(limit=limit, after=after)
        answer = client.call(client.jobs.ListJobs, request)
    page = objects.page(map(objects.job, answer.data), answer.has_more)
    show_page(page, answer.data, JOBS, output)


def show(context: typer.Context, job: JobId, output: Output = Format.TABLE) -> None:
    """Show one job, with the reason of every value that was chosen for it."""
    with connect(context) as client:
        show_job(client, stream.job(client, job), output)


def cancel(context: typer.Context, job: JobId, output: Output = Format.NAME) -> None:
    """Cancel a job, at once; its checkpoints stay usable."""
    with connect(context) as client:
        cancelled = client.call(client.jobs.CancelJob, jobs_pb2.CancelJobRequest(id=job))
        show_job(client, cancelled, output)
    say("cancelled")


def pause(context: typer.Context, job: JobId, output: Output = Format.NAME) -> None:
    """Pause a job: one that runs ends its step and saves a checkpoint first. No step is lost."""
    with connect(context) as client:
        paused = client.call(client.jobs.PauseJob, jobs_pb2.PauseJobRequest(id=job))
        show_job(client, paused, output)
    match paused.status:
        case "paused":
            say("paused")
        case "running":
            say("it pauses as soon as its checkpoint is saved")
        case _:
            say("it pauses as soon as its files are checked")


def resume(context: typer.Context, job: JobId, output: Output = Format.NAME) -> None:
    """Let a paused job go on from where it was, when its turn comes."""
    with connect(context) as client:
        resumed = client.call(client.jobs.ResumeJob, jobs_pb2.ResumeJobRequest(id=job))
        show_job(client, resumed, output)
    say("resumed")


def checkpoints(
    context: typer.Context,
    job: JobId,
    limit: Annotated[int, typer.Option(help="How many.")] = 10,
    after: Annotated[str, typer.Option(help="Before this checkpoint.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """List a job's checkpoints, the highest step first; each is usable as a model."""
    with connect(context) as client:
        request = jobs_pb2.ListCheckpointsRequest(job_id=job, limit=limit, after=after)
        answer = client.call(client.jobs.ListCheckpoints, request)
    page = objects.page_with_ends(map(objects.checkpoint, answer.data), answer.has_more)
    show_page(page, answer.data, CHECKPOINTS, output)


def show_job(client: Client, job: jobs_pb2.Job, output: Format) -> None:
    """A job's page; of a failed one with the faults of its files, which its events hold."""
    faults = faults_of(client, job) if output is Format.TABLE else []
    over = job.status in stream.FINAL
    fields = (
        ("Job", job.id),
        ("Status", _status(job)),
        ("Waits", job.wait_reason),
        ("Error", job.error.message),
        ("Faults", "\n".join(faults)),
        ("Model", job.model),
        ("Tuned model", job.fine_tuned_model),
        ("SHA-256", job.fine_tuned_model_sha256),
        ("Training", job.training_file),
        ("Validation", job.validation_file),
        ("Results", "\n".join(job.result_files)),
        ("Method", job.method),
        ("Values", "\n".join(job.hyperparameter_reasons) or _asked(job)),
        ("Seed", str(job.seed)),
        ("Suffix", job.suffix),
        ("Priority", str(job.priority)),
        ("Metadata", "\n".join(f"{key}={held}" for key, held in sorted(job.metadata.items()))),
        ("Progress", progress(job)),
        ("Tokens", text(optional(job, "trained_tokens"))),
        ("Created", clock(job.created_at)),
        ("Expected", "" if over else clock(optional(job, "estimated_finish"))),
        ("Finished", clock(optional(job, "finished_at"))),
    )
    show_object(objects.job(job), fields, output)


def progress(job: jobs_pb2.Job) -> str:
    """`step 30 of 120`, once the number of steps is known."""
    return f"step {job.step:,} of {job.total_steps:,}" if job.total_steps else ""


@contextlib.contextmanager
def _uploads(client: Client) -> Iterator[list[str]]:
    """The ids of what was sent for a job; without the job nothing of it stays with the daemon."""
    import grpc

    sent: list[str] = []
    try:
        yield sent
    except (Failure, grpc.RpcError):
        for file_id in sent:
            with contextlib.suppress(grpc.RpcError):  # what went wrong first is what is told
                client.call(client.files.DeleteFile, files_pb2.DeleteFileRequest(id=file_id))
        raise


def _file_ids(client: Client, given: tuple[str, ...], sent: list[str]) -> list[str]:
    """The ids of files named or uploaded, the latter noted in `sent`. Raises Failure with the
    faults of one that is faulty, and for a first, the training file, of too few examples."""
    ids: list[str] = []
    for data, known in [(data, is_id(data)) for data in given]:
        if known:
            ids.append(data)
            continue
        file = upload(client, Path(data))
        sent.append(file.id)
        ids.append(file.id)
        if file.status == "error":
            raise report.failure(data, file)
        if len(ids) == 1 and (few := report.too_few(file)):
            raise Failure(few, hint=f"{data} needs more of them")
        say(f"uploaded {data} as {file.id}")
    return ids


def _status(job: jobs_pb2.Job) -> str:
    return f"running ({job.phase})" if job.status == "running" and job.phase else job.status


def _asked(job: jobs_pb2.Job) -> str:
    """The hyperparameters before they are resolved."""
    asked = objects.job(job)["hyperparameters"]
    return "\n".join(f"{name} {value}" for name, value in asked.items())


def _steps(job: jobs_pb2.Job) -> str:
    return f"{job.step:,}/{job.total_steps:,}" if job.total_steps else ""


def _remark(job: jobs_pb2.Job) -> str:
    """The most useful word about a job: its error, its model, or why it waits."""
    return job.error.message or job.fine_tuned_model or job.wait_reason


def _metric(name: str) -> Callable[[jobs_pb2.Checkpoint], str]:
    def cell(checkpoint: jobs_pb2.Checkpoint) -> str:
        return f"{checkpoint.metrics[name]:.4f}" if name in checkpoint.metrics else ""

    return cell


JOBS: Columns = (
    ("JOB", lambda job: job.id),
    ("STATUS", lambda job: job.status),
    ("STEP", _steps),
    ("AGE", lambda job: ago(job.created_at)),
    ("MODEL", lambda job: job.model),
    ("REMARK", _remark),
)

CHECKPOINTS: Columns = (
    ("CHECKPOINT", lambda checkpoint: checkpoint.id),
    ("STEP", lambda checkpoint: f"{checkpoint.step_number:,}"),
    ("LOSS", _metric("train_loss")),
    ("VALID LOSS", _metric("full_valid_loss")),
    ("AGE", lambda checkpoint: ago(checkpoint.created_at)),
    ("MODEL", lambda checkpoint: checkpoint.fine_tuned_model_checkpoint),
)
