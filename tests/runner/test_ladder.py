"""The rungs of a stop, and when each is due; tests/runner/test_pausing.py stops real processes."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from ftd.config import Stopping
from ftd.core.wire import Command, Stop
from ftd.launch.base import Gone
from ftd.runner.ladder import Ladder

LIMITS = Stopping(ask_s=10, save_s=100, term_s=5)


@dataclass
class Line:
    """A channel that notes what is sent."""

    sent: list[object] = field(default_factory=list)
    gone: bool = False
    stalled: bool = False

    async def changed(self, timeout_s: float) -> bool:
        raise AssertionError("a ladder listens to nobody")

    async def command(self, command: Command) -> None:
        self._send(command)

    async def signal(self, name: str) -> None:
        self._send(name)

    async def end(self) -> None:
        raise AssertionError("a ladder leaves the shim alone")

    async def close(self) -> None:
        raise AssertionError("the runner closes it")

    def _send(self, what: object) -> None:
        if self.gone:
            raise Gone("its shim has gone")
        self.sent.append(what)


async def pressed(ladder: Ladder, times: Iterable[float]) -> list[object]:
    line = Line()
    for now in times:
        await ladder.press(line, now)
    return line.sent


async def test_nobody_is_stopped_unasked() -> None:
    assert await pressed(Ladder(LIMITS), range(1000)) == []


async def test_each_rung_has_its_time() -> None:
    ladder = Ladder(LIMITS)
    assert ladder.ask(7, save=False)
    assert await pressed(ladder, (7, 16.9)) == [Stop(save=False)]
    assert await pressed(ladder, (17, 21.9)) == ["TERM"]
    assert await pressed(ladder, (22, 1000)) == ["KILL"]


async def test_a_checkpoint_has_more_time() -> None:
    ladder = Ladder(LIMITS)
    ladder.ask(0, save=True)
    assert await pressed(ladder, (0, 99.9)) == [Stop(save=True)]
    assert await pressed(ladder, (100, 104.9, 105)) == ["TERM", "KILL"]


async def test_asking_again_gives_no_more_time() -> None:
    ladder = Ladder(LIMITS)
    ladder.ask(0, save=False)
    await pressed(ladder, (0,))
    assert not ladder.ask(9, save=False)
    assert not ladder.ask(9, save=True), "it was told to save nothing"
    assert await pressed(ladder, (10,)) == ["TERM"]


async def test_who_wants_no_checkpoint_does_not_wait_for_one() -> None:
    ladder = Ladder(LIMITS)
    ladder.ask(0, save=True)
    await pressed(ladder, (0, 50))
    assert ladder.ask(50, save=False)
    assert await pressed(ladder, (50, 60, 65)) == [Stop(save=False), "TERM", "KILL"]


async def test_every_rung_is_tried_though_all_of_them_are_due() -> None:
    """The daemon was asleep: the trainer is still asked first."""
    ladder = Ladder(LIMITS)
    ladder.ask(0, save=True)
    assert await pressed(ladder, (1000, 1000, 1000, 1000)) == [Stop(save=True), "TERM", "KILL"]


async def test_nonsense_is_not_asked() -> None:
    ladder = Ladder(LIMITS)
    ladder.kill()
    assert await pressed(ladder, (0, 1000)) == ["KILL"]


async def test_what_was_not_sent_is_sent_on_the_next_line() -> None:
    ladder = Ladder(LIMITS)
    ladder.ask(0, save=True)
    with pytest.raises(Gone):
        await ladder.press(Line(gone=True), 0)
    assert await pressed(ladder, (1,)) == [Stop(save=True)]
