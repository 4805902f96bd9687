"""Faults of processes: kills, freezes and ends at moments that are drawn from a seed."""

import json
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

from bench.chaos.client import Client, abort_upload
from bench.chaos.holds import Violation, until
from bench.chaos.ledger import Upload
from bench.chaos.witness import last_deed
from bench.chaos.world import Process, World

EX_TEMPFAIL = 75  # of a second daemon
STOP_S = 5.0  # a daemon's time to end after SIGTERM
BUSY = 4  # times as long as promised, on a machine where others are at work
FROZEN_S = 0.3
STARTING = ("importing", "opening", "recovering", "recovering", "serving")
BOOT_S = 10.0  # in which a daemon comes to any of these
PHASE_S = 0.15  # from there to its end, at most
DEEDS = ("begin", "step", "saved", "saved", "stopped", "done")
REQUESTS = ("upload", "submit", "cancel", "pause", "resume", "delete")
MOMENT_S = 0.5
GLANCE_S = 0.003


class Nemesis:
    """Strikes one world. What it did to shims says how much of a trainer's work may be lost."""

    def __init__(self, world: World, client: Client, chance: Random) -> None:
        self.world = world
        self.client = client
        self.chance = chance
        self.tried: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()  # of those tried, that met somebody
        self.points: Counter[str] = Counter()  # where the daemon was when it was killed
        self.shims_killed = False  # so that the last contents of a pipe may be lost
        self.shims_frozen = False  # so that much more may be in that pipe
        self.lost: list[Upload] = []  # of which no row knows, since an older database is there

    # Who can be hit.

    def some(self, *, shim: bool) -> Process | None:
        """A shim or a trainer, rather one that has a job."""
        found = [process for process in self.world.processes() if process.shim is shim]
        busy = [process for process in found if self.assigned(process)]
        return self.chance.choice(busy or found) if found else None

    @staticmethod
    def assigned(process: Process) -> bool:
        return Path(f"/proc/{process.pid}/cwd/assigned.json").exists()

    @staticmethod
    def job_in(run: Path) -> str | None:
        """The job of a run directory, if it has one."""
        try:
            job: str = json.loads((run / "assigned.json").read_bytes())["job"]
        except OSError:
            return None
        return job

    # What happens to the daemon.

    def kill_daemon_at(self) -> bool:
        self.wait_for_moment()
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
        for _ in range(self.chance.randint(1, 3)):
            if not self.world.alive:
                self.world.boot()
            phase = self.chance.choice(STARTING)
            self.look_for(partial(self._has_come_to, phase), BOOT_S)
            time.sleep(self.chance.uniform(0, PHASE_S))
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
        time.sleep(self.chance.uniform(0, PHASE_S))
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
        self.world.start_in_vain(EX_TEMPFAIL, "there is a daemon on this home")
        return True

    # What happens to shims and trainers.

    def kill_trainer(self) -> bool:
        self.wait_for_moment()
        return self.signal(self.some(shim=False), signal.SIGKILL)

    def kill_shim(self) -> bool:
        self.wait_for_moment()
        self.shims_killed = True
        return self.signal(self.some(shim=True), signal.SIGKILL)

    def kill_shim_and_daemon(self) -> bool:
        self.kill_daemon()
        return self.kill_shim()

    def kill_everybody(self) -> bool:
        """As a power cut does it, but for the disk."""
        killed = self.kill_daemon_at()
        self.shims_killed = True
        found = self.world.processes()
        for process in found:
            self.world.signal(process.pid, signal.SIGKILL)
        return killed or bool(found)

    def freeze_trainer(self) -> bool:
        return self._freeze_one(self.some(shim=False))

    def freeze_shim(self) -> bool:
        self.shims_frozen = True
        return self._freeze_one(self.some(shim=True))

    def kill_frozen_shim(self) -> bool:
        self.shims_killed = self.shims_frozen = True
        shim = self.some(shim=True)
        return self._freeze_one(shim) and self.signal(shim, signal.SIGKILL)

    def reboot(self) -> bool:
        """SIGTERM to all shims, as when a machine shuts down, and a kill for the daemon."""
        found = [self.signal(p, signal.SIGTERM) for p in self.world.processes() if p.shim]
        self.kill_daemon()
        return bool(found)

    def signal(self, process: Process | None, number: signal.Signals) -> bool:
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
        time.sleep(self.chance.uniform(0, FROZEN_S))
        if self.chance.random() < 0.7:  # else it stays so until the faults are over
            self.world.signal(pid, signal.SIGCONT)

    # What happens to everything else.

    def abort_upload(self) -> bool:
        return abort_upload(self.world, self.chance)

    def kill_in_upload(self) -> bool:
        return abort_upload(self.world, self.chance, self.kill_daemon)

    # When it strikes.

    def wait_for_moment(self) -> None:
        """Now, or when a trainer or the client does something that is drawn; not for long."""
        moments: list[Callable[[], bool]] = [lambda: True]
        deed, request = self.chance.choice(DEEDS), self.chance.choice(REQUESTS)
        moments += [lambda: self._trainer() == deed, lambda: self.client.doing == request]
        self.look_for(self.chance.choice(moments), MOMENT_S)

    def _has_come_to(self, phase: str) -> bool:
        return self.world.phase in (phase, "serving")

    @staticmethod
    def look_for(moment: Callable[[], bool], limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while not moment() and time.monotonic() < deadline:
            time.sleep(GLANCE_S)

    # Where the daemon is.

    def place(self) -> str:
        """What it is about, by what can be seen from outside: its own phase, the client's request
        and the last thing that a trainer did."""
        return f"{self.world.phase}, {self.client.doing} asked, a trainer at {self._trainer()}"

    def _trainer(self) -> str:
        busy = any(self.assigned(process) for process in self.world.processes())
        if not busy or not self.world.witness.exists():
            return "rest"
        return last_deed(self.world.witness)
