"""A daemon's gRPC face for ftctl to talk to, and ftctl as a process."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ftd.api.grpc.server import RunningServer, serve
from tests.api.grpc.fake_door import KEY, FakeDoor

LIMIT_S = 30


@dataclass(frozen=True)
class Ran:
    status: int | None
    out: str
    err: str


@dataclass
class Daemon:
    """Serves a home with a link to its socket and a key, as the real one does."""

    root: Path
    door: FakeDoor
    server: RunningServer | None = None
    env: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.root / "home"

    async def start(self) -> None:
        self.server = await serve(
            self.door, unix_path=self.root / "s", tcp=("127.0.0.1:0",), observe=lambda *_: None
        )

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.stop(0)
            self.server = None

    async def begin(
        self, *args: str, stdin: int = asyncio.subprocess.DEVNULL, **env: str
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "ftctl",
            *args,
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**self.env, **env},
        )

    async def run(self, *args: str, given: bytes | None = None, **env: str) -> Ran:
        """A command to its end; `given` is its stdin."""
        stdin = asyncio.subprocess.DEVNULL if given is None else asyncio.subprocess.PIPE
        return await ended(await self.begin(*args, stdin=stdin, **env), given)


async def ended(process: asyncio.subprocess.Process, given: bytes | None = None) -> Ran:
    try:
        out, err = await asyncio.wait_for(process.communicate(given), LIMIT_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return Ran(process.returncode, out.decode(), err.decode())


@pytest.fixture(autouse=True, scope="session")
def interrupts() -> None:
    """Who runs the tests in the background ignores them, and so would every command here."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    found = Daemon(root=tmp_path, door=FakeDoor(tmp_path / "home"))
    found.home.mkdir()
    (found.home / "ftd.sock").symlink_to(tmp_path / "s")
    (found.home / "admin.key").write_text(KEY + "\n")
    found.env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "FTD_HOME": str(found.home),
        "TZ": "UTC",
    }
    await found.start()
    yield found
    await found.stop()


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not condition():  # noqa: ASYNC110  # of another process, which sets no event
                await asyncio.sleep(0.01)

    return wait
