"""Files on their way from the daemon."""

import sys
from collections.abc import Iterator
from pathlib import Path

from ftctl.client import Client
from ftctl.failure import Failure
from ftctl.output import safe, say
from ftd.v1 import files_pb2


def chunks(client: Client, file_id: str) -> Iterator[bytes]:
    request = files_pb2.GetFileContentRequest(id=file_id)
    for chunk in client.stream(client.files.GetFileContent, request):
        yield chunk.data


def read(client: Client, file_id: str) -> bytes:
    """All of a file that is known to be small."""
    return b"".join(chunks(client, file_id))


def save(client: Client, file_id: str, to: str) -> None:
    """Write a file's bytes to the path `to`, whole or not at all; `-` is stdout."""
    if to == "-":
        _print(client, file_id)
        return
    path = Path(to)
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            for chunk in chunks(client, file_id):
                file.write(chunk)
        part.replace(path)
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    say(f"wrote {path}")


def _print(client: Client, file_id: str) -> None:
    """Bytes as they are into a pipe; on a terminal they must not steer it."""
    for chunk in chunks(client, file_id):
        if sys.stdout.isatty():
            sys.stdout.write(safe(chunk.decode("utf-8", "replace")))
        else:
            sys.stdout.buffer.write(chunk)
