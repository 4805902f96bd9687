"""What one attempt has told so far: a fact that cannot be true after it becomes no row.

wire.py bounds each fact by itself; here they are held against each other. A trainer is not
believed: one that goes back, runs past its own end, saves what it never did or speaks for another
job has a fault, and its attempt ends with it.
"""

from dataclasses import dataclass

from ftd.core import wire


@dataclass(slots=True)
class Story:
    """`furthest` is the highest step that was told of the job, by any attempt, `resumable` the
    steps of its checkpoints. What an attempt said to an earlier daemon is known by those two alone.
    """

    job: str
    attempt: int
    furthest: int
    resumable: frozenset[int]
    total_steps: int | None = None
    step: int = 0  # the last that this attempt told
    seq: int | None = None  # of the last frame

    def take(self, fact: wire.Fact) -> None:
        """Go on by one fact. Raises WireError when it contradicts those before it."""
        match fact:
            case wire.Accepted(job=job, attempt=attempt):
                if (job, attempt) != (self.job, self.attempt):
                    raise wire.WireError("that it works on another job, or at another attempt")
            case wire.Prepared(total_steps=total_steps):
                self._plan(total_steps)
            case wire.Resumed(step=step):
                # 0: whatever it was given is damaged. A step that was taken and has no checkpoint:
                # the point is gone since, and an older database is told it all again.
                if step > self.furthest and step not in self.resumable:
                    raise wire.WireError(f"that it goes on from step {step}, which was never saved")
                self.furthest = max(self.furthest, step)
            case wire.Step(step=step, total_steps=total_steps):
                self._plan(total_steps)
                self._go(step, total_steps)
            case wire.Saved(step=step):
                if step > self.furthest:
                    raise wire.WireError(f"that it saved step {step} before it had taken it")
            case _:
                pass  # of these none can contradict another

    def _plan(self, total_steps: int) -> None:
        if self.total_steps not in (None, total_steps):
            raise wire.WireError(f"that it has {total_steps} steps, after {self.total_steps}")
        self.total_steps = total_steps

    def _go(self, step: int, total_steps: int) -> None:
        if step <= self.step:
            raise wire.WireError(f"that step {step} came after step {self.step}")
        if step > total_steps:
            raise wire.WireError(f"that it took step {step} of {total_steps}")
        self.step = step
        self.furthest = max(self.furthest, step)
