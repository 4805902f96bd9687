"""What waits for another project is told so, and not for what of it."""

from pathlib import Path

import pytest

from ftd.core.errors import FtdError, Kind
from ftd.core.models import Model, ModelKind
from ftd.service.veil import veiled, veiled_error
from ftd.store import models
from ftd.store.store import Store
from tests.service.test_isolation import a_file, a_job
from tests.store.conftest import store as _store

store = _store

OURS, THEIRS = "ft:smol:mine:abcdefgh", "ft:smol-2.0:secret-plan:hgfedcba"


async def test_only_what_is_foreign_loses_its_name(store: Store, tmp_path: Path) -> None:
    ours = await a_job(store, "ours", await a_file(store, "ours"))
    theirs = await a_job(store, "theirs", await a_file(store, "theirs"))
    for name, project in ((OURS, "ours"), (THEIRS, "theirs")):
        row = Model(
            name=name, project=project, kind=ModelKind.TUNED, base="smol", path=name,
            sha256="0", created_at=1,
        )  # fmt: skip
        await store.db.write(lambda tx, row=row: models.insert(tx, row))
    sentences = [
        f"GPU-1 runs {ours}, GPU-2 runs {theirs}; 3 queued ahead of it",
        None,
        f"GPU-1 serves {OURS} and {THEIRS}; they end when their answers are given",
        f"{THEIRS}:ckpt-step-7, which is idle, makes room for it",
        "the disk of ftd's home is full",
    ]
    assert await veiled(store.db, "ours", sentences) == [
        f"GPU-1 runs {ours}, GPU-2 runs another project's job; 3 queued ahead of it",
        None,
        f"GPU-1 serves {OURS} and another project's model; they end when their answers are given",
        "another project's model, which is idle, makes room for it",
        "the disk of ftd's home is full",
    ]
    assert await veiled(store.db, "ours", []) == []


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (Kind.UNAVAILABLE, "cpu trains another project's job"),
        (Kind.INVALID, "cpu trains ftjob-1"),  # the client's own words
    ],
)
async def test_errors_that_say_what_is_waited_for(store: Store, kind: Kind, told: str) -> None:
    error = FtdError(kind, "cpu trains ftjob-1", code="c", param="p", retry_s=7)
    veiled_ = await veiled_error(store.db, "ours", error)
    assert (veiled_.kind, veiled_.message) == (kind, told)
    assert (veiled_.code, veiled_.param, veiled_.retry_s) == ("c", "p", 7)
