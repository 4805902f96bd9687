"""ftctl's command line: options that stand before every command, and how each one ends."""

import io
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ftctl.client import Options
from ftctl.commands import chat, compare, devices, files, follow, jobs, keys, models, results
from ftctl.failure import Failure, Status
from ftctl.output import say
from ftctl.tls import Tls
from ftd import __version__

app = typer.Typer(
    name="ftctl",
    help="Fine-tune models on your own workstation, through the ftd daemon.",
    epilog="Exit status: 0 ok, 1 error, 2 usage, 3 not found, 4 not allowed, 5 job failed, "
    "6 job cancelled, 7 daemon unreachable, 8 timed out, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("submit")(jobs.submit)
app.command("list")(jobs.list_jobs)
app.command("show")(jobs.show)
app.command("cancel")(jobs.cancel)
app.command("pause")(jobs.pause)
app.command("resume")(jobs.resume)
app.command("checkpoints")(jobs.checkpoints)
app.command("events")(follow.events)
app.command("watch")(follow.watch)
app.command("wait")(follow.wait)
app.command("logs")(follow.logs)
app.command("results")(results.results)
app.command("chat")(chat.chat)
app.command("compare")(compare.compare)
app.command("devices")(devices.devices)
app.add_typer(files.app, name="files")
app.add_typer(models.app, name="models")
app.add_typer(keys.app, name="keys")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ftctl {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    addr: Annotated[
        str | None,
        typer.Option(
            "--addr",
            help="The daemon's socket, HOST:PORT on loopback, or tls://HOST:PORT. (env: FTD_ADDR)",
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key", help="The API key; others of this machine can see it. (env: FTD_API_KEY)"
        ),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(
            "--ca", help="PEM: who has signed the daemon's certificate. (env: FTD_TLS_CA)"
        ),
    ] = None,
    cert: Annotated[
        Path | None,
        typer.Option("--cert", help="PEM: your certificate, where wanted. (env: FTD_TLS_CERT)"),
    ] = None,
    client_key: Annotated[
        Path | None,
        typer.Option("--client-key", help="PEM: its private key. (env: FTD_TLS_KEY)"),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """Which daemon to talk to, and as whom; the places that are looked at otherwise are in
    ftctl.address."""
    del version
    context.obj = Options(addr, key, Tls.given(ca, cert, client_key))


def main() -> None:
    """Run one command. A Failure is two lines on stderr and its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except Failure as failure:
        say(f"ftctl: {failure.message}")
        if failure.hint:
            say(f"       {failure.hint}")
        sys.exit(failure.status)
    except BrokenPipeError:
        # The reader has gone, as `head` does; the interpreter's own flush must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Status.ERROR)
