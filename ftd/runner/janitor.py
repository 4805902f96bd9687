"""Removes what is left behind once nobody needs it, by runs above all: rows first, then the bytes.

    a resume point      goes when two newer checkpoints are recorded, or when its job is over
    a run's rest        (log, spool, optimizer states) goes keep_runs_days after its job was over
    a model             that lies in a run stays until it is deleted
    an open job         loses nothing else: its checkpoints are where it goes on
    what no row knows   is not touched: the database may have been lost, and the run be needed
    what was set aside  (home/unknown: files and models that no row knew at a start) goes
                        keep_runs_days after that

All of it is found anew each time, from the rows and the disk, so that a crash in between costs
nothing. Files are looked at and removed in a thread.
"""

import asyncio
import logging
import os
import re
import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from ftd.core.errors import FtdError
from ftd.core.job import Attempt
from ftd.core.spec import CHECKPOINTS
from ftd.host import unknown
from ftd.host.home import Home
from ftd.store import checkpoints, launches
from ftd.store.db import Database
from ftd.store.store import Store

log = logging.getLogger(__name__)

AFTER_READY_S = 5.0  # the first requests go first
SWEEP_S = 3600.0
DAY_S = 86_400.0
BATCH = 200  # runs looked at together, so that others come between

_STEP = re.compile(r"step-(\d+)\Z")


@dataclass(frozen=True, slots=True)
class Janitor:
    """Goes through all runs, at a start and every hour. `keep_days` is limits.keep_runs_days."""

    store: Store
    home: Home
    keep_days: float

    async def run(self) -> None:
        """Sweep, for ever."""
        await asyncio.sleep(AFTER_READY_S)
        while True:
            try:
                await self.sweep()
            except (FtdError, OSError):
                log.exception("what is left behind is not removed")  # the next sweep tries again
            await asyncio.sleep(SWEEP_S)

    async def sweep(self) -> None:
        """Remove all that may go now."""
        await self.store.db.write(checkpoints.forget_over, about=())
        runs = await asyncio.to_thread(os.listdir, self.home.runs)
        for start in range(0, len(runs), BATCH):
            await self._sweep(runs[start : start + BATCH])
        await asyncio.to_thread(unknown.forget, self.home, self._due())

    def _due(self) -> float:
        """What was over then, or before, goes now."""
        return self.store.clock.now() - self.keep_days * DAY_S

    async def _sweep(self, runs: Collection[str]) -> None:
        db = self.store.db
        # Whoever has ended first, and what is kept after: nothing more of these runs is recorded.
        ended = await launches.ended(db, runs)
        models = await launches.model_paths(db, runs)
        points = await launches.checkpoint_paths(db, runs)
        due = self._due()
        old = {run.launch for run in ended if run.over_at is not None and run.over_at <= due}
        assigned = {f"runs/{launch}/assigned.json" for launch in old}  # says that it was a job's
        await asyncio.to_thread(self._clear, old, _Kept(models), _Kept(models | assigned))
        young = {run.launch for run in ended} - old
        await asyncio.to_thread(self._clear_points, young, _Kept(models | points))

    def _clear(self, runs: Iterable[str], models: "_Kept", kept: "_Kept") -> None:
        for launch in runs:
            run = self.home.runs / launch
            try:
                if models.leads(f"runs/{launch}"):
                    _strip(run, self.home.root, kept)
                else:
                    shutil.rmtree(run)
            except OSError as error:
                log.warning("a run stays", extra={"launch": launch, "why": str(error)})

    def _clear_points(self, runs: Iterable[str], kept: "_Kept") -> None:
        for launch in runs:
            points = _checkpoints(self.home.runs / launch)
            try:
                if points is not None:
                    _strip(points, self.home.root, kept)
            except OSError as error:
                log.warning("old checkpoints stay", extra={"launch": launch, "why": str(error)})


async def thin(db: Database, home: Home, attempt: Attempt) -> None:
    """Remove the checkpoints of a run under way that newer ones have made needless.

    Those after the newest that is recorded are on their way to be.
    """
    points = await checkpoints.resume_points(db, attempt.job)
    paths = {point.path: point.step for point in points}
    ours = [step for path, step in paths.items() if path.startswith(f"runs/{attempt.launch}/")]
    directory = _checkpoints(home.runs / attempt.launch)
    if not ours or directory is None:
        return
    for place in await asyncio.to_thread(lambda: list(directory.iterdir())):
        step = _STEP.match(place.name)
        listed = str(place.relative_to(home.root)) in paths
        if step is None or listed or int(step[1]) > max(ours):
            continue
        try:
            await asyncio.to_thread(shutil.rmtree, place)
        except OSError as error:  # the janitor comes by later
            log.warning("an old checkpoint stays", extra={"job": attempt.job, "why": str(error)})


class _Kept:
    """What must stay, relative to the home, and the directories on the way to it."""

    def __init__(self, paths: Collection[str]) -> None:
        self._paths = frozenset(paths)
        self._ways = frozenset(str(way) for path in paths for way in Path(path).parents)

    def __contains__(self, path: str) -> bool:
        return path in self._paths

    def leads(self, path: str) -> bool:
        """Whether something that must stay lies below."""
        return path in self._ways


def _checkpoints(run: Path) -> Path | None:
    """Where a run's checkpoints lie. A trainer wrote it: a link could lead anywhere."""
    out = run / "out"
    place = out / CHECKPOINTS
    return None if out.is_symlink() or place.is_symlink() or not place.is_dir() else place


def _strip(directory: Path, root: Path, kept: _Kept) -> None:
    """Remove what lies below `directory` and is not to be kept. Follows no link."""
    with os.scandir(directory) as entries:
        found = list(entries)
    for entry in found:
        path = Path(entry.path)
        name = str(path.relative_to(root))
        if name in kept:
            continue
        if not entry.is_dir(follow_symlinks=False):
            path.unlink()
        elif kept.leads(name):
            _strip(path, root, kept)
        else:
            shutil.rmtree(path)
