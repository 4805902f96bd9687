"""Answers over gRPC, as they come."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from ftd.api.grpc import convert_chat as convert
from ftd.api.grpc.gate import actor
from ftd.core import chat
from ftd.service.chat import Chat
from ftd.v1 import chat_pb2, chat_pb2_grpc


class ChatFace(chat_pb2_grpc.ChatServicer):
    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    async def Complete(
        self, request: chat_pb2.CompleteRequest, context: Any
    ) -> AsyncIterator[chat_pb2.CompleteResponse]:
        reply = await self._chat.generate(actor(), convert.request(request))
        # Closed when the client goes: gRPC cancels the handler, and the work on the answer ends.
        async with aclosing(reply):
            began = convert.began(reply.began, reply.created_at)
            yield chat_pb2.CompleteResponse(id=reply.id, model=reply.model, began=began)
            async for part in reply:
                yield _response(part, reply.id, reply.model)


def _response(
    part: chat.Piece | chat.Finished | chat.Ended, reply_id: str, model: str
) -> chat_pb2.CompleteResponse:
    response = chat_pb2.CompleteResponse(id=reply_id, model=model)
    match part:
        case chat.Piece():
            response.piece.CopyFrom(convert.piece(part))
        case chat.Finished():
            response.finished.CopyFrom(convert.finished(part))
        case chat.Ended():
            response.ended.CopyFrom(convert.ended(part))
    return response
