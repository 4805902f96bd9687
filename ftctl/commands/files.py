"""ftctl files: training data and result files."""

import time
from pathlib import Path
from typing import Annotated

import typer

from ftctl import download, objects, report
from ftctl.client import Client, connect
from ftctl.failure import Failure, Status
from ftctl.objects import optional, struct
from ftctl.output import (
    Columns,
    Fields,
    Format,
    Output,
    ago,
    clock,
    say,
    show_object,
    show_page,
    size,
    working,
)
from ftctl.upload import FINE_TUNE, is_id, upload
from ftd.v1 import files_pb2

app = typer.Typer(help="Training data and result files.", no_args_is_help=True)

FileId = Annotated[str, typer.Argument(metavar="FILE", help="The file's id (file-...).")]

POLL_S = 0.5  # how often a long check is asked about


@app.command("upload")
def upload_file(
    context: typer.Context,
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="The file; training data is .jsonl.")
    ],
    purpose: Annotated[str, typer.Option(help="What it is for.")] = FINE_TUNE,
    output: Output = Format.NAME,
) -> None:
    """Upload a file and print its id. One with faults stays uploaded, with status 1."""
    with connect(context) as client:
        file = upload(client, path, purpose)
    _show(file, output)
    if file.status == "error":
        raise report.failure(path.name, file)


@app.command()
def check(
    context: typer.Context,
    file: Annotated[
        str, typer.Argument(metavar="DATA", help="A .jsonl file, or the id of an uploaded one.")
    ],
    output: Output = Format.TABLE,
) -> None:
    """Check training data, every line of it, and show what it holds.

    A local file is uploaded for it and deleted again. json has all of the report beside the file.
    The exit status is 1 if there are faults.
    """
    with connect(context) as client:
        if is_id(file):
            checked = _checked(client, _get(client, file))
        else:
            checked = _check_local(client, Path(file))
    found = {**objects.file(checked), "report": struct(checked.report)}
    show_object(found, _fields(checked), output)
    if checked.status == "error":
        raise Failure(f"{checked.filename} cannot be trained on", hint="mend its faults")
    if few := report.too_few(checked):
        say(f"To validate on it will do; a job that trains on it fails: {few}")


@app.command("list")
def list_files(
    context: typer.Context,
    purpose: Annotated[str, typer.Option(help="Only files for this.")] = "",
    limit: Annotated[int, typer.Option(help="How many.")] = 20,
    after: Annotated[str, typer.Option(help="Older than this file.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """List the files, newest first."""
    with connect(context) as client:
        request = files_pb2.ListFilesRequest(purpose=purpose, limit=limit, after=after)
        answer = client.call(client.files.ListFiles, request)
    page = objects.page_with_ends(map(objects.file, answer.data), answer.has_more)
    show_page(page, answer.data, COLUMNS, output)


@app.command()
def show(context: typer.Context, file: FileId, output: Output = Format.TABLE) -> None:
    """Show one file and what its check found."""
    with connect(context) as client:
        _show(_get(client, file), output)


@app.command()
def get(
    context: typer.Context,
    file: FileId,
    to: Annotated[str, typer.Option("--output", help="Write it to this path; - is stdout.")] = "-",
) -> None:
    """Fetch a file's bytes."""
    with connect(context) as client:
        download.save(client, file, to)


@app.command()
def rm(context: typer.Context, file: FileId) -> None:
    """Delete a file. Its bytes go when the last job that uses them has ended."""
    with connect(context) as client:
        client.call(client.files.DeleteFile, files_pb2.DeleteFileRequest(id=file))
    say(f"deleted {file}")


def _get(client: Client, file_id: str) -> files_pb2.File:
    found: files_pb2.File = client.call(client.files.GetFile, files_pb2.GetFileRequest(id=file_id))
    return found


def _check_local(client: Client, path: Path) -> files_pb2.File:
    file = upload(client, path)
    try:
        return _checked(client, file)
    finally:
        client.call(client.files.DeleteFile, files_pb2.DeleteFileRequest(id=file.id))


def _checked(client: Client, file: files_pb2.File) -> files_pb2.File:
    """The file once its check is over; a large one takes its time. Raises Failure for a file that
    nothing is checked of."""
    if file.purpose != FINE_TUNE:
        raise Failure(
            f"{file.id} is no training data: it is for {file.purpose}", status=Status.USAGE
        )
    if file.status == "uploaded":
        with working(f"checking {file.filename}"):
            while file.status == "uploaded":
                time.sleep(POLL_S)
                file = _get(client, file.id)
    return file


def _show(file: files_pb2.File, output: Format) -> None:
    show_object(objects.file(file), _fields(file), output)


def _fields(file: files_pb2.File) -> Fields:
    return (
        ("File", file.id),
        ("Name", file.filename),
        ("Purpose", file.purpose),
        ("Status", file.status),
        ("Size", size(file.bytes)),
        *report.fields(file),
        ("SHA-256", file.sha256),
        ("Created", clock(file.created_at)),
        ("Expires", clock(optional(file, "expires_at"))),
    )


COLUMNS: Columns = (
    ("FILE", lambda file: file.id),
    ("STATUS", lambda file: file.status),
    ("SIZE", lambda file: size(file.bytes)),
    ("AGE", lambda file: ago(file.created_at)),
    ("NAME", lambda file: file.filename),
    ("PURPOSE", lambda file: file.purpose),
    ("REMARK", lambda file: file.status_details),
)
