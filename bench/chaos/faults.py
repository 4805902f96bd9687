"""All faults by name and weight; which one strikes is drawn from the cycle's seed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from bench.chaos import disk
from bench.chaos.nemesis import Nemesis

DELAY_S = 0.35  # before each fault, at most


@dataclass(frozen=True, slots=True)
class Fault:
    name: str
    weight: int
    strike: Callable[[Nemesis], bool]  # whether there was anybody to hit
    small: bool = False  # of a disk that gets full alone


def strike(nemesis: Nemesis, faults: Sequence[Fault]) -> None:
    """One fault after a while, and the daemon up again behind it."""
    time.sleep(nemesis.chance.uniform(0, DELAY_S))
    here = [fault for fault in faults if nemesis.world.small or not fault.small]
    if not here:
        return
    fault = nemesis.chance.choices(here, [fault.weight for fault in here])[0]
    nemesis.tried[fault.name] += 1
    nemesis.faults[fault.name] += fault.strike(nemesis)
    if not nemesis.world.alive:
        time.sleep(nemesis.chance.choice((0.0, 0.0, 0.0, 0.2)))
        nemesis.world.boot()


def damaged(how: str, harm: disk.Harm) -> Fault:
    return Fault(f"checkpoint damaged: {how}", 1, partial(disk.damage, harm=harm))


FAULTS = (
    Fault("daemon killed", 9, Nemesis.kill_daemon_at),
    Fault("daemon killed while starting", 3, Nemesis.kill_while_starting),
    Fault("daemon asked to end", 2, Nemesis.terminate_daemon),
    Fault("daemon killed while ending", 2, Nemesis.kill_while_ending),
    Fault("daemon frozen", 2, Nemesis.freeze_daemon),
    Fault("second daemon", 1, Nemesis.second_daemon),
    Fault("trainer killed", 5, Nemesis.kill_trainer),
    Fault("trainer frozen", 2, Nemesis.freeze_trainer),
    Fault("shim killed", 4, Nemesis.kill_shim),
    Fault("shim frozen", 1, Nemesis.freeze_shim),
    Fault("frozen shim killed", 1, Nemesis.kill_frozen_shim),
    Fault("shim and daemon killed", 2, Nemesis.kill_shim_and_daemon),
    Fault("everybody killed", 2, Nemesis.kill_everybody),
    Fault("shims asked to end, daemon killed", 2, Nemesis.reboot),
    Fault("upload broken off", 2, Nemesis.abort_upload),
    Fault("daemon killed in an upload", 2, Nemesis.kill_in_upload),
    Fault("spool torn", 1, disk.tear_spool),
    Fault("clock set", 1, disk.set_clock),
    Fault("disk full", 3, disk.fill, small=True),
    damaged("a bit flipped", disk.flip_bit),
    damaged("cut short", disk.cut_short),
    damaged("no manifest", disk.lose_manifest),
    Fault("database gone at a start", 1, disk.remove_database),
    Fault("database taken away", 1, disk.take_database_away),
    Fault("older database put back", 2, disk.put_back_older_database),
)
