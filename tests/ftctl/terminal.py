"""A terminal that a test types at."""

import asyncio
import os
import pty
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.ftctl.conftest import LIMIT_S, Daemon


@dataclass
class Terminal:
    process: asyncio.subprocess.Process
    screen: int
    shown: str = ""

    def type(self, text: str) -> None:
        os.write(self.screen, text.encode())

    async def until(self, words: str) -> None:
        """Until these words stand on the screen, after those of the last call."""
        async with asyncio.timeout(LIMIT_S):
            while words not in self.shown:
                self.shown += await asyncio.to_thread(self._read)
        self.shown = self.shown.split(words, 1)[1]

    async def ended(self) -> int:
        return await asyncio.wait_for(self.process.wait(), LIMIT_S)

    def _read(self) -> str:
        return os.read(self.screen, 4096).decode()


@asynccontextmanager
async def typing(daemon: Daemon, *args: str) -> AsyncIterator[Terminal]:
    """ftctl at a terminal, stderr and all."""
    screen, terminal = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ftctl",
        *args,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**daemon.env, "TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "80"},
    )
    os.close(terminal)
    try:
        yield Terminal(process, screen)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(screen)
