"""Models over gRPC."""

from pathlib import Path

import grpc

from ftd.core.models import ModelKind
from ftd.v1 import models_pb2, models_pb2_grpc
from tests.api.grpc.serving import BEARER, refused, served, until


async def test_add_list_get_and_delete(tmp_path: Path) -> None:
    async with served(tmp_path) as (door, _, channel):
        stub = models_pb2_grpc.ModelsStub(channel)
        request = models_pb2.AddModelRequest(name="tiny", source="hf:org/tiny")
        added = await stub.AddModel(request, metadata=BEARER)
        assert door.models.sources == ["hf:org/tiny"]
        assert added.path == str(tmp_path / "models" / "tiny")
        assert (added.kind, added.owned_by, added.parameters) == ("base", "system", 135)
        listed = await stub.ListModels(models_pb2.ListModelsRequest(), metadata=BEARER)
        assert [model.id for model in listed.data] == ["smollm2", "tiny"]
        get = models_pb2.GetModelRequest(id="tiny")
        assert await stub.GetModel(get, metadata=BEARER) == added
        gone = await stub.DeleteModel(models_pb2.DeleteModelRequest(id="tiny"), metadata=BEARER)
        assert gone.deleted
        code, _, said = await refused(stub.GetModel(get, metadata=BEARER))
    assert code is grpc.StatusCode.NOT_FOUND
    assert said["ftd-code"] == "model_not_found"


async def test_a_tuned_model_is_the_organizations(tmp_path: Path) -> None:
    async with served(tmp_path) as (door, _, channel):
        door.models.put("ft:smollm2::abcdefgh", ModelKind.TUNED, job="ftjob-1")
        stub = models_pb2_grpc.ModelsStub(channel)
        request = models_pb2.GetModelRequest(id="ft:smollm2::abcdefgh")
        model = await stub.GetModel(request, metadata=BEARER)
    assert (model.owned_by, model.job_id, model.base) == ("org-local", "ftjob-1", "smollm2")


async def test_an_export_is_its_files_one_after_the_other(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "a.json").write_bytes(b"{}")
    (files / "b.safetensors").write_bytes(bytes(range(256)) * 5000)
    (files / "empty").touch()
    async with served(tmp_path) as (door, _, channel):
        door.models.exports = files
        stub = models_pb2_grpc.ModelsStub(channel)
        request = models_pb2.ExportModelRequest(id="smollm2", format="merged")
        header, *parts = [part async for part in stub.ExportModel(request, metadata=BEARER)]
        assert door.models.exporting == 0
    assert (header.header.format, header.header.bytes) == ("merged", 1_280_002)
    got: dict[str, bytes] = {}
    sizes = {}
    for part in parts:
        if part.WhichOneof("part") == "file":
            name = part.file.name
            got[name], sizes[name] = b"", part.file.bytes
        else:
            got[name] += part.chunk
    assert got == {path.name: path.read_bytes() for path in files.iterdir()}
    assert sizes == {name: len(data) for name, data in got.items()}


async def test_an_export_that_cannot_be_is_refused_at_once(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, _, channel):
        stub = models_pb2_grpc.ModelsStub(channel)
        for request, wanted in (
            (models_pb2.ExportModelRequest(id="gpt-9"), grpc.StatusCode.NOT_FOUND),
            (
                models_pb2.ExportModelRequest(id="smollm2", format="gguf"),
                grpc.StatusCode.INVALID_ARGUMENT,
            ),
        ):
            call = stub.ExportModel(request, metadata=BEARER)
            code, _, _ = await refused(anext(aiter(call)))
            assert code is wanted


async def test_a_client_that_goes_ends_the_export(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    with (files / "large").open("wb") as large:
        large.truncate(2**30)
    async with served(tmp_path) as (door, _, channel):
        door.models.exports = files
        request = models_pb2.ExportModelRequest(id="smollm2")
        call = models_pb2_grpc.ModelsStub(channel).ExportModel(request, metadata=BEARER)
        await call.read()
        assert door.models.exporting == 1
        call.cancel()
        await until(lambda: door.models.exporting == 0)
