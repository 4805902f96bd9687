"""Too many, and too much in too little: a daemon of its own, whose memory is looked at."""

import contextlib
import gzip
import http.client
import json
import resource
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import psutil
import pytest

from tests.running import Daemon, running, until

CONNECTIONS = 10_000
GROWTH_BYTES = 64 * 2**20
BOMB_BYTES = 256 * 2**20  # of nothing; a thousandth of it when compressed


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("floods") / "home") as daemon:
        yield daemon


@pytest.fixture
def descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < CONNECTIONS + 1000:
        pytest.skip(f"no {CONNECTIONS} descriptors may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, CONNECTIONS + 1000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def bounded(daemon: Daemon, growth_bytes: int = GROWTH_BYTES) -> Iterator[None]:
    """The most memory that the daemon has inside is so much beyond what it had before, at most."""
    Path(f"/proc/{daemon.pid}/clear_refs").write_text("5")  # the kernel counts its peak anew
    before = psutil.Process(daemon.pid).memory_info().rss
    yield
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    assert peak - before < growth_bytes


def connected(daemon: Daemon) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", urlsplit(daemon.url).port, timeout=30)


def ask(
    web: http.client.HTTPConnection, daemon: Daemon, path: str, body: bytes, **headers: str
) -> tuple[int, str]:
    """The answer to a POST, or to a GET where there is no body."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    shown = {"Authorization": f"Bearer {daemon.key}"} | named
    web.request("POST" if body else "GET", f"/v1{path}", body or None, shown)
    answer = web.getresponse()
    return answer.status, answer.read().decode()


def served(daemon: Daemon) -> bool:
    with closing(connected(daemon)) as web:
        return ask(web, daemon, "/models", b"")[0] == 200


@pytest.mark.usefixtures("descriptors")
def test_ten_thousand_connections_cost_little_and_who_was_first_is_served(daemon: Daemon) -> None:
    with closing(connected(daemon)) as web, bounded(daemon):
        assert ask(web, daemon, "/models", b"")[0] == 200
        crowd, waits = [], []
        for number in range(CONNECTIONS):
            crowd.append(socket.create_connection((web.host, web.port), 10))
            if number % 500 == 0:
                started = time.monotonic()
                assert ask(web, daemon, "/models", b"")[0] == 200
                waits.append(time.monotonic() - started)
        assert max(waits) < 2
        held = len(psutil.Process(daemon.pid).net_connections("tcp"))
        assert held < CONNECTIONS / 5
        for connection in crowd:
            connection.close()
    until(lambda: served(daemon), 20)


READERS = 100


def test_those_who_read_nothing_cost_little(daemon: Daemon) -> None:
    """Of a file that is far larger than what they may make the daemon hold for them."""
    kind = "multipart/form-data; boundary=m"
    with closing(connected(daemon)) as web:
        _, told = ask(web, daemon, "/files", form(bytes(2**23), "user_data"), Content_Type=kind)
    path = f"/v1/files/{json.loads(told)['id']}/content"
    asked = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {daemon.key}\r\n\r\n"
    with contextlib.ExitStack() as stack, bounded(daemon, GROWTH_BYTES // 2):
        for _ in range(READERS):
            deaf = stack.enter_context(socket.socket())
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.settimeout(30)
            deaf.connect((web.host, web.port))
            deaf.sendall(asked.encode())
            assert deaf.recv(9) == b"HTTP/1.1 "
        until(lambda: written(daemon) > READERS * 2**16)
        assert served(daemon)


def written(daemon: Daemon) -> int:
    """What lies in the daemon's sockets unread, in bytes."""
    port = urlsplit(daemon.url).port
    return sum(
        int(fields[4].partition(":")[0], 16)
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        for fields in [line.split()]
        if int(fields[1].partition(":")[2], 16) == port
    )


# Bombs


def deflated(data: bytes) -> bytes:
    return zlib.compress(data)


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": deflated,
    "x-gzip": gzip.compress,
    "br": gzip.compress,  # whatever it is called, nobody looks into it
    "gzip, gzip": lambda data: gzip.compress(gzip.compress(data)),
}


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/fine_tuning/jobs", "application/json"),
        ("/chat/completions", "application/json"),
        ("/files", "multipart/form-data; boundary=m"),
    ],
)
def test_a_body_is_never_inflated(daemon: Daemon, coding: str, path: str, kind: str) -> None:
    bomb = CODINGS[coding](bytes(BOMB_BYTES // 8))
    with closing(connected(daemon)) as web, bounded(daemon):
        status, told = ask(web, daemon, path, bomb, Content_Type=kind, Content_Encoding=coding)
    assert status == 400
    assert "Content-Encoding" in told


def form(content: bytes, purpose: str = "fine-tune") -> bytes:
    head = f'Content-Disposition: form-data; name="purpose"\r\n\r\n{purpose}\r\n--m\r\n'
    head += 'Content-Disposition: form-data; name="file"; filename="data.jsonl"\r\n\r\n'
    return b"--m\r\n" + head.encode() + content + b"\r\n--m--\r\n"


def test_a_compressed_file_that_calls_itself_jsonl_is_no_jsonl(daemon: Daemon) -> None:
    line = b'{"messages": [{"role": "user", "content": "a"}]}\n'
    with closing(connected(daemon)) as web, bounded(daemon):
        for content in (gzip.compress(bytes(BOMB_BYTES // 8)), gzip.compress(line * 100_000)):
            kind = "multipart/form-data; boundary=m"
            status, told = ask(web, daemon, "/files", form(content), Content_Type=kind)
            assert status == 400
            assert "JSONL" in told
        assert json.loads(ask(web, daemon, "/files?purpose=fine-tune", b"")[1])["data"] == []


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize("method", ["Jobs/CreateJob", "Files/UploadFile", "Chat/Complete"])
def test_a_message_is_inflated_to_its_limit_and_no_further(
    daemon: Daemon, method: str, compression: grpc.Compression
) -> None:
    """With a key and without one."""
    address = f"unix:{daemon.endpoint['grpc']['unix']}"
    bomb = bytes(BOMB_BYTES)
    for key in (daemon.key, "ftd-none"):
        with grpc.insecure_channel(address) as channel, bounded(daemon):
            call = channel.stream_stream(f"/ftd.v1.{method}")
            answer = call(
                iter([bomb]),
                compression=compression,
                metadata=(("authorization", f"Bearer {key}"),),
                timeout=30,
            )
            with pytest.raises(grpc.RpcError) as caught:
                list(answer)
        refusals = {grpc.StatusCode.RESOURCE_EXHAUSTED}
        if key != daemon.key:
            refusals.add(grpc.StatusCode.UNAUTHENTICATED)
        assert caught.value.code() in refusals


# HTTP/2 by hand

RESET_IN_TURN = b"\x00\x00\x04\x03\x00\x00\x00"  # how a frame begins that refuses a call


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags])
    return head + stream.to_bytes(4, "big") + payload


def literal(name: str, value: str) -> bytes:
    """A header as HPACK writes it that remembers and compresses nothing."""
    return bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def begun_and_reset(count: int, key: str) -> bytes:
    head = [(":method", "POST"), (":scheme", "http"), (":path", "/ftd.v1.Jobs/ListJobs")]
    head += [(":authority", "localhost"), ("content-type", "application/grpc")]
    head += [("te", "trailers"), ("authorization", f"Bearer {key}")]
    headers = b"".join(literal(name, value) for name, value in head)
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(4, 0, 0, b"")
        + b"".join(
            frame(1, 4, stream, headers) + frame(3, 0, stream, (8).to_bytes(4, "big"))
            for stream in range(1, 2 * count, 2)
        )
    )


@pytest.mark.parametrize("shown", ["a key", "none"])
def test_ten_thousand_calls_begun_and_reset_cost_little(daemon: Daemon, shown: str) -> None:
    """Rapid reset (CVE-2023-44487): a client that never has more than one call open."""
    key = daemon.key if shown == "a key" else "ftd-none"
    with bounded(daemon), socket.socket(socket.AF_UNIX) as attacker:
        attacker.settimeout(30)
        attacker.connect(daemon.endpoint["grpc"]["unix"])
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            attacker.sendall(begun_and_reset(10_000, key))
            attacker.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(partial(attacker.recv, 2**16), b""))
        assert answer.count(RESET_IN_TURN) > 5000  # most of them were not even begun
        assert wait_for_a_list(daemon) < 2


def wait_for_a_list(daemon: Daemon) -> float:
    """How long another client waits for a list of jobs over gRPC, in seconds."""
    started = time.monotonic()
    with grpc.insecure_channel(f"unix:{daemon.endpoint['grpc']['unix']}") as channel:
        call = channel.unary_unary("/ftd.v1.Jobs/ListJobs")
        call(b"", metadata=(("authorization", f"Bearer {daemon.key}"),), timeout=30)
    return time.monotonic() - started
