"""An inference worker without a model: ftd.core.chat over out/serve.sock, below a real shim.

The text of a prompt says what to do:

    count N       N pieces, "1 " to "N ", as fast as can be
    adapter       one piece: what the file `weights` of the adapter holds, or of the model
    hold          one piece, and the rest when out/go is there
    refuse CODE   Refused with that code
    mute          nothing at all
    hang          nothing, and never anything again: the loop stands still
    beat          nothing but how busy it is, until out/go is there; then one piece
    die           Began, one piece, and SIGKILL
    babble WORD   a line that is no answer

in/model/script may say: "unfit" or "oom" (says Failed), "crash" (ends while it loads), "slow" (is
ready when out/ready is there), "stray" (says nonsense on the facts pipe). What it is asked is in
out/asked.
"""

import asyncio
import ctypes
import faulthandler
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

FACTS = int(os.environ["FTD_FACTS_FD"])
LOOK_S = 0.005


def say(kind: str, **fact: Any) -> None:
    os.write(FACTS, json.dumps({"kind": kind} | fact).encode() + b"\n")


async def there(name: str) -> None:
    while not Path(name).exists():  # noqa: ASYNC110 - a file rings no bell
        await asyncio.sleep(LOOK_S)


class Server:
    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def tell(self, kind: str, **answer: Any) -> None:
        self.writer.write(json.dumps({"kind": kind} | answer).encode() + b"\n")

    def hear(self, line: bytes) -> None:
        asked = json.loads(line)
        with Path("out/asked").open("a") as file:
            file.write(f"{asked['kind']} {asked['id']}\n")
        if asked["kind"] == "cancel":
            task = self.tasks.pop(asked["id"], None)
            if task is not None:
                task.cancel()
                self.tell("ended", id=asked["id"], completion_tokens=0)
        else:
            self.tasks[asked["id"]] = asyncio.create_task(self.answer(asked))
            self.load()

    def load(self) -> None:
        self.tell("load", running=len(self.tasks), waiting=0, adapters=1, cached_tokens=7)

    async def answer(self, asked: dict[str, Any]) -> None:
        id_, (verb, *rest) = asked["id"], asked["prompt"]["text"].split()
        if verb == "mute":
            return
        if verb == "hang":
            threading.Event().wait()
        while verb == "beat" and not Path("out/go").exists():
            self.load()
            await asyncio.sleep(LOOK_S)
        if verb == "refuse":
            self.tell("refused", id=id_, message="no", param="messages", code=rest[0])
        elif verb == "babble":
            self.tell(rest[0])
        else:
            self.tell("began", id=id_, prompt_tokens=5, cached_tokens=2)
            tokens = 0
            for text in self.texts(verb, rest, asked["adapter"]):
                self.tell("piece", id=id_, index=0, text=text)
                await self.writer.drain()
                tokens += 1
                if verb == "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                if verb == "hold" and tokens == 1:
                    await there("out/go")
            self.tell("finished", id=id_, index=0, reason="stop")
            self.tell("ended", id=id_, completion_tokens=tokens)
        self.tasks.pop(id_)
        self.load()

    def texts(self, verb: str, rest: list[str], adapter: str | None) -> list[str]:
        if verb == "count":
            return [f"{n} " for n in range(1, int(rest[0]) + 1)]
        if verb == "adapter":
            return [Path(adapter or "in/model", "weights").read_text()]
        return ["a", "b"]


async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    server = Server(writer)
    while line := await reader.readline():
        server.hear(line)


async def serve() -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_reader(0, stopped.set)  # the only further command is Stop
    listening = await asyncio.start_unix_server(connected, "out/serve.sock", limit=2**25)
    say("ready", context_tokens=64)
    await stopped.wait()
    Path("out/stopped").touch()
    listening.close()


def main() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    faulthandler.register(signal.SIGUSR1)
    say("started", version=1, pid=os.getpid())
    assign = json.loads(os.read(0, 4096))
    if assign["kind"] == "stop":
        return
    say("accepted", job=assign["job"], attempt=assign["attempt"])
    say("phase", name="loading")
    script = Path("in/model/script")
    match script.read_text() if script.exists() else "":
        case "unfit":
            say("failed", code="model_unfit", message="This architecture cannot be served here.")
            return
        case "oom":
            say("failed", code="out_of_memory", message="The host has no memory left.")
            return
        case "crash":
            sys.exit(3)
        case "stray":
            say("nonsense")
        case "slow":
            asyncio.run(there("out/ready"))
    asyncio.run(serve())


if __name__ == "__main__":
    main()
