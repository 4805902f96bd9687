"""ftctl results: the measurements of every step, as a table, a CSV file or a picture."""

import csv
from collections.abc import Callable
from typing import Annotated

import typer

from ftctl import download, objects, stream
from ftctl.client import connect
from ftctl.commands.jobs import JobId
from ftctl.failure import Failure
from ftctl.objects import Object
from ftctl.output import Format, Output, in_colour, print_table, show_data
from ftd.v1 import jobs_pb2

# Columns under second names for old plotting code; a table needs them once.
COPIES = frozenset({"train_token_accuracy", "valid_token_accuracy"})


def results(
    context: typer.Context,
    job: JobId,
    file: Annotated[
        str | None, typer.Option("--output", help="Write the CSV to this file; - is stdout.")
    ] = None,
    plot: Annotated[bool, typer.Option("--plot", help="Draw the loss curves.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Show a succeeded job's measurements, one row for each step."""
    with connect(context) as client:
        found = stream.job(client, job)
        if not found.result_files:
            raise _none(found)
        file_id = found.result_files[0]
        if file is not None:
            download.save(client, file_id, file)
            return
        text = download.read(client, file_id).decode()
    rows = [_row(row) for row in csv.DictReader(text.splitlines())]
    if plot:
        from ftctl.plot import losses

        print(losses(rows, colour=in_colour()))
    elif output is Format.TABLE:
        _print(rows)
    else:
        show_data(objects.listing(rows), [file_id], output)


def _none(job: jobs_pb2.Job) -> Failure:
    """Only a job that has succeeded has results; what another has measured, its events hold."""
    if job.status not in stream.FINAL:
        return Failure(
            f"{job.id} has no results yet: it is {job.status}",
            hint=f"`ftctl events {job.id}` shows what it has measured so far",
        )
    how = f"failed: {job.error.message}" if job.status == "failed" else "was cancelled"
    return Failure(
        f"{job.id} has no results: it {how}",
        hint=f"`ftctl events {job.id} --limit 100` shows what it had measured",
    )


def _print(rows: list[Object]) -> None:
    names = [name for name in (rows[0] if rows else ()) if name not in COPIES]
    print_table(rows, [(name, _cell(name)) for name in names])


def _row(row: dict[str, str]) -> Object:
    """Numbers again; an empty cell was not measured."""
    numbers: Object = {name: float(cell) if cell else None for name, cell in row.items()}
    numbers["step"] = int(row["step"])
    return numbers


def _cell(name: str) -> Callable[[Object], str]:
    return lambda row: "" if row[name] is None else f"{row[name]:g}"
