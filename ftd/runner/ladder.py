"""How a trainer is brought to its end: asked, then SIGTERM, then SIGKILL, each after its time.

    asked      it ends at its next step; with a checkpoint first, if one is wanted
    SIGTERM    its program takes that for the same request; any other program ends
    SIGKILL    it had its time: what it has not saved is done again

Steps that are finished are lost on the last rung alone. So the first one lasts `save_s` where a
checkpoint is wanted, which may be gigabytes, and `ask_s` where none is.
"""

from ftd.config import Stopping
from ftd.core import wire
from ftd.launch.base import Channel

ASKED, TERMINATED, KILLED = 1, 2, 3


class Ladder:
    """The stop of one attempt. Times are the clock's monotonic seconds."""

    def __init__(self, limits: Stopping) -> None:
        self._limits = limits
        self._asked_at: float | None = None
        self._saves = False
        self._at_once = False
        self._rung = 0

    def ask(self, now: float, *, save: bool) -> bool:
        """Begin; False if that changes nothing. Who wants no checkpoint does not wait for one that
        somebody asked for before."""
        if self._asked_at is not None and (save or not self._saves):
            return False
        self._asked_at, self._saves, self._rung = now, save, 0
        return True

    def kill(self) -> None:
        """Go to the last rung: what speaks nonsense is not asked."""
        self._at_once = True

    async def press(self, channel: Channel, now: float) -> None:
        """Do what is due. Raises Gone when the worker's shim has ended."""
        due = self._due(now)
        if due <= self._rung:
            return
        if due == ASKED:
            await channel.command(wire.Stop(save=self._saves))
        else:
            await channel.signal("TERM" if due == TERMINATED else "KILL")
        self._rung = due

    def _due(self, now: float) -> int:
        """The rung to stand on: one above the last one taken at most, so that each is tried."""
        if self._at_once:
            return KILLED
        if self._asked_at is None:
            return 0
        waited_s = now - self._asked_at
        first_s = self._limits.save_s if self._saves else self._limits.ask_s
        limits = (0.0, first_s, first_s + self._limits.term_s)
        passed = sum(waited_s >= limit for limit in limits)
        return min(passed, self._rung + 1)
