"""What a hostile file leaves behind when it runs: a directory with a name of its own."""

import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Canary:
    """A place where nothing may appear."""

    place: Path

    def pickled(self) -> bytes:
        return pickle.dumps(_Bomb(str(self.place)))

    def code(self) -> str:
        return f"import os\nos.mkdir({str(self.place)!r})\n"

    @property
    def sings(self) -> bool:
        """Whether it was left alone."""
        return not self.place.exists()


class _Bomb:
    def __init__(self, place: str) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (self.place,)
