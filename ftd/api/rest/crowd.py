"""How many are connected: everybody counts from being let in until the socket is closed.

A client that connects to a TLS port and says nothing has a socket of ours, and no protocol or
request yet by which it could be counted.
"""

import socket
from typing import Any

REFUSED_AT_ONCE = 64  # beyond the bound that get to read why; more are hung up on


class Crowd:
    """Those who are connected now, by their sockets' numbers. There is room for `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._inside: set[int] = set()
        self._refused: set[int] = set()

    def __len__(self) -> int:
        return len(self._inside) + len(self._refused)

    def join(self, number: int) -> bool:
        """Count somebody; False where there is no room even for being told so."""
        if len(self._inside) < self._most:
            self._inside.add(number)
        elif len(self._refused) < REFUSED_AT_ONCE:
            self._refused.add(number)
        else:
            return False
        return True

    def leave(self, number: int) -> None:
        self._inside.discard(number)
        self._refused.discard(number)

    def has_room_for(self, number: int) -> bool:
        """Whether one who has joined was within the bound then."""
        return number not in self._refused


class Listener(socket.socket):
    """A socket that counts its connections, and hangs up on those for whom there is no room."""

    crowd: Crowd

    def accept(self) -> tuple[socket.socket, Any]:
        """Raises ConnectionAbortedError, which event loops pass over, having hung up."""
        connection, address = super().accept()
        if not self.crowd.join(connection.fileno()):
            connection.close()
            raise ConnectionAbortedError
        return _Connection(connection, self.crowd), address


class _Connection(socket.socket):
    """A connection that is counted until it is closed."""

    def __init__(self, accepted: socket.socket, crowd: Crowd) -> None:
        self._number = accepted.fileno()
        self._crowd = crowd
        family, kind, protocol = accepted.family, accepted.type, accepted.proto
        super().__init__(family, kind, protocol, fileno=accepted.detach())

    def close(self) -> None:
        if self.fileno() == self._number:
            self._crowd.leave(self._number)
        super().close()
