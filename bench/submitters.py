"""Clients of gRPC in a process of their own: as many at once as asked for, each in a hurry.

    python -m bench.submitters submit SOCKET KEY CLIENTS SECONDS
    python -m bench.submitters watch SOCKET KEY JOB...

`submit` creates jobs and prints {"calls": N, "seconds": S, "p50_ms": ..., "p99_ms": ...}. Every
client has a connection of its own and waits for an answer before it asks again; messages are
bytes made once, so that the processor is the daemon's as far as that goes. `watch` follows one
event stream for each job, prints "open" when all are, and ends at SIGTERM.
"""

import asyncio
import json
import signal
import statistics
import sys
import time
from typing import Any

import grpc.aio

from bench.past import MODEL, TRAINING
from ftd.v1 import jobs_pb2

OWN = (("grpc.use_local_subchannel_pool", 1),)


class Client:
    """One connection with its key."""

    def __init__(self, socket: str, key: str) -> None:
        self.channel = grpc.aio.insecure_channel(f"unix:{socket}", options=OWN)
        self.metadata = (("authorization", f"Bearer {key}"),)

    async def submit_until(self, deadline: float, took: list[float]) -> None:
        call: Any = self.channel.unary_unary("/ftd.v1.Jobs/CreateJob")
        request = jobs_pb2.CreateJobRequest(model=MODEL, training_file=TRAINING)
        message = request.SerializeToString()
        while (started := time.perf_counter()) < deadline:
            await call(message, metadata=self.metadata)
            took.append(time.perf_counter() - started)

    async def watch(self, job: str, opened: asyncio.Event) -> None:
        call: Any = self.channel.unary_stream("/ftd.v1.Jobs/WatchEvents")
        stream = call(
            jobs_pb2.WatchEventsRequest(job_id=job).SerializeToString(), metadata=self.metadata
        )
        async for _ in stream:  # a job that runs has an event at least
            opened.set()


async def submit(socket: str, key: str, clients: int, seconds: float) -> None:
    crowd = [Client(socket, key) for _ in range(clients)]
    await asyncio.gather(*(client.channel.channel_ready() for client in crowd))
    took: list[float] = []
    started = time.perf_counter()
    await asyncio.gather(*(client.submit_until(started + seconds, took) for client in crowd))
    spent = time.perf_counter() - started
    cuts = statistics.quantiles(took, n=100)
    p50_ms, p99_ms = (cuts[percent - 1] * 1e3 for percent in (50, 99))
    told = {"calls": len(took), "seconds": spent, "p50_ms": p50_ms, "p99_ms": p99_ms}
    print(json.dumps(told))


async def watch(socket: str, key: str, jobs: list[str]) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    opened = [asyncio.Event() for _ in jobs]
    streams = [
        asyncio.create_task(Client(socket, key).watch(job, event))
        for job, event in zip(jobs, opened, strict=True)
    ]
    await asyncio.gather(*(event.wait() for event in opened))
    print("open", flush=True)
    await ended.wait()
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)


if __name__ == "__main__":
    what, socket, key, *rest = sys.argv[1:]
    if what == "submit":
        asyncio.run(submit(socket, key, int(rest[0]), float(rest[1])))
    else:
        asyncio.run(watch(socket, key, rest))
