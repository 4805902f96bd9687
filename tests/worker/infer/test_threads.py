from collections.abc import Iterator

import pytest
import torch

from ftd.worker.infer.threads import FIRST_S, LAST_S, Threads


class Machine:
    """Passes of 0.1 s on a machine that has `free` cores for us."""

    def __init__(self, most: int, free: float) -> None:
        self.threads = Threads(most)
        self.free = free
        self.now_s = 100.0
        self.counts: list[int] = []

    def work(self, seconds: float) -> None:
        until = self.now_s + seconds
        while self.now_s < until:
            self.now_s += 0.1
            count = self.threads.count
            self.counts.append(count)
            self.threads.learn(self.now_s, 0.1, 0.1 * min(self.free, count))


def test_alone_all_threads_compute() -> None:
    machine = Machine(most=4, free=4)
    machine.work(100)
    assert set(machine.counts) == {4}


def test_beside_a_trainer_there_are_fewer() -> None:
    machine = Machine(most=4, free=1)
    machine.work(1)
    assert machine.counts[:3] == [4, 2, 1]
    machine.work(600)
    late = machine.counts[len(machine.counts) // 2 :]
    assert late.count(1) / len(late) > 0.98, "trials that fail become rare"
    assert max(late) > 1, "and never end"


def test_there_are_as_many_as_find_cores() -> None:
    machine = Machine(most=8, free=4)
    machine.work(600)
    late = machine.counts[len(machine.counts) // 2 :]
    assert late.count(4) / len(late) > 0.98


def test_when_training_has_ended_all_compute_again() -> None:
    machine = Machine(most=2, free=1)
    machine.work(300)
    machine.free = 2
    machine.work(LAST_S + 1)
    assert machine.threads.count == 2


def test_after_a_pause_more_are_tried_at_once() -> None:
    machine = Machine(most=2, free=1)
    machine.work(300)
    machine.free = 2
    machine.now_s += 1000
    machine.work(0.2)
    assert machine.threads.count == 2


def test_a_hiccup_costs_little() -> None:
    machine = Machine(most=2, free=2)
    machine.work(1)
    machine.free = 0.5
    machine.work(0.1)
    assert machine.threads.count == 1
    machine.free = 2
    machine.work(FIRST_S + 0.3)
    assert machine.threads.count == 2
    machine.work(10)
    machine.free = 0.5
    machine.work(0.1)
    machine.free = 2
    machine.work(FIRST_S + 0.3)
    assert machine.threads.count == 2, "long ago is forgotten"


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_torch_is_told(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 0.1])
    monkeypatch.setattr("time.process_time", lambda: next(times))
    stamps = iter([5.0, 6.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(stamps))
    assert Threads(2).run(torch.get_num_threads) == 2
    assert torch.get_num_threads() == 1
