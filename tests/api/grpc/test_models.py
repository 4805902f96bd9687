"""Models over gRPC."""

from pathlib import Path

import grpc

from ftd.core.models import ModelKind
from ftd.v1 import models_pb2, models_pb2_grpc
from tests.api.grpc.serving import BEARER, refused, served


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
