"""Clients that take their time, in a process of their own: they ask by the byte, or read so.

    python -m bench.dawdlers URL KEY FILE COUNT

A third of COUNT sends heads, a third the body of an upload, a byte each PAUSE_S; a third reads what
FILE has, READ_BYTES each PAUSE_S. Whoever is cut off comes again. It says `slow` when all are
there. At SIGTERM it prints {"kind": how often it was cut off, ...}.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

PAUSE_S = 0.5
READ_BYTES = 1024
BUFFER_BYTES = 4096  # of a reader's socket, so that little waits with the kernel
NICE = 10  # those who dawdle, and who uploads, are other hosts: they leave the processor to ours

Dawdle = Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytes], Awaitable[None]]


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, begin: bytes) -> None:
    """Send the beginning, and then a byte now and then."""
    writer.write(begin)
    ended = asyncio.ensure_future(reader.read())
    try:
        while not ended.done():
            writer.write(b"x")
            await asyncio.wait({ended}, timeout=PAUSE_S)
    finally:
        ended.cancel()
        await asyncio.gather(ended, return_exceptions=True)


async def sip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, begin: bytes) -> None:
    """Ask, and read the answer a little now and then."""
    writer.write(begin)
    while await reader.read(READ_BYTES):  # noqa: ASYNC110 - it is no condition that is waited for
        await asyncio.sleep(PAUSE_S)


def kinds(path: str, host: str, key: str, file_id: str) -> dict[str, tuple[Dawdle, bytes]]:
    """What each of them does, and what it begins with."""
    shown = f"Host: {host}\r\nAuthorization: Bearer {key}\r\n"
    form = "Content-Type: multipart/form-data; boundary=m\r\nContent-Length: 1000000\r\n\r\n"
    purpose = 'Content-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
    file = 'Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    body = f"--m\r\n{purpose}--m\r\n{file}"
    return {
        "head": (drip, f"GET {path}/models HTTP/1.1\r\n{shown}X-Slow: ".encode()),
        "body": (drip, f"POST {path}/files HTTP/1.1\r\n{shown}{form}{body}".encode()),
        "reader": (sip, f"GET {path}/files/{file_id}/content HTTP/1.1\r\n{shown}\r\n".encode()),
    }


async def main() -> None:
    url, key, file_id, count = sys.argv[1:]
    os.nice(NICE)
    address = urlsplit(url)
    host, port = str(address.hostname), address.port
    assert port is not None
    there, cut_off = Counter[str](), Counter[str]()
    everybody = asyncio.Event()

    async def come_again(kind: str, dawdle: Dawdle, begin: bytes) -> None:
        while True:
            with contextlib.suppress(ConnectionError):
                client = socket.socket()
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
                client.setblocking(False)
                await asyncio.get_running_loop().sock_connect(client, (host, port))
                reader, writer = await asyncio.open_connection(sock=client, limit=BUFFER_BYTES)
                there[kind] += 1
                if there.total() == int(count):
                    everybody.set()
                await dawdle(reader, writer, begin)
                writer.close()
            cut_off[kind] += 1

    ends = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ends.set)
    does = list(kinds(address.path, f"{host}:{port}", key, file_id).items())
    dawdling = [
        asyncio.create_task(come_again(kind, *how))
        for number in range(int(count))
        for kind, how in [does[number % len(does)]]
    ]
    await everybody.wait()
    print("slow", flush=True)
    await ends.wait()
    for one in dawdling:
        one.cancel()
    await asyncio.gather(*dawdling, return_exceptions=True)
    print(json.dumps(dict.fromkeys(dict(does), 0) | cut_off))


if __name__ == "__main__":
    asyncio.run(main())
