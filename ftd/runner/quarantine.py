"""GPUs that have not given back the memory of a run: they are lent to nobody until they do.

A job that is put on such a card fails for want of memory, and the next one after it. The others go
on meanwhile.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence

from ftd.core.device import Device, Reading, stranded_bytes

log = logging.getLogger(__name__)

# Reads the sensors of these devices; blocks for about a millisecond each.
Sensors = Callable[[Sequence[Device]], tuple[Reading, ...]]


class Quarantine:
    """Looks at each GPU when its tenant has gone, and again until it is as it was before."""

    def __init__(self, devices: Collection[Device], sensors: Sensors) -> None:
        self._sensors = sensors
        self._unseen = {device.id: device for device in devices if not device.shared}
        self._gpus = dict(self._unseen)
        self._idle_bytes: dict[str, int] = {}  # in use while nobody of ours was there, at the least
        self._withheld: dict[str, str] = {}

    @property
    def withheld(self) -> Mapping[str, str]:
        """The devices that are lent to nobody, and why."""
        return self._withheld

    async def look(self, tenants: Collection[str]) -> Mapping[str, str]:
        """Read those that somebody of ours has left, now that `tenants` have theirs."""
        self._unseen |= {id_: gpu for id_, gpu in self._gpus.items() if id_ in tenants}
        left = [gpu for id_, gpu in self._unseen.items() if id_ not in tenants]
        if left:
            for reading in await asyncio.to_thread(self._sensors, left):
                self._judge(reading)
        return self._withheld

    def _judge(self, reading: Reading) -> None:
        id_, used = reading.device.id, reading.used_bytes
        stranded = stranded_bytes(reading, self._idle_bytes.get(id_, used or 0))
        if stranded:
            if id_ not in self._withheld:
                log.warning("a GPU keeps memory", extra={"device": id_, "bytes": stranded})
            self._withheld[id_] = (
                f"{stranded / 2**30:.1f} GiB of its memory are in use and belong to no process"
            )
            return
        if self._withheld.pop(id_, None) is not None:
            log.info("a GPU has given back its memory", extra={"device": id_})
        del self._unseen[id_]
        if used is not None:
            self._idle_bytes[id_] = min(used, self._idle_bytes.get(id_, used))
