"""A model's files on their way from the daemon: into a directory that appears whole or not at all.

They come over the connection, so the daemon may be another user's, or run where it cannot write to
us.
"""

import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from ftctl.client import Client
from ftctl.failure import Failure, Status
from ftctl.output import say, size, working
from ftctl.upload import Advance, transfer
from ftd.v1 import models_pb2


def export(client: Client, name: str, to: Path, form: str) -> int:
    """Write the model's files into the directory `to`; returns how many.

    Raises Failure for a directory that is there and not empty, and when the disk is at fault.
    """
    to = to.resolve()  # "." and ".." have no name of their own
    _check(to)
    part = to.with_name(f".{to.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        part.mkdir(parents=True)
        count = _receive(client, models_pb2.ExportModelRequest(id=name, format=form), part)
        part.rename(to)  # onto an empty directory, or nothing
    except OSError as error:
        raise Failure(f"{to} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return count


def _check(to: Path) -> None:
    """Before minutes are spent on it; the rename checks it again."""
    try:
        taken = to.exists() and (not to.is_dir() or any(to.iterdir()))
    except OSError as error:
        raise Failure(f"{to} cannot be read: {error.strerror}", status=Status.USAGE) from error
    if taken:
        raise Failure(
            f"{to} is there already",
            hint="name a directory that is empty, or not there yet",
            status=Status.USAGE,
        )


def _receive(client: Client, request: models_pb2.ExportModelRequest, into: Path) -> int:
    call = client.stream(client.models.ExportModel, request)
    try:
        with working(f"exporting {request.id}"):
            header = next(call).header
        say(f"{header.format}: {size(header.bytes)}")
        with transfer(f"receiving {request.id}", header.bytes) as advance:
            return _write(call, into, advance)
    finally:
        call.cancel()


def _write(parts: Iterable[models_pb2.ExportModelResponse], into: Path, advance: Advance) -> int:
    """Every file, each as long as its header says. Raises Failure for one that is not."""
    count, missing = 0, 0
    file: BinaryIO | None = None
    try:
        for part in parts:
            if part.WhichOneof("part") == "file":
                _complete(file, missing)
                file, missing = _open(into, part.file.name), part.file.bytes
                count += 1
            elif file is not None:
                file.write(part.chunk)
                missing -= len(part.chunk)
                advance(len(part.chunk))
        _complete(file, missing)
    finally:
        if file is not None:
            file.close()
    return count


def _open(into: Path, name: str) -> BinaryIO:
    if name != Path(name).name or name in ("", ".", ".."):
        raise Failure(f"the daemon names a file {name!r}, which would lie elsewhere")
    return (into / name).open("xb")


def _complete(file: BinaryIO | None, missing: int) -> None:
    if file is None:
        return
    file.close()
    if missing:
        raise Failure(f"{Path(file.name).name} came with {abs(missing):,} bytes too few or many")
