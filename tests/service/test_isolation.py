"""Two projects on one workstation: what each sees of the other."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from ftd.bell import Bell
from ftd.config import Settings
from ftd.core.dataset import Format, Report
from ftd.core.device import Device, Reading
from ftd.core.errors import FtdError, Kind
from ftd.core.file import FINE_TUNE, File, FileStatus
from ftd.core.hyperparams import Requested
from ftd.core.job import Job, State
from ftd.core.keys import USUAL, Scope
from ftd.core.models import Model, ModelKind
from ftd.host.home import Home
from ftd.host.space import Space
from ftd.launch.local import LocalLauncher
from ftd.metrics import Metrics
from ftd.service.actor import HOST, Actor
from ftd.service.jobs import Jobs
from ftd.service.models import Models
from ftd.service.node import Node
from ftd.store import files, jobs, models
from ftd.store.store import Store
from tests.store.conftest import store as _store

store = _store

US = Actor(project="ours", name="us", scopes=USUAL)
THEM = Actor(project="theirs", name="them", scopes=USUAL)
ADMIN = replace(THEM, scopes=frozenset(Scope))
GPU = Device(id="GPU-1", kind="cuda", name="a card", memory_bytes=1)


async def a_file(store: Store, project: str) -> str:
    file = File(
        seq=0, id=store.ids.file(), project=project, purpose=FINE_TUNE, filename="a.jsonl",
        bytes=1, sha256="0" * 64, created_at=1, status=FileStatus.PROCESSED,
        report=Report(format=Format.CHAT, examples=20, lines=20).to_json(),
    )  # fmt: skip
    await store.db.write(lambda tx: files.insert(tx, file))
    return file.id


async def a_job(store: Store, project: str, file_id: str) -> str:
    job = Job(
        seq=0, id=store.ids.job(), project=project, created_at=1, model="m", base="m",
        minted=f"ft:m::{store.ids.model()}", training_file=file_id, validation_file=None,
        suffix=None, seed=1, method="supervised", requested=Requested(), metadata=None,
        priority=0, state=State.VALIDATING,
    )  # fmt: skip
    return (await store.create(lambda _: job)).id


async def a_model(store: Store, name: str, project: str = models.SHARED) -> None:
    kind = ModelKind.BASE if project == models.SHARED else ModelKind.TUNED
    row = Model(
        name=name, project=project, kind=kind, base="m", path=f"models/{name}", sha256="0",
        created_at=1,
    )  # fmt: skip
    await store.db.write(lambda tx: models.insert(tx, row))


@pytest_asyncio.fixture
async def theirs(store: Store) -> str:
    """A job of theirs that runs on the only device."""
    job = await a_job(store, "theirs", await a_file(store, "theirs"))
    assert await store.start(job, "run-1", (GPU,)) is not None
    return job


@pytest_asyncio.fixture
async def door(store: Store, tmp_path: Path) -> AsyncIterator[Jobs]:
    launcher = LocalLauncher(tmp_path)
    yield Jobs(store, Settings(home=tmp_path), launcher, Bell(), Space(tmp_path, 0))
    await launcher.close()


async def test_a_reason_to_wait_names_only_ones_own(store: Store, door: Jobs, theirs: str) -> None:
    ours = await a_job(store, "ours", await a_file(store, "ours"))
    await store.db.write(lambda tx: jobs.note_waits(tx, {ours: f"GPU-1 runs {theirs}"}))
    told = "GPU-1 runs another project's job"
    assert (await door.get(US, ours)).wait_reason == told
    assert [job.wait_reason for job in (await door.list(US)).data] == [told]
    assert (await door.resume(US, ours)).wait_reason == told
    second = await a_job(store, "theirs", await a_file(store, "theirs"))
    await store.db.write(lambda tx: jobs.note_waits(tx, {second: f"GPU-1 runs {theirs}"}))
    assert (await door.get(THEM, second)).wait_reason == f"GPU-1 runs {theirs}"


async def test_no_use_case_reaches_another_projects_job(
    store: Store, door: Jobs, theirs: str
) -> None:
    for attempt in (door.get, door.cancel, door.pause, door.resume, door.events, door.checkpoints):
        with pytest.raises(FtdError, match=f"Could not find fine tune: {theirs}"):
            await attempt(US, theirs)
    for stream in (door.watch(US, theirs), door.logs(US, theirs)):
        with pytest.raises(FtdError, match=f"Could not find fine tune: {theirs}"):
            await anext(stream)
    assert (await door.list(US)).data == ()
    assert (await door.get(THEM, theirs)).state is State.RUNNING


def sensors(devices: Sequence[Device]) -> tuple[Reading, ...]:
    return tuple(Reading(device=device) for device in devices)


def node_of(store: Store, home: Path) -> tuple[Node, Metrics]:
    metrics = Metrics("0")
    Home(home).make()
    return Node(store, Home(home), metrics, (GPU,), sensors), metrics


async def test_a_device_is_seen_to_be_busy_and_not_with_what(
    store: Store, theirs: str, tmp_path: Path
) -> None:
    node, _ = node_of(store, tmp_path)
    (seen,) = await node.devices(US)
    assert (seen.holder, seen.withheld) == (None, "another project's job has it")
    for actor in (THEM, ADMIN, HOST):
        (seen,) = await node.devices(actor)
        assert (seen.holder, seen.withheld) == (theirs, None)


async def test_of_loaded_models_a_base_is_everybodys(store: Store, tmp_path: Path) -> None:
    await a_model(store, "m")
    await a_model(store, "ft:m:plan:abcdefgh", "theirs")
    for number, name in enumerate(("m", "ft:m:plan:abcdefgh")):
        assert await store.serve(name, f"run-{number}", GPU) is not None
    node, _ = node_of(store, tmp_path)
    (seen,) = await node.devices(US)
    assert seen.serves == ("m", "another project's model")
    (seen,) = await node.devices(THEM)
    assert seen.serves == ("m", "ft:m:plan:abcdefgh")


async def test_metrics_tell_job_by_job_of_ones_own(
    store: Store, theirs: str, tmp_path: Path
) -> None:
    node, metrics = node_of(store, tmp_path)
    metrics.training.progress.labels(theirs).set(0.5)
    metrics.training.loss.labels(theirs, "train").set(1.5)
    ours = (await node.metrics(US)).decode()
    assert theirs not in ours
    assert 'ftd_jobs{state="running"} 1.0' in ours, "how many there are is no secret"
    for actor in (THEM, HOST):
        text = (await node.metrics(actor)).decode()
        assert f'ftd_job_progress_ratio{{job_id="{theirs}"}} 0.5' in text


async def test_a_base_stays_while_anybodys_model_is_built_on_it(
    store: Store, tmp_path: Path
) -> None:
    await a_model(store, "m")
    await a_model(store, "ft:m:plan:abcdefgh", "ours")
    home = Home(tmp_path)
    home.make()
    door = Models(store, home, Settings(home=tmp_path))
    with pytest.raises(FtdError, match="1 models are built on m, of other projects") as caught:
        await door.delete(ADMIN, "m", bases=True)
    assert caught.value.kind is Kind.CONFLICT
    with pytest.raises(FtdError, match="ft:m:plan:abcdefgh among them"):
        await door.delete(replace(ADMIN, project="ours"), "m", bases=True)
