"""HTTP/1.1 with what uvicorn lacks: a deadline for heads, a bound on connections, and our envelope
for junk."""

import asyncio
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ftd.api.rest import errors
from ftd.api.rest.crowd import Crowd
from ftd.core.errors import FtdError, Kind, invalid

HEAD_S = 15.0
REFUSAL_S = 1.0  # that a client beyond the bound gets to read why


class BoundedProtocol(H11Protocol):
    """A connection whose every request has its head complete within HEAD_S of its first byte.

    The first one has HEAD_S from the connection on; idle time between requests is uvicorn's
    timeout_keep_alive.
    """

    crowd: Crowd

    _deadline: asyncio.TimerHandle | None = None
    _refused = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self.crowd.has_room_for(transport.get_extra_info("socket").fileno()):
            self._arm()
        else:
            self._refuse()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._arm()
        else:
            self._disarm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, in OpenAI's envelope, and hang up."""
        if self.cycle is not None:
            # Whoever still reads this request's body learns that its client is gone.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()  # an answer is under way; it breaks off
            return
        self._say(invalid(msg))
        self.transport.close()

    def _refuse(self) -> None:
        """Say that there are too many, and hang up once the client has read it.

        To hang up at once would be a reset where its request is under way, in which most clients
        lose the answer.
        """
        self._refused = True
        self._say(FtdError(Kind.UNAVAILABLE, "ftd has as many connections as it may; try later."))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._deadline = self.loop.call_later(REFUSAL_S, self.transport.abort)

    def _say(self, error: FtdError) -> None:
        """An answer to no request in particular."""
        answer = errors.response(error)
        headers = [*answer.raw_headers, (b"connection", b"close")]
        reason = HTTPStatus(answer.status_code).phrase.encode()
        for event in (
            h11.Response(status_code=answer.status_code, headers=headers, reason=reason),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")

    def _arm(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_S, self.transport.close)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
