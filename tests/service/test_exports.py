"""Exports: linked, made by a real worker where something has to be made, gone afterwards."""

import asyncio
import shutil
from pathlib import Path

import pytest

from ftd.core.errors import FtdError, Kind
from ftd.core.models import FULL, Model, ModelKind
from ftd.host.home import Home
from ftd.service.exports import Exports
from tests.worker.models.directories import write_model

BASE = Model(
    name="tiny",
    project="default",
    kind=ModelKind.BASE,
    base="tiny",
    path="models/tiny",
    sha256="1" * 64,
    created_at=1,
    facts={"license": "mit"},
)
TUNED = Model(
    name="ft:tiny::abcdefgh",
    project="default",
    kind=ModelKind.TUNED,
    base="tiny",
    path="adapters/abcdefgh",
    sha256="2" * 64,
    created_at=1,
    job="ftjob-1",
    facts={"form": "adapter"},
)
WHOLE = Model(
    name="ft:tiny::whole",
    project="default",
    kind=ModelKind.TUNED,
    base="tiny",
    path="adapters/whole",
    sha256="3" * 64,
    created_at=1,
    job="ftjob-1",
    facts={"form": FULL},
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.make()
    write_model(home.models / "tiny")
    (home.adapters / "abcdefgh").mkdir()
    (home.adapters / "abcdefgh" / "adapter_config.json").write_text("{}")
    return home


def left(home: Home) -> list[Path]:
    return list((home.root / "cache" / "exports").iterdir())


async def test_what_is_there_is_linked_and_outlives_its_model(home: Home) -> None:
    exports = Exports(home)
    async with exports.export(TUNED, BASE, None) as exported:
        assert exported.form == "adapter"
        (file,) = exported.files
        original = home.adapters / "abcdefgh" / "adapter_config.json"
        assert file.stat().st_ino == original.stat().st_ino
        shutil.rmtree(original.parent)
        assert file.read_text() == "{}"
        assert exported.bytes == 2
    assert left(home) == []
    for form in (None, "merged"):
        async with exports.export(BASE, BASE, form) as exported:
            assert exported.form == "merged"
            names = {file.name for file in exported.files}
            assert names == {path.name for path in (home.models / "tiny").iterdir()}
    assert left(home) == []


@pytest.mark.parametrize(
    ("model", "form", "words"),
    [
        (BASE, "adapter", "tiny is a base model: there is no adapter"),
        (WHOLE, "adapter", "was trained in every weight: there is no adapter"),
        (TUNED, "onnx", "no format 'onnx'; these are known: adapter, merged, gguf"),
    ],
)
async def test_a_form_that_a_model_does_not_have(
    home: Home, model: Model, form: str, words: str
) -> None:
    with pytest.raises(FtdError, match=words) as refused:
        async with Exports(home).export(model, BASE, form):
            pass
    assert (refused.value.kind, refused.value.param) == (Kind.INVALID, "format")


async def test_a_model_that_is_gone_is_no_such_model(home: Home) -> None:
    with pytest.raises(FtdError) as refused:
        async with Exports(home).export(WHOLE, BASE, None):
            pass
    assert refused.value.kind is Kind.NOT_FOUND
    assert left(home) == []


async def test_what_the_worker_refuses_is_told_in_its_words(home: Home) -> None:
    with pytest.raises(FtdError, match="the tokenizer cannot be converted to GGUF") as refused:
        async with Exports(home).export(BASE, BASE, "gguf"):
            pass
    assert (refused.value.code, refused.value.param) == ("unsupported_model", "format")
    with pytest.raises(FtdError, match=r"cannot be exported as merged: This adapter cannot"):
        async with Exports(home).export(TUNED, BASE, "merged"):
            pass
    assert left(home) == []


async def test_whoever_leaves_takes_the_worker_along(home: Home) -> None:
    exports = Exports(home)

    async def export() -> None:
        async with exports.export(TUNED, BASE, "merged"):
            pass

    task = asyncio.create_task(export())
    async with asyncio.timeout(10):
        while not (home.root / "cache" / "exports").is_dir():  # noqa: ASYNC110  # no event
            await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left(home) == []


async def test_a_start_removes_what_was_left(home: Home) -> None:
    (home.root / "cache" / "exports" / "tmp").mkdir(parents=True)
    await Exports(home).recover()
    assert not (home.root / "cache" / "exports").exists()
