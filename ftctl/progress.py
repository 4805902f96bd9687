"""What a watch shows: a live bar on a terminal, plain lines elsewhere."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from ftctl import stream
from ftctl.client import Client
from ftctl.objects import struct
from ftctl.output import clock, duration, safe_line
from ftd.v1 import jobs_pb2

if TYPE_CHECKING:
    from rich.console import Console

POLL_S = 1.0  # how often the phase and the expected end are asked for

Show = Callable[[jobs_pb2.Event], None]


@contextmanager
def showing(client: Client, job: jobs_pb2.Job, console: "Console") -> Iterator[Show]:
    """Yields what is to be called with each event, in order."""
    if not console.is_terminal:
        yield lambda event: console.print(line(event))
        return
    with _Bar(job, console) as bar, _looking(client, job.id, bar.look):
        yield bar.tell


def line(event: jobs_pb2.Event) -> str:
    """An event on a line: when, how serious, what."""
    return f"{clock(event.created_at)}  {event.level:<5}  {safe_line(event.message)}"


class _Bar:
    """The bar of one job under the messages it has told; told from one thread, looked at from
    another."""

    def __init__(self, job: jobs_pb2.Job, console: "Console") -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.fields[phase]}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
            TextColumn("{task.fields[end]}", markup=False),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, phase="", numbers="", end="")
        self.look(job)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def tell(self, event: jobs_pb2.Event) -> None:
        if event.type != "metrics":
            self._progress.console.print(line(event))
            return
        data = struct(event.data)
        self._progress.update(
            self._task,
            completed=data.get("step"),
            total=data.get("total_steps"),
            numbers=numbers(data),
        )

    def look(self, job: jobs_pb2.Job) -> None:
        total = job.total_steps if job.HasField("total_steps") else None
        self._progress.update(self._task, phase=_phase(job), end=_end(job), total=total)


def numbers(data: dict[str, Any]) -> str:
    """The figures of a metrics event, as far as it has them."""
    shown = (
        ("loss {:.3f}", data.get("train_loss")),
        ("valid {:.3f}", data.get("full_valid_loss", data.get("valid_loss"))),
        ("{:,.0f} tokens/s", data.get("tokens_per_second")),
    )
    return "  ".join(words.format(value) for words, value in shown if value is not None)


def _phase(job: jobs_pb2.Job) -> str:
    if job.status == "running" and job.phase:
        return safe_line(job.phase)
    if job.wait_reason and job.status not in stream.FINAL:
        return safe_line(f"{job.status}: {job.wait_reason}")
    return safe_line(job.status)


def _end(job: jobs_pb2.Job) -> str:
    if not job.HasField("estimated_finish"):
        return ""
    return f"ETA {duration(max(0.0, job.estimated_finish - time.time()))}"


@contextmanager
def _looking(client: Client, job_id: str, look: Callable[[jobs_pb2.Job], None]) -> Iterator[None]:
    """Look at the job now and then, beside the stream of its events."""
    import grpc

    over = threading.Event()

    def poll() -> None:
        while not over.wait(POLL_S):
            try:
                look(stream.job(client, job_id))
            except grpc.RpcError:
                continue  # the stream of events says that the daemon is away
            except ValueError:
                return  # the channel is closed: the command is ending

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=POLL_S)
