"""What one key may ask of us in a minute, through whichever door it comes."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from ftd.core.errors import FtdError, Kind
from ftd.core.rates import Bucket
from ftd.service.actor import Actor


@dataclass(frozen=True, slots=True)
class Counted:
    """A request, and what is left of its key's bucket. `refused` is what to answer, if not let
    in."""

    bucket: Bucket
    refused: FtdError | None


class Rates:
    """A bucket for each key, full when the daemon begins. `per_minute` 0: no limit."""

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._buckets: dict[object, Bucket] = {}

    def count(self, actor: Actor) -> Counted | None:
        """Count a request; None where nothing is counted."""
        if self._per_minute == 0:
            return None
        now = self._clock()
        key = actor.project, actor.key_id
        bucket = self._buckets.setdefault(key, Bucket.full(self._per_minute, now))
        return Counted(bucket, None if bucket.take(now) else _refusal(bucket))


def _refusal(bucket: Bucket) -> FtdError:
    """In OpenAI's words."""
    wait_s = max(1, math.ceil(bucket.next_s))
    return FtdError(
        Kind.RATE_LIMITED,
        f"Rate limit reached for requests per minute: {bucket.per_minute}. "
        f"Please try again in {wait_s}s.",
        code="rate_limit_exceeded",
        retry_s=wait_s,
    )
