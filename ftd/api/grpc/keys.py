"""API keys over gRPC."""

from typing import Any

from ftd.api.grpc import convert
from ftd.api.grpc.gate import actor
from ftd.service.keys import CreateKey, Keys
from ftd.v1 import keys_pb2, keys_pb2_grpc


class KeysFace(keys_pb2_grpc.KeysServicer):
    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def CreateKey(
        self, request: keys_pb2.CreateKeyRequest, context: Any
    ) -> keys_pb2.CreateKeyResponse:
        wanted = CreateKey(
            name=request.name,
            scopes=tuple(request.scopes) or None,
            project=request.project or None,
            expires_after_s=(
                request.expires_after_seconds if request.HasField("expires_after_seconds") else None
            ),
        )
        minted = await self._keys.create(actor(), wanted)
        return keys_pb2.CreateKeyResponse(key=convert.key(minted.key), token=minted.token)

    async def ListKeys(
        self, request: keys_pb2.ListKeysRequest, context: Any
    ) -> keys_pb2.ListKeysResponse:
        page = await self._keys.list(actor(), after=request.after or None, limit=request.limit)
        return keys_pb2.ListKeysResponse(data=map(convert.key, page.data), has_more=page.has_more)

    async def RevokeKey(self, request: keys_pb2.RevokeKeyRequest, context: Any) -> keys_pb2.Key:
        return convert.key(await self._keys.revoke(actor(), request.id))
