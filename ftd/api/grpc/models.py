"""Models over gRPC."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from ftd.api.grpc import convert
from ftd.api.grpc.gate import actor
from ftd.core.models import Model
from ftd.service.models import Models
from ftd.v1 import models_pb2, models_pb2_grpc

CHUNK_BYTES = 512 * 1024


class ModelsFace(models_pb2_grpc.ModelsServicer):
    def __init__(self, models: Models, *, home: Path, organization: str) -> None:
        self._models = models
        self._home = home
        self._organization = organization

    async def AddModel(self, request: models_pb2.AddModelRequest, context: Any) -> models_pb2.Model:
        return self._model(
            await self._models.add(actor(), name=request.name, source=request.source)
        )

    async def ListModels(
        self, request: models_pb2.ListModelsRequest, context: Any
    ) -> models_pb2.ListModelsResponse:
        return models_pb2.ListModelsResponse(
            data=map(self._model, await self._models.list(actor()))
        )

    async def GetModel(self, request: models_pb2.GetModelRequest, context: Any) -> models_pb2.Model:
        return self._model(await self._models.get(actor(), request.id))

    async def DeleteModel(
        self, request: models_pb2.DeleteModelRequest, context: Any
    ) -> models_pb2.DeleteModelResponse:
        await self._models.delete(actor(), request.id, bases=True)
        return models_pb2.DeleteModelResponse(id=request.id, deleted=True)

    async def ExportModel(
        self, request: models_pb2.ExportModelRequest, context: Any
    ) -> AsyncIterator[models_pb2.ExportModelResponse]:
        async with self._models.export(actor(), request.id, request.format or None) as exported:
            yield models_pb2.ExportModelResponse(
                header=models_pb2.ExportHeader(format=exported.form, bytes=exported.bytes)
            )
            for path in exported.files:
                with path.open("rb") as file:
                    size = path.stat().st_size
                    yield models_pb2.ExportModelResponse(
                        file=models_pb2.ExportedFile(name=path.name, bytes=size)
                    )
                    while data := await asyncio.to_thread(file.read, CHUNK_BYTES):
                        yield models_pb2.ExportModelResponse(chunk=data)

    def _model(self, model: Model) -> models_pb2.Model:
        return convert.model(model, home=self._home, organization=self._organization)
