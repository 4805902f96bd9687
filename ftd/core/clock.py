"""Time, handed in: one clock for the world, another that tests turn by hand."""

from typing import Protocol


class Clock(Protocol):
    """Wall time for what people see, monotonic time for how long something took."""

    def now(self) -> int:
        """Unix time in whole seconds."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean anything."""
        ...
