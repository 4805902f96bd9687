"""The `ftd` command: serve, check, backup, restore, demo."""

import os
import resource
import sys
from pathlib import Path
from typing import Annotated

import typer

from ftd import __version__
from ftd.core.errors import FtdError

app = typer.Typer(
    name="ftd",
    help="The OpenAI fine-tuning API on your own workstation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Home = Annotated[
    Path | None,
    typer.Option(help="Holds everything (default: $FTD_HOME, else ~/.local/share/ftd)."),
]
Config = Annotated[Path | None, typer.Option(help="The TOML configuration file.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ftd {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    del version


@app.command()
def serve(
    home: Home = None,
    config: Config = None,
    rest: Annotated[
        str | None, typer.Option(help="HOST:PORT of the REST face; port 0 picks a free one.")
    ] = None,
    grpc: Annotated[
        list[str] | None,
        typer.Option(help="HOST:PORT of the gRPC face, beside its unix socket; may be repeated."),
    ] = None,
) -> None:
    """Run the daemon."""
    from ftd.config import load
    from ftd.daemon import serve as run
    from ftd.host import logs

    settings = load(config, home=home, rest=rest, grpc=tuple(grpc) if grpc else None)
    logs.set_up(settings.log_level)
    # A core would hold keys and what was asked; who is started by us leaves none either.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    run(settings)


@app.command()
def check(home: Home = None, config: Config = None) -> None:
    """Validate configuration, devices and models, and say what would run."""
    from ftd.check import check as run
    from ftd.config import load

    raise typer.Exit(run(load(config, home=home)))


@app.command()
def backup(
    destination: Annotated[
        Path, typer.Argument(metavar="DEST", help="A directory that does not exist yet.")
    ],
    home: Home = None,
    config: Config = None,
) -> None:
    """Back up the home, while the daemon runs or not, to a new directory DEST.

    In it are all jobs with their events, files, models and tuned models, and the checkpoints of
    jobs that are not over. Not in it are admin.key and the configuration, which are secrets to be
    kept elsewhere, the logs of trainers, the cache, and what was set aside in unknown/. Files are
    linked where DEST is on the home's file system, which takes no room and no second disk: copy
    DEST to another to be safe from the loss of this one. The exit status is 3 when something that
    the database names is missing.
    """
    from ftd.backup import backup as run
    from ftd.config import load
    from ftd.host.home import Home as Place

    os.umask(0o077)
    raise typer.Exit(run(Place(load(config, home=home).home), destination))


@app.command()
def restore(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="What `ftd backup` has made.")],
    home: Home = None,
    config: Config = None,
) -> None:
    """Make an empty or absent home again from a backup, which is verified first, byte for byte.

    Run it as the user that the daemon runs as. Jobs that were running or queued when the backup was
    made go on with the next `ftd serve`, from their last checkpoint in it.
    """
    from ftd.backup import restore as run
    from ftd.config import load
    from ftd.host.home import Home as Place

    os.umask(0o077)
    raise typer.Exit(run(source, Place(load(config, home=home).home)))


@app.command()
def demo(
    home: Annotated[
        Path | None,
        typer.Option(
            help="Where the demo works (default: a scratch directory, removed at its end)."
        ),
    ] = None,
    keep: Annotated[bool, typer.Option(help="Leave the scratch directory in place.")] = False,
) -> None:
    """The whole story in one command: fetch, serve, upload, train, look at the result."""
    from ftd.demo import demo as run

    raise typer.Exit(run(home, keep=keep))


def main() -> None:
    """Run the command; what its user can mend is one line and exit status 1."""
    try:
        app()
    except FtdError as error:
        print(f"ftd: {error.message}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
