"""Uploads and their ends: nothing half, nothing left behind, bytes as long as they are needed."""

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ftd.bell import Bell
from ftd.config import Limits
from ftd.core.errors import FtdError, Kind
from ftd.core.file import File, FileStatus
from ftd.core.ids import Ids
from ftd.daemon import SystemClock
from ftd.host.home import Home
from ftd.host.shelf import Shelf
from ftd.host.space import Space
from ftd.launch.tool import ToolResult
from ftd.metrics import Metrics
from ftd.service import files as service
from ftd.service.actor import Actor
from ftd.service.files import FileRooms, Files, status_details
from ftd.store.db import Database
from ftd.store.store import Store
from tests.host.test_shelf import make

ME = Actor(project="default", name="me")
LINE = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
SMALL = Limits(upload_bytes=4 * 2**20)


class Room(NamedTuple):
    files: Files
    home: Home
    store: Store

    def on_disk(self) -> set[str]:
        return {path.name for path in self.home.files.rglob("*") if path.is_file()}


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    home = Home(tmp_path / "home")
    home.make()
    database = Database(home.database, Bell())
    await database.open()
    store = Store(database, SystemClock(), Ids(random.Random(5).randbytes))
    space = Space(home.root, 0)
    files = Files(
        FileRooms(store=store, home=home, limits=SMALL, metrics=Metrics("0"), space=space)
    )
    yield Room(files, home, store)
    await files.close()
    await database.close()


async def put(
    room: Room, content: bytes, name: str = "a.jsonl", purpose: str = "fine-tune"
) -> File:
    async with room.files.upload(ME) as upload:
        for start in range(0, len(content), 1000):
            await upload.write(content[start : start + 1000])
        return await upload.finish(filename=name, purpose=purpose)


async def test_a_good_file_is_processed_when_the_upload_answers(room: Room) -> None:
    file = await put(room, LINE * 20)
    assert file.status is FileStatus.PROCESSED
    assert file.bytes == 20 * len(LINE)
    assert await room.files.get(ME, file.id) == (await room.files.list(ME)).data[0]
    with await room.files.content(ME, file.id) as content:
        assert content.read() == LINE * 20
    assert room.on_disk() == {file.id}


async def test_an_upload_that_breaks_off_leaves_nothing(room: Room) -> None:
    async with room.files.upload(ME) as upload:
        await upload.write(b"x" * 2**21)
        assert len(room.on_disk()) == 1  # and then the client is gone: nobody says finish
    assert room.on_disk() == set()
    assert (await room.files.list(ME)).data == ()


@pytest.mark.parametrize(
    ("content", "name", "purpose", "kind"),
    [
        (b"not json\n", "a.jsonl", "fine-tune", Kind.INVALID),
        (b"", "a.jsonl", "fine-tune", Kind.INVALID),
        (LINE, "a.csv", "fine-tune", Kind.INVALID),
        (LINE, "a.jsonl", "fun", Kind.INVALID),
        (LINE, "a" * 300 + ".jsonl", "fine-tune", Kind.INVALID),
        (b"x" * (4 * 2**20 + 1), "a.bin", "user_data", Kind.TOO_LARGE),
    ],
)
async def test_what_is_refused_is_not_kept(
    room: Room, content: bytes, name: str, purpose: str, kind: Kind
) -> None:
    with pytest.raises(FtdError) as caught:
        await put(room, content, name, purpose)
    assert caught.value.kind is kind
    assert room.on_disk() == set()
    assert (await room.files.list(ME)).data == ()


async def test_an_announced_size_is_refused_before_a_byte_is_taken(room: Room) -> None:
    with pytest.raises(FtdError) as caught:
        async with room.files.upload(ME, expected_bytes=4 * 2**20 + 1):
            pass
    assert caught.value.kind is Kind.TOO_LARGE


async def test_a_disk_without_room_is_said_before_a_byte_is_taken(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(room.home.root)
    monkeypatch.setattr(service, "SPARE_BYTES", usage.free + 2**40)
    with pytest.raises(FtdError) as caught:
        async with room.files.upload(ME):
            pass
    assert caught.value.kind is Kind.NO_SPACE


async def test_a_bad_file_says_its_first_fault(room: Room) -> None:
    file = await put(room, LINE * 10 + b'{"messages": [{"content": "x"}]}\n')
    assert file.status is FileStatus.ERROR
    details = status_details(file)
    assert details is not None
    assert details.startswith("Invalid file format. Example 11, message 1")


async def test_other_purposes_are_kept_as_they_are(room: Room) -> None:
    file = await put(room, b"\x00\x01", "a.bin", "user_data")
    assert file.status is FileStatus.PROCESSED
    assert status_details(file) is None


async def test_a_check_that_was_cut_short_is_done_at_the_next_start(room: Room) -> None:
    file = await put(room, LINE * 20)
    (room.home.incoming / "file-half.part").write_text("half an upload")
    await room.store.db.write(
        lambda tx: tx.execute("UPDATE files SET status = 'uploaded', report = NULL") and None
    )
    await room.files.recover()
    assert room.on_disk() == {file.id}
    for check in list(room.files._checks.values()):
        await check
    assert (await room.files.get(ME, file.id)).status is FileStatus.PROCESSED


async def test_a_start_sets_aside_the_bytes_that_no_row_names(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    """An older database was put back: what was uploaded since is its owner's, and no rubbish."""
    older, newer = [await put(room, LINE * count) for count in (10, 11)]
    await room.store.db.write(
        lambda tx: tx.execute("DELETE FROM files WHERE id = ?", (newer.id,)) and None
    )
    await room.files.recover()
    assert room.on_disk() == {older.id}
    assert (room.home.unknown / "files" / newer.id).read_bytes() == LINE * 11
    (said,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert vars(said)["count"] == 1


async def test_a_start_removes_the_bytes_of_what_was_deleted(room: Room) -> None:
    """The daemon ended after it had said so and before they went: nobody is to find them again."""
    file = await put(room, LINE * 10)
    await room.files.delete(ME, file.id)
    room.home.file(file.id).write_bytes(LINE * 10)
    await room.files.recover()
    assert room.on_disk() == set()
    assert not list(room.home.unknown.iterdir())


async def test_a_check_that_broke_off_is_begun_anew_by_the_sweep(room: Room) -> None:
    file = await put(room, LINE * 20)
    await room.store.db.write(
        lambda tx: tx.execute("UPDATE files SET status = 'uploaded', report = NULL") and None
    )
    await room.files.sweep()
    await asyncio.gather(*room.files._checks.values())
    assert (await room.files.get(ME, file.id)).status is FileStatus.PROCESSED
    await room.files.sweep()
    assert not room.files._checks


async def test_an_expired_file_is_gone(room: Room) -> None:
    async with room.files.upload(ME) as upload:
        await upload.write(LINE * 10)
        file = await upload.finish(filename="a.jsonl", purpose="fine-tune", expires_after_s=3600)
    assert file.expires_at == file.created_at + 3600
    await room.store.db.write(lambda tx: tx.execute("UPDATE files SET expires_at = 1") and None)
    await room.files.sweep()
    assert room.on_disk() == set()
    with pytest.raises(FtdError):
        await room.files.get(ME, file.id)


async def test_a_file_takes_its_tokens_with_it_unless_another_has_the_same_bytes(
    room: Room, tmp_path: Path
) -> None:
    one, same, other = [await put(room, LINE * count) for count in (10, 10, 11)]
    shelf = Shelf(room.home.tokens, SMALL.cache_bytes)
    for file in (one, other):
        made = make(tmp_path / file.id, source=file.sha256)
        shelf.publish(made, shelf.place(file.sha256, "key"))
    await room.files.delete(ME, one.id)
    assert set(shelf.sources()) == {one.sha256, other.sha256}
    await room.files.delete(ME, same.id)
    assert shelf.sources() == (other.sha256,)


async def test_tokens_half_way_are_gone_after_a_start(room: Room) -> None:
    half = room.home.tokens / ".new" / "half"
    half.mkdir(parents=True)
    await room.files.recover()
    assert not half.exists()


async def test_another_project_sees_nothing(room: Room) -> None:
    file = await put(room, LINE * 10)
    other = Actor(project="other", name="you")
    assert (await room.files.list(other)).data == ()
    for call in (room.files.get, room.files.content, room.files.delete):
        with pytest.raises(FtdError) as caught:
            await call(other, file.id)
        assert caught.value.kind is Kind.NOT_FOUND


async def test_the_notes_of_a_check_lie_in_the_home(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a large file they are gigabytes, and where they would lie else may be memory."""
    given: list[str] = []
    run_tool = service.run_tool

    async def run(module: str, *arguments: str, env: Mapping[str, str], **rest: Any) -> ToolResult:
        given.append(env["TMPDIR"])
        return await run_tool(module, *arguments, env=env, **rest)

    monkeypatch.setattr(service, "run_tool", run)
    assert (await put(room, LINE * 12)).status is FileStatus.PROCESSED
    assert given == [str(room.home.incoming)]
