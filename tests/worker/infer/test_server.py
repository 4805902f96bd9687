"""The socket in front of a tiny model, in one process: limits, loads, ends."""

import gc
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from ftd.core.chat import LINE_BYTES, Began, Cancel, Ended, Load, Refused, Sampling
from ftd.core.wire import Ready, Stop, decode_fact
from ftd.worker.infer import service
from ftd.worker.infer.batch import Batch
from ftd.worker.infer.desk import Desk
from ftd.worker.infer.server import Errand, Server
from ftd.worker.infer.service import serve
from ftd.worker.report import Asked, Report
from tests.garbage import forget_earlier
from tests.worker.infer.client import LIMIT_S, Client, Told, generate
from tests.worker.infer.inside import spec, tiny_network

ENDLESS = {2: -100.0}
LONG = Sampling(max_tokens=450, logit_bias=ENDLESS)


@pytest.fixture(scope="module")
def network() -> Any:
    return tiny_network()


@dataclass
class Driven:
    """A server whose batch is turned by the test."""

    server: Server
    batch: Batch
    path: Path
    errands: "SimpleQueue[Errand]"
    clients: list[Client] = field(default_factory=list)

    def client(self) -> Client:
        self.clients.append(Client(self.path))
        return self.clients[-1]

    def errand(self) -> None:
        """Wait for one errand and run it."""
        self.errands.get(timeout=LIMIT_S)()

    def turn(self) -> bool:
        busy = self.batch.turn()
        self.server.flush()
        return busy


@pytest.fixture
def driven(network: Any, tmp_path: Path) -> Iterator[Callable[..., Driven]]:
    made: list[Driven] = []

    def make(**limits: Any) -> Driven:
        batch = Batch(network, spec())
        errands: SimpleQueue[Errand] = SimpleQueue()
        settings = {"queue": 8, "path": tmp_path / "s"} | limits
        server = Server(Desk(network), batch.add, errands, **settings)
        server.start()
        made.append(Driven(server, batch, settings["path"], errands))
        return made[-1]

    yield make
    for each in made:
        for client in each.clients:
            client.close()
        each.server.close()


def test_more_than_the_queue_holds_is_refused_and_room_comes_back(
    driven: Callable[..., Driven],
) -> None:
    ours = driven(queue=4)
    client = ours.client()
    first, second, third = (generate("x", Sampling(n=n, max_tokens=2)) for n in (3, 2, 1))
    client.send(first, second, third)
    answers = client.answers()
    refused = next(answers)
    assert isinstance(refused, Refused)
    assert (refused.id, refused.code) == (second.id, "overloaded")
    ours.errand()
    ours.errand()
    told = {first.id: Told(), third.id: Told()}
    while ours.turn():
        pass
    while not all(each.last for each in told.values()):
        answer = next(answers)
        told[answer.id].hear(answer)
    again = generate("x", Sampling(n=4, max_tokens=2))
    client.send(again)
    ours.errand()
    while ours.turn():
        pass
    assert isinstance(client.wait(again)[0].last, Ended)


def test_a_request_may_be_cancelled_before_it_is_read(driven: Callable[..., Driven]) -> None:
    ours = driven()
    client = ours.client()
    request = generate("x", LONG)
    client.send(request, Cancel(id=request.id))
    ours.errand()
    ours.errand()
    ours.turn()
    (told,) = client.wait(request)
    assert told.last == Ended(id=request.id, completion_tokens=0)
    assert not ours.batch.running
    assert not ours.batch.waiting


def test_an_id_that_is_asked_twice_makes_no_sense(driven: Callable[..., Driven]) -> None:
    ours = driven()
    client = ours.client()
    request = generate("x", LONG)
    client.send(request, request)
    assert list(client.answers()) == []


def test_a_line_without_end_makes_no_sense(driven: Callable[..., Driven]) -> None:
    ours = driven()
    client = ours.client()
    try:
        client.socket.sendall(b"x" * (LINE_BYTES + 2**20))
    except (BrokenPipeError, ConnectionResetError):
        return  # hung up on before all was sent
    assert client.socket.recv(1) == b""


def test_who_does_not_read_is_hung_up_on_and_cancelled(driven: Callable[..., Driven]) -> None:
    ours = driven(unsent_bytes=100_000)
    deaf, other = ours.client(), ours.client()
    deaf.send(generate("x", LONG.model_copy(update={"n": 4, "top_logprobs": 20})))
    ours.errand()
    turns = 0
    while ours.turn():
        turns += 1
        while not ours.errands.empty():
            ours.errand()
    assert 10 < turns < 400
    request = generate("x", Sampling(max_tokens=2))
    other.send(request)
    while not ours.batch.waiting:
        ours.errand()
    while ours.turn():
        pass
    assert isinstance(other.wait(request)[0].last, Ended)


@dataclass
class Serving:
    path: Path
    asked: Asked
    thread: threading.Thread


@pytest.fixture
def serving(network: Any, tmp_path: Path) -> Iterator[Serving]:
    """The whole loop in a thread of its own, until it is stopped."""
    (tmp_path / "out").mkdir()
    reader, writer = os.pipe()
    asked = Asked()
    arguments = (network, spec(rows=2), tmp_path, Report(writer), asked)
    thread = threading.Thread(target=serve, args=arguments)
    thread.start()
    with os.fdopen(reader, "rb") as facts:
        assert decode_fact(facts.readline()) == Ready(context_tokens=512)
        yield Serving(tmp_path / "out" / "serve.sock", asked, thread)
        asked.ask(Stop())
        thread.join(LIMIT_S)
        assert not thread.is_alive()
        os.close(writer)
        assert facts.read() == b""


def test_how_busy_it_is_is_told_as_it_changes(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "BEAT_S", LIMIT_S)
    client = Client(serving.path)
    (told,) = client.ask(generate("x", Sampling(n=5, max_tokens=100, logit_bias=ENDLESS)))
    assert isinstance(told.last, Ended)
    loads = [*client.loads, *_until_idle(client)]
    assert loads[0].running == 2
    assert loads[0].waiting == 3
    assert loads[-1].cached_tokens > 100
    for before, after in itertools.pairwise(loads):
        assert before != after
    client.close()


def test_it_gives_a_sign_of_life_while_it_works(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "BEAT_S", 0.0)
    client = Client(serving.path)
    request = generate("x", LONG)
    client.send(request)
    busy = (load for load in client.loads_that_come() if load.running)
    assert next(busy) == next(busy)
    client.send(Cancel(id=request.id))
    client.close()


def test_the_last_change_is_told_although_nothing_happens_after_it(serving: Serving) -> None:
    client = Client(serving.path)
    client.send(generate("x", Sampling(max_tokens=2, logit_bias=ENDLESS)))
    busy, idle = _until_idle(client)
    assert busy.running == 1
    assert idle.running == 0
    client.close()


def _until_idle(client: Client) -> list[Load]:
    loads = []
    for load in client.loads_that_come():
        loads.append(load)
        if not load.running and not load.waiting:
            break
    return loads


def test_a_stop_wakes_an_idle_worker(serving: Serving) -> None:
    client = Client(serving.path)
    client.send(generate("x", Sampling(max_tokens=2, logit_bias=ENDLESS)))
    _until_idle(client)  # nothing is left to be told, so it waits for whatever comes
    client.close()
    serving.asked.ask(Stop())
    serving.thread.join(LIMIT_S)
    assert not serving.thread.is_alive()


def test_a_stop_hangs_up_on_open_requests(serving: Serving) -> None:
    client = Client(serving.path)
    client.send(generate("x", LONG))
    answers = client.answers()
    assert isinstance(next(answers), Began)
    serving.asked.ask(Stop())
    assert not any(isinstance(answer, Ended) for answer in answers)
    client.close()


def test_it_does_not_start_where_it_cannot_listen(network: Any, tmp_path: Path) -> None:
    forget_earlier()
    errands: SimpleQueue[Errand] = SimpleQueue()
    server = Server(Desk(network), lambda rows: None, errands, path=tmp_path / "no" / "s", queue=1)
    with pytest.raises(OSError, match="No such file"):
        server.start()
    del server
    gc.collect()  # and leaves nothing open
