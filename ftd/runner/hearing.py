"""Understands a trainer: its facts, up to the first that makes no sense. It is not believed."""

from dataclasses import dataclass, replace
from pathlib import Path

from ftd.core import wire
from ftd.core.job import CHECKPOINT_DAMAGED, Attempt, JobError
from ftd.core.story import Story
from ftd.launch.base import Spooled
from ftd.runner import manifest
from ftd.runner.manifest import Damaged
from ftd.store import checkpoints, events
from ftd.store.db import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """The facts of one read, where they end, and what is known after them.

    `fault` says why nothing after them is understood.
    """

    facts: tuple[wire.Fact, ...]
    offset: int
    story: Story
    fault: JobError | None = None


async def story_of(db: Database, attempt: Attempt) -> Story:
    """What is known of an attempt whose facts are kept up to its offset."""
    points = await checkpoints.resume_points(db, attempt.job)
    return Story(
        job=attempt.job,
        attempt=attempt.number,
        furthest=await events.furthest(db, attempt.job),
        resumable=frozenset(point.step for point in points),
    )


def announces(spooled: Spooled) -> bool:
    """Whether a checkpoint may be announced, whose files are then hashed: gigabytes perhaps."""
    return any(b"saved" in frame.line for frame in spooled.frames)


def hear(spooled: Spooled, offset: int, story: Story, out: Path) -> Heard:
    """Understand the frames from `offset` on, of a trainer that writes `out`."""
    facts: list[wire.Fact] = []
    story = replace(story)  # what is not kept in the end was never heard

    def heard(fault: str | None, code: str = "protocol_error") -> Heard:
        error = None if fault is None else JobError(code=code, message=fault)
        return Heard(facts=tuple(facts), offset=offset, story=story, fault=error)

    for frame in spooled.frames:
        # Within one read the spool has seen to it, but not from one to the next.
        if story.seq is not None and frame.seq != story.seq + 1:
            return heard(f"The trainer's spool is damaged: {frame.seq} comes after {story.seq}")
        story.seq = frame.seq
        try:
            fact = wire.decode_fact(frame.line)
            story.take(fact)
            counts = not isinstance(fact, wire.Saved) or _verify(fact, out)
        except wire.WireError as error:
            return heard(f"The trainer said {error}")
        except Damaged as damage:
            message = f"A checkpoint is damaged that the trainer has just saved: {damage}."
            return heard(message, CHECKPOINT_DAMAGED)
        facts += [fact] if counts else []
        offset = frame.end
    if spooled.corrupt is not None:
        return heard(f"The trainer's spool is damaged: {spooled.corrupt}")
    return heard(None)


def _verify(fact: wire.Saved, out: Path) -> bool:
    """A checkpoint is a row only when its manifest is the one that was announced, and a model only
    when its files are those of the manifest; whoever resumes hashes the rest. A resume point that
    is gone counts for nothing: a newer one had made it needless, of which a database that was
    restored from a backup does not know."""
    directory = out / fact.path
    try:
        inside = directory.resolve().is_relative_to(out.resolve())
        gone = not directory.exists()
    except (OSError, ValueError, RuntimeError) as error:
        # A name that is too long, a null byte, or links that go round in a circle.
        raise wire.WireError(f"that step {fact.step} is saved, and named no path") from error
    if not inside:
        raise wire.WireError(f"that step {fact.step} is saved outside its run")
    if gone and not fact.epoch_end:
        return False
    if manifest.manifest_sha256(directory) != fact.manifest_sha256:
        raise wire.WireError(f"that step {fact.step} is saved, and its checkpoint is not whole")
    if fact.epoch_end:
        _verify_model(fact, directory)
    return True


def _verify_model(fact: wire.Saved, directory: Path) -> None:
    """Raises WireError where there is none, Damaged where it is not as the manifest has it."""
    try:
        model = manifest.listed(directory, fact.manifest_sha256)
        if model.form != fact.contents:
            raise ValueError(f"it holds no {fact.contents}")
        manifest.verify(directory / model.form, model)
    except (PermissionError, ValueError) as error:
        raise wire.WireError(f"that step {fact.step} is saved as a model: {error}") from error
