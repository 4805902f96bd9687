"""A token bucket: many at once, and so many a minute over time."""

from dataclasses import dataclass


@dataclass(slots=True)
class Bucket:
    """Holds a minute's worth, and fills as fast. `now` is in seconds, on a clock that never goes
    back."""

    per_minute: int
    left: float
    filled_at: float

    @classmethod
    def full(cls, per_minute: int, now: float) -> "Bucket":
        return cls(per_minute, float(per_minute), now)

    def take(self, now: float) -> bool:
        """Take one, if there is one."""
        grown = (now - self.filled_at) * self.per_minute / 60
        self.left = min(float(self.per_minute), self.left + grown)
        self.filled_at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True

    @property
    def next_s(self) -> float:
        """How long until there is one."""
        return max(0.0, (1 - self.left) * 60 / self.per_minute)

    @property
    def full_s(self) -> float:
        """How long until it is full."""
        return (self.per_minute - self.left) * 60 / self.per_minute
