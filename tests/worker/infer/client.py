"""The daemon's end of a worker's socket, for tests: asks, and reads what is answered."""

import itertools
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftd.core.chat import (
    Answer,
    Began,
    Cancel,
    Conversation,
    Ended,
    Finished,
    Generate,
    Load,
    Piece,
    Prompt,
    Refused,
    Sampling,
    decode_answer,
    encode,
)

LIMIT_S = 60.0
_NUMBERS = itertools.count(1)


def user(text: str, **more: Any) -> Conversation:
    return Conversation(messages=({"role": "user", "content": text},), **more)


def generate(prompt: Prompt | str, sampling: Sampling | None = None, **more: Any) -> Generate:
    """A request with an id of its own; a string is what a user says."""
    return Generate(
        id=f"q{next(_NUMBERS)}",
        prompt=user(prompt) if isinstance(prompt, str) else prompt,
        sampling=sampling or Sampling(temperature=0, max_tokens=24),
        **more,
    )


@dataclass
class Told:
    """All that was answered to one request."""

    began: Began | None = None
    pieces: list[Piece] = field(default_factory=list)
    finished: dict[int, str] = field(default_factory=dict)
    last: Ended | Refused | None = None

    def text(self, index: int = 0) -> str:
        return "".join(piece.text for piece in self.pieces if piece.index == index)

    def calls(self, index: int = 0) -> list[tuple[str, str]]:
        return [
            (call.name, call.arguments)
            for piece in self.pieces
            if piece.index == index
            for call in piece.tool_calls
        ]

    def hear(self, answer: Answer) -> None:
        """Take the next answer; its order is checked."""
        assert self.last is None, f"{answer} after {self.last}"
        match answer:
            case Refused() | Ended():
                self.last = answer
            case Began():
                assert self.began is None
                self.began = answer
            case Piece():
                assert self.began is not None
                assert answer.index not in self.finished
                assert answer.text or answer.tool_calls or answer.logprobs, "it says nothing"
                self.pieces.append(answer)
            case Finished():
                assert self.began is not None
                assert answer.index not in self.finished
                self.finished[answer.index] = answer.reason


class Client:
    """One connection. The socket's path may be too long for its address: it is shortened."""

    def __init__(self, path: Path) -> None:
        directory = os.open(path.parent, os.O_PATH)
        try:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(LIMIT_S)
            self.socket.connect(f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.close(directory)
        self._lines = self.socket.makefile("rb")
        self.loads: list[Load] = []

    def send(self, *asked: Generate | Cancel) -> None:
        self.socket.sendall(b"".join(encode(each) for each in asked))

    def answers(self) -> Iterator[Answer]:
        """What comes, until the worker hangs up; loads are kept apart."""
        for line in self._lines:
            answer = decode_answer(line)
            if isinstance(answer, Load):
                self.loads.append(answer)
            else:
                yield answer

    def loads_that_come(self) -> Iterator[Load]:
        """How busy the worker says that it is, as it changes; answers are dropped."""
        for line in self._lines:
            answer = decode_answer(line)
            if isinstance(answer, Load):
                yield answer

    def ask(self, *requests: Generate) -> list[Told]:
        """Ask all at once and wait until everything is answered."""
        self.send(*requests)
        return self.wait(*requests)

    def wait(self, *requests: Generate) -> list[Told]:
        told = {request.id: Told() for request in requests}
        for answer in self.answers():
            told[answer.id].hear(answer)
            if all(each.last is not None for each in told.values()):
                break
        return [told[request.id] for request in requests]

    def close(self) -> None:
        self._lines.close()
        self.socket.close()
