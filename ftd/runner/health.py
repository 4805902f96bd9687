"""Whether a trainer lives as one should: it says something now and then, if only its phase.

One that hangs (a deadlock, a driver that does not answer, a SIGSTOP) would keep its device for
ever. After a silence that is too long for its phase it is asked for its stack, which goes into its
log, and then killed; the job is queued again. One that speaks meanwhile goes on.

    right:  silence is what was listened to, look by look
    wrong:  now - last_heard, after which a daemon that was stopped kills every trainer
"""

from collections.abc import Iterable
from pathlib import Path

from ftd.config import Silence
from ftd.core import wire
from ftd.core.job import TRAINER_HUNG, JobError
from ftd.launch.base import Channel

GLANCE_S = 2.0  # the most that counts between two looks, which are a second apart
STACK_S = 2.0  # that a trainer gets to write its stack
KILL_S = 10.0  # that a shim gets to report the end of a trainer that it was told to kill
AFTER_S = (0.0, STACK_S, STACK_S + KILL_S)  # the limit: a stack, SIGKILL, the end of the shim
STEPS = 10  # so many times as long as a step of this job took is not too long
LONGEST_S = 6 * 3600.0  # which a trainer cannot talk us beyond
STACK = b"(most recent call first)"  # faulthandler's words
STACK_BYTES = 2**16  # of the log that are looked through for them


class Health:
    """One attempt's: tell it what was heard, and have it look once a second."""

    def __init__(self, limits: Silence, log: Path) -> None:
        self.error: JobError | None = None  # why the trainer was ended, once it was
        self._limits = limits
        self._log = log
        self._phase = "loading"
        self._silent_s = 0.0
        self._looked_at: float | None = None
        self._rung = 0  # 1: asked for its stack; 2: killed; 3: its shim was
        self._log_bytes = 0  # of the log, before the stack

    def hear(self, facts: Iterable[wire.Fact]) -> None:
        """It has said something."""
        for fact in facts:
            if isinstance(fact, wire.Phase):
                self._phase = fact.name
        self._silent_s = 0.0
        if self.error is None:
            self._rung = 0

    async def look(self, channel: Channel, now: float, step_s: float) -> None:
        """Do what is due at this time of a monotonic clock. Raises Gone when the shim has ended.

        `step_s` is how long this job's steps take. A trainer whose facts wait for the disk is not
        silent.
        """
        passed_s = 0.0 if self._looked_at is None else min(now - self._looked_at, GLANCE_S)
        self._looked_at = now
        self._silent_s = 0.0 if channel.stalled else self._silent_s + passed_s
        limit_s = max(self._limit_s(), min(STEPS * step_s, LONGEST_S))
        if self._rung == len(AFTER_S) or self._silent_s < limit_s + AFTER_S[self._rung]:
            return
        self._rung += 1
        match self._rung:
            case 1:
                self._log_bytes = self._log.stat().st_size if self._log.exists() else 0
                await channel.signal("USR1")
            case 2:
                self.error = JobError(code=TRAINER_HUNG, message=self._words(limit_s))
                await channel.signal("KILL")
            case _:
                await channel.end()  # it does not do what it is told: it is frozen itself

    def _limit_s(self) -> float:
        limits = self._limits.by_phase()
        return limits.get(self._phase, max(limits.values()))

    def _words(self, limit_s: float) -> str:
        silence = f"No sign of life for {limit_s:g} s while {self._phase}; its trainer was ended"
        if self._left_stack():
            return f"{silence} and its stack is in the log."
        return f"{silence}. It wrote no stack: it was stopped, or waits in the kernel."

    def _left_stack(self) -> bool:
        if not self._log.exists():
            return False
        with self._log.open("rb") as file:
            # One that has become shorter was rotated meanwhile.
            size = self._log.stat().st_size
            file.seek(self._log_bytes if size >= self._log_bytes else 0)
            return STACK in file.read(STACK_BYTES)
