"""ftctl keys: who else may use the daemon, for what, and until when."""

import re
from typing import Annotated

import typer

from ftctl import objects
from ftctl.client import connect
from ftctl.failure import Failure, Status
from ftctl.objects import optional
from ftctl.output import (
    Columns,
    Format,
    Output,
    ago,
    clock,
    say,
    show_data,
    show_object,
    show_page,
)
from ftd.v1 import keys_pb2

app = typer.Typer(help="API keys, beside the one of the home's admin.key.", no_args_is_help=True)

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LENGTH = re.compile(r"([0-9]{1,9})([smhd])")


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is, or what it is for.")],
    scopes: Annotated[
        str,
        typer.Option(
            help="read: look. submit: files, jobs, their models. infer: ask. admin: bases, keys."
        ),
    ] = "read,submit,infer",
    project: Annotated[
        str, typer.Option(help="Sees no files, jobs or tuned models of others. Default: yours.")
    ] = "",
    expires: Annotated[
        str | None, typer.Option(metavar="30d", help="s, m, h or d from now. Default: never.")
    ] = None,
    output: Output = Format.NAME,
) -> None:
    """Make a key. It is printed alone, and never again."""
    request = keys_pb2.CreateKeyRequest(
        name=name,
        scopes=[scope.strip() for scope in scopes.split(",")],
        project=project,
        expires_after_seconds=None if expires is None else _seconds(expires),
    )
    with connect(context) as client:
        made = client.call(client.keys.CreateKey, request)
    found = {**objects.key(made.key), "key": made.token}
    if output is Format.TABLE:
        show_object(found, (*_fields(made.key), ("Key", made.token)), output)
    else:
        show_data(found, [made.token], output)
    say(f"made {made.key.id} of project {made.key.project}; the key is not shown again")


@app.command("list")
def list_keys(
    context: typer.Context,
    limit: Annotated[int, typer.Option(help="How many.")] = 100,
    after: Annotated[str, typer.Option(help="Older than this key.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """List the keys of all projects, newest first, the revoked ones too."""
    with connect(context) as client:
        request = keys_pb2.ListKeysRequest(limit=limit, after=after)
        answer = client.call(client.keys.ListKeys, request)
    page = objects.page(map(objects.key, answer.data), answer.has_more)
    show_page(page, answer.data, COLUMNS, output)


@app.command()
def revoke(
    context: typer.Context,
    key: Annotated[
        str, typer.Argument(metavar="ID", help="The key's id: its middle part, no secret.")
    ],
    output: Output = Format.NAME,
) -> None:
    """Revoke a key: at once, and for good."""
    with connect(context) as client:
        revoked = client.call(client.keys.RevokeKey, keys_pb2.RevokeKeyRequest(id=key))
    show_object(objects.key(revoked), _fields(revoked), output)
    say("revoked")


def _seconds(length: str) -> int:
    found = _LENGTH.fullmatch(length)
    if found is None:
        raise Failure(
            f"{length!r} is no length of time",
            hint="write 45m, 12h or 30d",
            status=Status.USAGE,
        )
    return int(found[1]) * _UNITS[found[2]]


def _fields(key: keys_pb2.Key) -> tuple[tuple[str, str], ...]:
    return (
        ("Id", key.id),
        ("Name", key.name),
        ("Project", key.project),
        ("Scopes", ", ".join(key.scopes)),
        ("Created", clock(key.created_at)),
        ("Expires", clock(optional(key, "expires_at"))),
        ("Last used", clock(optional(key, "last_used_at"))),
        ("Revoked", clock(optional(key, "revoked_at"))),
    )


def _used(key: keys_pb2.Key) -> str:
    return ago(key.last_used_at) if key.HasField("last_used_at") else "never"


COLUMNS: Columns = (
    ("KEY", lambda key: key.id),
    ("NAME", lambda key: key.name),
    ("PROJECT", lambda key: key.project),
    ("SCOPES", lambda key: ",".join(key.scopes)),
    ("AGE", lambda key: ago(key.created_at)),
    ("USED", _used),
    ("EXPIRES", lambda key: clock(optional(key, "expires_at"))),
    ("REVOKED", lambda key: clock(optional(key, "revoked_at"))),
)
