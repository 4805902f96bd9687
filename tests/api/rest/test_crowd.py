"""Who is counted, from when until when."""

import socket
from collections.abc import Iterator

import pytest

from ftd.api.rest import crowd
from ftd.api.rest.crowd import Crowd, Listener


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as listener:
        listener.crowd = Crowd(2)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


def test_a_connection_counts_until_it_is_closed(listener: Listener) -> None:
    with socket.create_connection(listener.getsockname()) as client:
        connection, address = listener.accept()
        assert address == client.getsockname()
        assert len(listener.crowd) == 1
        client.sendall(b"hello")
        assert connection.recv(9) == b"hello"
        for _ in range(2):
            connection.close()
            assert len(listener.crowd) == 0


def test_beyond_the_bound_some_are_told_and_the_rest_hung_up_on(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowd, "REFUSED_AT_ONCE", 1)
    clients = [socket.create_connection(listener.getsockname()) for _ in range(4)]
    held = [listener.accept()[0] for _ in range(3)]
    assert [listener.crowd.has_room_for(one.fileno()) for one in held] == [True, True, False]
    with pytest.raises(ConnectionAbortedError):
        listener.accept()
    assert clients[3].recv(9) == b""
    held[0].close()
    clients.append(socket.create_connection(listener.getsockname()))
    held.append(listener.accept()[0])
    assert listener.crowd.has_room_for(held[-1].fileno())
    assert not listener.crowd.has_room_for(held[2].fileno())
    for one in held + clients:
        one.close()
    assert len(listener.crowd) == 0
