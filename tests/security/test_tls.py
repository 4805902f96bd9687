"""TLS on both faces: nobody is heard in clear, or without a certificate where one is wanted."""

import asyncio
import os
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
import warnings
from pathlib import Path

import pytest

from ftd import config
from ftd.api.rest import server
from ftd.api.rest.crowd import REFUSED_AT_ONCE
from ftd.host import certificates
from tests.api.rest.face import serving, until
from tests.authority import Authority, Pair
from tests.running import Daemon, running


def configured(tls: config.Tls) -> str:
    paths = {name: path for name, path in tls.model_dump().items() if path is not None}
    lines = "".join(f'{name} = "{path}"\n' for name, path in paths.items())
    return f'grpc = ["127.0.0.1:0"]\n[tls]\n{lines}'


def health(daemon: Daemon, ca: Path, shown: Pair | None = None) -> int:
    context = ssl.create_default_context(cafile=ca)
    if shown is not None:
        context.load_cert_chain(shown.certificate, shown.key)
    url = daemon.url.replace("/v1", "/healthz")
    with urllib.request.urlopen(url, context=context, timeout=10) as answer:
        return int(answer.status)


def ftctl(daemon: Daemon, *options: str, command: str = "list") -> int:
    address = f"tls://{daemon.endpoint['grpc']['tcp']}"
    return daemon.ftctl("--addr", address, *options, command, check=False).returncode


def test_both_faces_speak_tls_and_nothing_else(tmp_path: Path) -> None:
    ours, others = Authority(tmp_path / "ours"), Authority(tmp_path / "others")
    with running(tmp_path / "home", config=configured(ours.tls())) as daemon:
        assert daemon.url.startswith("https://127.0.0.1:")
        assert health(daemon, ours.ca) == 200
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            health(daemon, others.ca)
        port = int(daemon.url.rpartition(":")[2].removesuffix("/v1"))
        assert in_clear(port) == b""
        assert old_handshake(port, ours.ca)
        tcp = int(daemon.endpoint["grpc"]["tcp"].rpartition(":")[2])
        assert old_handshake(tcp, ours.ca)

        assert ftctl(daemon, "--ca", str(ours.ca)) == 0
        assert ftctl(daemon, "--ca", str(ours.ca), "--key", "wrong") == 4
        told = daemon.ftctl(
            "--addr", f"tls://127.0.0.1:{tcp}", "--ca", str(others.ca), "list", check=False
        )
        assert told.returncode == 7
        assert "there is no TLS with" in told.stderr
        assert "--ca" in told.stderr
        told = daemon.ftctl("--addr", f"127.0.0.1:{tcp}", "list", check=False)
        assert told.returncode == 7
        assert "want TLS" in told.stderr
        assert daemon.ftctl("list").returncode == 0  # by the socket, as ever


def test_a_client_without_a_certificate_is_not_heard(tmp_path: Path) -> None:
    ours, clients = Authority(tmp_path / "ours"), Authority(tmp_path / "clients")
    known, unknown = clients.sign("known"), ours.sign("unknown")
    with running(tmp_path / "home", config=configured(ours.tls(clients=clients))) as daemon:
        assert health(daemon, ours.ca, known) == 200
        for shown in (None, unknown):
            with pytest.raises((ssl.SSLError, urllib.error.URLError, ConnectionError)):
                health(daemon, ours.ca, shown)
        trust = ("--ca", str(ours.ca))
        assert ftctl(daemon, *trust, *pair(known)) == 0
        assert ftctl(daemon, *trust, *pair(unknown)) == 7
        assert ftctl(daemon, *trust) == 7
        assert ftctl(daemon, *trust, "--cert", str(known.certificate)) == 2


def pair(shown: Pair) -> tuple[str, ...]:
    return "--cert", str(shown.certificate), "--client-key", str(shown.key)


def in_clear(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return connection.recv(4096).partition(b"HTTP")[1]


def old_handshake(port: int, ca: Path) -> bool:
    """Whether TLS 1.1 is refused."""
    context = ssl.create_default_context(cafile=ca)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", port), 10) as connection,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(connection, server_hostname="localhost")
    return True


async def test_a_handshake_that_does_not_come_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_S", 0.2)
    tls = Authority(tmp_path / "ca").tls()
    async with serving(config.load(home=tmp_path / "home", tls=tls)) as face:
        for sent in (b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", face.server.port)
            writer.write(sent)
            assert b"HTTP" not in await asyncio.wait_for(reader.read(), 5)
            writer.close()


async def test_with_tls_every_address_may_be_served(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    tls = authority.tls()
    async with serving(config.load(home=tmp_path / "home", tls=tls)) as face:
        identity = certificates.read(tls)
        everywhere = await server.serve(face.door, "0.0.0.0", 0, lambda *_: None, identity)
        trust = ssl.create_default_context(cafile=authority.ca)
        reader, writer = await asyncio.open_connection("127.0.0.1", everywhere.port, ssl=trust)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        await everywhere.stop()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--rest", "0.0.0.0:0"], "cannot serve 0.0.0.0:0 in clear"),
        (["--rest", "127.0.0.1:0", "--grpc", "0.0.0.0:0"], "is not on loopback"),
    ],
)
def test_the_daemon_does_not_start_in_clear_elsewhere(
    tmp_path: Path, more: list[str], said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ftd", "serve", "--home", str(tmp_path / "home"), *more],
        capture_output=True, text=True, timeout=60, env=os.environ | {"FTD_TRAINING__WARM": "0"},
    )  # fmt: skip
    assert done.returncode not in (0, 75)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "home" / "endpoint.json").exists()


async def test_handshakes_that_do_not_come_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silent client of the TLS port takes the place of a connection, and no more than HEAD_S."""
    monkeypatch.setattr(server, "HEAD_S", 2.0)
    authority = Authority(tmp_path / "ca")
    limits = config.Limits(connections=16)
    settings = config.load(home=tmp_path / "home", tls=authority.tls(), limits=limits)
    async with serving(settings) as face:
        silent = [await asyncio.open_connection("127.0.0.1", face.server.port) for _ in range(16)]
        await until(lambda: face.server.connections == 16)
        trust = ssl.create_default_context(cafile=authority.ca)
        reader, writer = await asyncio.open_connection("127.0.0.1", face.server.port, ssl=trust)
        assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        writer.close()
        crowd = [await asyncio.open_connection("127.0.0.1", face.server.port) for _ in range(200)]
        await until(lambda: face.server.connections == 16 + REFUSED_AT_ONCE)
        assert await asyncio.wait_for(crowd[-1][0].read(), 5) == b""
        await until(lambda: face.server.connections == 0)
        async with face.http(verify=trust) as http:
            assert (await http.get("/healthz")).status_code == 200
        for _, writer in silent + crowd:
            writer.close()
