"""Tokens made once per file and tokenizer: lent to an attempt as it begins, kept as it ends.

A job never fails over them: without, its trainer tokenises; and it takes none but those that it
would have made itself.
"""

import asyncio
import hashlib
import json
import logging
import shutil
from pathlib import Path

from ftd.core.job import Job
from ftd.core.models import is_full
from ftd.core.spec import TOKENS, TrainSpec
from ftd.core.tokens import VERSION
from ftd.host.shelf import Shelf
from ftd.launch.base import BadInputs, Launcher
from ftd.store import files, jobs, models
from ftd.store.db import Database

log = logging.getLogger(__name__)


async def lend(db: Database, shelf: Shelf, launcher: Launcher, launch: str, job: str) -> None:
    """Give a launched trainer, as in/tokens/<use>, the tokens of its job that there are."""
    for use, place in (await _places(db, shelf, job)).items():
        try:
            if shelf.find(place):
                await launcher.lend(launch, f"{TOKENS}/{use}", place)
        except (BadInputs, OSError) as error:  # just dropped, or a full disk
            log.warning("tokens not lent", extra={"job": job, "why": str(error)})


async def keep(db: Database, shelf: Shelf, out: Path, job: str) -> None:
    """Publish the complete tokens that a trainer made, and remove them from its run."""
    made = out / TOKENS
    if not made.is_dir() or made.is_symlink():
        return
    for use, place in (await _places(db, shelf, job)).items():
        if not (made / use).is_dir():
            continue
        try:
            await asyncio.to_thread(shelf.publish, made / use, place)
        except (OSError, ValueError) as error:
            log.warning("tokens not kept", extra={"job": job, "why": str(error)})
    await asyncio.to_thread(shutil.rmtree, made, ignore_errors=True)


async def _places(db: Database, shelf: Shelf, job_id: str) -> dict[str, Path]:
    """Where the tokens of a job's files lie, by use; none where a row is gone."""
    job, kept = await jobs.get(db, job_id), await jobs.spec(db, job_id)
    tokenizer = None if job is None else await _tokenizer(db, job)
    if job is None or kept is None or tokenizer is None:
        return {}
    spec = TrainSpec.model_validate_json(kept)
    decides = json.dumps([VERSION, tokenizer, spec.context_tokens])
    key = hashlib.sha256(decides.encode()).hexdigest()
    uses = {"training": job.training_file, "validation": job.validation_file}
    hashes = await files.hashes(db, [file_id for file_id in uses.values() if file_id])
    return {
        use: shelf.place(hashes[file_id], key) for use, file_id in uses.items() if file_id in hashes
    }


async def _tokenizer(db: Database, job: Job) -> str | None:
    """The hash of the model whose directory the trainer is given, and its tokenizer with it."""
    given, base = await models.any_named(db, job.model), await models.any_named(db, job.base)
    whole = given if given is not None and is_full(given) else base
    return None if whole is None else whole.sha256
