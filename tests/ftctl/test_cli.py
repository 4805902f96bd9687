"""ftctl itself: addresses, keys, exit statuses, and streams that others close."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import ftctl.cli
import ftd.__main__
from ftd import __version__
from ftd.core.errors import FtdError, Kind
from tests.api.grpc.fake_door import KEY
from tests.ftctl.conftest import Daemon


async def test_the_daemon_over_tcp_on_loopback(daemon: Daemon) -> None:
    assert daemon.server is not None
    (address,) = daemon.server.tcp_addresses
    ran = await daemon.run("--addr", address, "models", "list", "-o", "name")
    assert (ran.status, ran.out) == (0, "smollm2\n")


async def test_options_before_the_command_and_the_environment(daemon: Daemon) -> None:
    (daemon.home / "admin.key").unlink()
    (daemon.home / "ftd.sock").unlink()
    socket = str(daemon.root / "s")
    assert (await daemon.run("--addr", socket, "--key", KEY, "list")).status == 0
    assert (await daemon.run("list", FTD_ADDR=socket, FTD_API_KEY=KEY)).status == 0


@pytest.mark.parametrize("key", ["", "wrong"], ids=["none", "wrong"])
async def test_no_key_and_a_wrong_one_are_not_allowed(daemon: Daemon, key: str) -> None:
    (daemon.home / "admin.key").write_text(key)
    ran = await daemon.run("list")
    assert (ran.status, ran.out) == (4, "")
    assert "FTD_API_KEY" in ran.err


async def test_no_daemon_is_unreachable(daemon: Daemon) -> None:
    ran = await daemon.run("list", FTD_HOME=str(daemon.root / "elsewhere"))
    assert (ran.status, ran.out) == (7, "")
    assert "`ftd serve`" in ran.err
    ran = await daemon.run("--addr", "127.0.0.1:1", "list")
    assert ran.status == 7
    assert ran.err.startswith("ftctl: the daemon at 127.0.0.1:1 cannot be reached\n")


async def test_a_port_that_speaks_no_grpc_is_said_to_be_another(daemon: Daemon) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 505 HTTP Version Not Supported\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as rest:
        host, port = rest.sockets[0].getsockname()
        ran = await daemon.run("--addr", f"{host}:{port}", "list")
    assert ran.status == 7
    assert f"what answers at {host}:{port} does not speak gRPC" in ran.err
    assert "REST port" in ran.err


async def test_what_no_key_would_allow_is_not_blamed_on_the_key(daemon: Daemon) -> None:
    """PERMISSION_DENIED is the answer to somebody whose key is known."""

    async def refuse(*_: object, **__: object) -> None:
        raise FtdError(Kind.FORBIDDEN, "Base models stay.")

    daemon.door.jobs.cancel = refuse  # type: ignore[method-assign, assignment]
    ran = await daemon.run("cancel", "ftjob-1")
    assert (ran.status, ran.err) == (4, "ftctl: Base models stay.\n")


async def test_the_version_and_the_help_of_nothing(daemon: Daemon) -> None:
    ran = await daemon.run("--version")
    assert (ran.status, ran.out) == (0, f"ftctl {__version__}\n")
    bare = await daemon.run()
    assert "submit" in bare.out + bare.err


def paths(group: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """Every command of a program, groups and the program itself included."""
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from paths(command, *path, name)


@pytest.mark.parametrize("program", [ftctl.cli.app, ftd.__main__.app], ids=["ftctl", "ftd"])
def test_help_has_arguments_in_capitals_and_whole_sentences(program: typer.Typer) -> None:
    for path in paths(typer.main.get_command(program)):
        shown = CliRunner().invoke(program, [*path, "--help"]).output
        assert not re.search(r"Usage:.*\{[^}]*[a-z]", shown), shown
        assert " ." not in re.sub(r" \.[a-z]", "", shown), shown  # but of .jsonl


async def test_our_daemons_mistakes_are_one_line(daemon: Daemon) -> None:
    daemon.door.node.broken = True
    ran = await daemon.run("devices")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == "ftctl: The server had an error; its log says more.\n"


@pytest.mark.parametrize("args", [("nonsense",), ("list", "--nonsense"), ("list", "-o", "xml"), ()])
async def test_usage_errors(daemon: Daemon, args: tuple[str, ...]) -> None:
    ran = await daemon.run(*args)
    assert ran.status == 2
    assert "Traceback" not in ran.err


async def test_a_reader_that_leaves_early_is_no_error_to_read_about(daemon: Daemon) -> None:
    daemon.door.files.add("file-1", b"{}\n" * 1_000_000)
    process = await daemon.begin("files", "get", "file-1")
    assert process.stdout is not None
    await process.stdout.readexactly(3)
    process.stdout._transport.close()  # type: ignore[attr-defined]  # as `head -1` does
    assert process.stderr is not None
    said = await asyncio.wait_for(process.stderr.read(), 30)
    assert await process.wait() == 1
    assert said == b""


async def test_nothing_is_coloured_in_a_pipe(daemon: Daemon) -> None:
    daemon.door.files.add("file-1", b"{}")
    await daemon.run("submit", "file-1", "--model", "smollm2")
    commands = ("list", "devices", "show ftjob-1", "files list", "models list", "--help")
    runs = [daemon.run(*command.split(), TERM="xterm-256color") for command in commands]
    for ran in await asyncio.gather(*runs):
        assert "\x1b" not in ran.out + ran.err


def test_help_needs_no_grpc() -> None:
    """What costs a tenth of a second is imported by those who connect."""
    script = (
        "import sys, ftctl.cli; print([n for n in ('grpc', 'rich', 'yaml') if n in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert found.stdout == b"[]\n"
