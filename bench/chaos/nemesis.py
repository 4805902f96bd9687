"""The faults: which, when and to whom is drawn from a seed; what it hit is counted."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from bench.chaos.client import Client, abort_upload
from bench.chaos.holds import Violation, until
from bench.chaos.world import Process, World

EX_TEMPFAIL = 75  # of a second daemon
STOP_S = 5.0  # a daemon's time to end after SIGTERM
BUSY = 4  # times as long as promised, on a machine where others are at work
FROZEN_S = 0.3
DELAY_S = 0.35  # before each fault, at most
STARTING = ("importing", "opening", "recovering", "recovering", "serving")
BOOT_S = 10.0  # in which a daemon comes to any of these
PHASE_S = 0.15  # from there to its end, at most
DEEDS = ("begin", "step", "saved", "saved", "stopped", "done")
REQUESTS = ("upload", "submit", "cancel", "pause", "resume", "delete")
MOMENT_S = 0.5
GLANCE_S = 0.003
DAY_S = 86400
TAIL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Fault:
    name: str
    weight: int
    strike: Callable[["Nemesis"], bool]  # whether there was anybody to hit


class Nemesis:
    """Strikes one world. What it did to shims says how much of a trainer's work may be lost."""

    def __init__(self, world: World, client: Client, chance: Random) -> None:
        self.world = world
        self.client = client
        self.faults: Counter[str] = Counter()
        self.points: Counter[str] = Counter()  # where the daemon was when it was killed
        self.shims_killed = False  # so that the last contents of a pipe may be lost
        self.shims_frozen = False  # so that much more may be in that pipe
        self.disk_filled = False
        self._chance = chance

    def strike(self) -> None:
        """One fault after a while, and the daemon up again behind it."""
        time.sleep(self._chance.uniform(0, DELAY_S))
        faults = [fault for fault in FAULTS if self.world.small or fault.name != "disk full"]
        fault = self._chance.choices(faults, [fault.weight for fault in faults])[0]
        if fault.strike(self):
            self.faults[fault.name] += 1
        if not self.world.alive:
            time.sleep(self._chance.choice((0.0, 0.0, 0.0, 0.2)))
            self.world.boot()

    # Who can be hit.

    def _some(self, *, shim: bool) -> Process | None:
        """A shim or a trainer, rather one that has a job."""
        found = [process for process in self.world.processes() if process.shim is shim]
        busy = [process for process in found if self._assigned(process)]
        return self._chance.choice(busy or found) if found else None

    @staticmethod
    def _assigned(process: Process) -> bool:
        return Path(f"/proc/{process.pid}/cwd/assigned.json").exists()

    # What happens to the daemon.

    def kill_daemon_at(self) -> bool:
        self._wait_for_moment()
        return self.kill_daemon()

    def kill_daemon(self) -> bool:
        if not self.world.alive:
            return False
        self.points[self.place()] += 1
        self.world.kill()
        return True

    def kill_while_starting(self) -> bool:
        """Once, twice or three times in a row, at any moment of its recovery."""
        self.kill_daemon()
        for _ in range(self._chance.randint(1, 3)):
            if not self.world.alive:
                self.world.boot()
            phase = self._chance.choice(STARTING)
            self._look_for(partial(self._has_come_to, phase), BOOT_S)
            time.sleep(self._chance.uniform(0, PHASE_S))
            self.kill_daemon()
        return True

    def terminate_daemon(self) -> bool:
        endpoint = self.world.endpoint
        if endpoint is None or not self.world.alive:
            return False  # one that starts has no handler yet, and ends by the signal itself
        daemon = self.world.daemon
        assert daemon is not None
        daemon.send_signal(signal.SIGTERM)
        daemon.send_signal(signal.SIGCONT)  # one that is frozen cannot obey
        until(
            lambda: daemon.poll() is not None, "an end after SIGTERM", self.world.log, STOP_S * BUSY
        )
        if daemon.returncode != 0:
            raise Violation(
                f"SIGTERM: status 0 is due, not {daemon.returncode}\n{self.world.log()}"
            )
        return True

    def kill_while_ending(self) -> bool:
        daemon = self.world.daemon
        if self.world.endpoint is None or not self.world.alive or daemon is None:
            return False
        daemon.send_signal(signal.SIGTERM)
        time.sleep(self._chance.uniform(0, PHASE_S))
        return self.kill_daemon()

    def freeze_daemon(self) -> bool:
        if not self.world.alive:
            return False
        daemon = self.world.daemon
        assert daemon is not None
        self._freeze(daemon.pid)
        return True

    def second_daemon(self) -> bool:
        """It must leave at once, and say who is there."""
        if self.world.endpoint is None:
            return False
        second = self.world.second()
        until(lambda: second.poll() is not None, "the second daemon leaves", self.world.log)
        if second.returncode != EX_TEMPFAIL:
            raise Violation(f"the second daemon ends with {second.returncode}, not {EX_TEMPFAIL}")
        return True

    # What happens to shims and trainers.

    def kill_trainer(self) -> bool:
        self._wait_for_moment()
        return self._signal(self._some(shim=False), signal.SIGKILL)

    def kill_shim(self) -> bool:
        self._wait_for_moment()
        self.shims_killed = True
        return self._signal(self._some(shim=True), signal.SIGKILL)

    def kill_shim_and_daemon(self) -> bool:
        self.kill_daemon()
        return self.kill_shim()

    def kill_everybody(self) -> bool:
        """As a power cut does it, but for the disk."""
        self.kill_daemon_at()
        self.shims_killed = True
        for process in self.world.processes():
            self.world.signal(process.pid, signal.SIGKILL)
        return True

    def freeze_trainer(self) -> bool:
        return self._freeze_one(self._some(shim=False))

    def freeze_shim(self) -> bool:
        self.shims_frozen = True
        return self._freeze_one(self._some(shim=True))

    def kill_frozen_shim(self) -> bool:
        self.shims_killed = self.shims_frozen = True
        shim = self._some(shim=True)
        return self._freeze_one(shim) and self._signal(shim, signal.SIGKILL)

    def reboot(self) -> bool:
        """SIGTERM to all shims, as when a machine shuts down, and a kill for the daemon."""
        found = [self._signal(p, signal.SIGTERM) for p in self.world.processes() if p.shim]
        self.kill_daemon()
        return bool(found)

    def _signal(self, process: Process | None, number: signal.Signals) -> bool:
        if process is None:
            return False
        self.world.signal(process.pid, number)
        return True

    def _freeze_one(self, process: Process | None) -> bool:
        if process is None:
            return False
        self._freeze(process.pid)
        return True

    def _freeze(self, pid: int) -> None:
        self.world.freeze(pid)
        time.sleep(self._chance.uniform(0, FROZEN_S))
        if self._chance.random() < 0.7:  # else it stays so until the faults are over
            self.world.signal(pid, signal.SIGCONT)

    # What happens to everything else.

    def abort_upload(self) -> bool:
        return abort_upload(self.world, self._chance)

    def kill_in_upload(self) -> bool:
        return abort_upload(self.world, self._chance, self.kill_daemon)

    def tear_spool(self) -> bool:
        """What a power cut leaves at the end of a dead shim's spool: half a frame, or zeros."""
        self.kill_daemon()
        self.shims_killed = True
        shim = self._some(shim=True)
        if shim is None:
            return False
        run = Path(f"/proc/{shim.pid}/cwd")
        spool = run.readlink() / "spool"
        self._signal(shim, signal.SIGKILL)
        until(lambda: not run.exists(), "the shim has ended")
        half = b"\x30\x00\x00\x00\x12\x34\x56\x78" + self._chance.randbytes(20)
        with spool.open("ab") as file:
            file.write(self._chance.choice((half[: self._chance.randint(1, 28)], bytes(64))))
        return True

    def fill_disk(self) -> bool:
        self.disk_filled = True
        with self.world.full():
            time.sleep(self._chance.uniform(0.1, 1.0))
            if self._chance.random() < 0.3:
                self.kill_daemon()
        return True

    def set_clock(self) -> bool:
        jump = self._chance.choice((-DAY_S, DAY_S, 400 * DAY_S, 0))
        self.world.clock.write_text(str(jump))
        return True

    # When it strikes.

    def _wait_for_moment(self) -> None:
        """Now, or when a trainer or the client does something that is drawn; not for long."""
        moments: list[Callable[[], bool]] = [lambda: True]
        deed, request = self._chance.choice(DEEDS), self._chance.choice(REQUESTS)
        moments += [lambda: self._trainer() == deed, lambda: self.client.doing == request]
        self._look_for(self._chance.choice(moments), MOMENT_S)

    def _has_come_to(self, phase: str) -> bool:
        return self.world.phase in (phase, "serving")

    @staticmethod
    def _look_for(moment: Callable[[], bool], limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while not moment() and time.monotonic() < deadline:
            time.sleep(GLANCE_S)

    # Where the daemon is.

    def place(self) -> str:
        """What it is about, by what can be seen from outside: its own phase, the client's request
        and the last thing that a trainer did."""
        return f"{self.world.phase}, {self.client.doing} asked, a trainer at {self._trainer()}"

    def _trainer(self) -> str:
        busy = any(self._assigned(process) for process in self.world.processes())
        if not busy or not self.world.witness.exists():
            return "rest"
        with self.world.witness.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            lines = file.read().splitlines()
        what: str = json.loads(lines[-1])["what"] if lines else "begin"
        return what


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
    Fault("spool torn", 1, Nemesis.tear_spool),
    Fault("clock set", 1, Nemesis.set_clock),
    Fault("disk full", 3, Nemesis.fill_disk),
)
