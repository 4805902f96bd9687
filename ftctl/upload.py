"""Files on their way to the daemon: streamed, never held in memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ftctl.client import Client
from ftctl.failure import Failure, Status
from ftctl.output import console, safe_line
from ftd.v1 import files_pb2

FINE_TUNE = "fine-tune"
CHUNK_BYTES = 2**20

Advance = Callable[[int], None]


def upload(client: Client, path: Path, purpose: str = FINE_TUNE) -> files_pb2.File:
    """Send a file; the answer says whether it is checked and good.

    Raises Failure for one that cannot be read, or whose size is not known before (a pipe).
    """
    if path.exists() and not path.is_file():
        raise Failure(f"{path} is no regular file", status=Status.USAGE)
    try:
        total = path.stat().st_size
        with path.open("rb") as file, transfer(f"uploading {path.name}", total) as advance:
            header = files_pb2.UploadHeader(filename=path.name, purpose=purpose, bytes=total)
            sent: files_pb2.File = client.call(
                client.files.UploadFile, _parts(header, file, advance), timeout_s=None
            )
            return sent
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror}", status=Status.USAGE) from error


def is_id(data: str) -> bool:
    """Whether `data` names an uploaded file; a local file of that name goes first.

    Raises Failure when it is neither.
    """
    if Path(data).exists():
        return False
    if data.startswith("file-"):
        return True
    raise Failure(
        f"there is no file {data}",
        hint="give the path of a .jsonl file, or the id of an uploaded one (file-...)",
        status=Status.USAGE,
    )


def _parts(
    header: files_pb2.UploadHeader, file: BinaryIO, advance: Advance
) -> Iterator[files_pb2.UploadFileRequest]:
    yield files_pb2.UploadFileRequest(header=header)
    while chunk := file.read(CHUNK_BYTES):
        yield files_pb2.UploadFileRequest(chunk=chunk)
        advance(len(chunk))


@contextmanager
def transfer(what: str, total_bytes: int) -> Iterator[Advance]:
    """A progress bar on a terminal's stderr; nothing elsewhere. Call what it yields with the
    number of bytes that have gone."""
    terminal = console(stderr=True)
    if not terminal.is_terminal:
        yield lambda _: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=terminal, transient=True) as progress:
        task = progress.add_task(safe_line(what), total=total_bytes)
        yield lambda count: progress.advance(task, count)
