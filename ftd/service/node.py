"""The workstation itself: its devices and its numbers."""

import asyncio
import shutil
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from types import MappingProxyType

from ftd.core.device import Device, Reading
from ftd.core.job import State
from ftd.core.keys import Scope
from ftd.core.models import is_base_name
from ftd.host.home import Home
from ftd.metrics import Metrics
from ftd.service.actor import HOST, Actor
from ftd.service.veil import JOB, MODEL
from ftd.store import attempts, jobs, models, servers
from ftd.store.store import Store

# Reads the sensors of these devices; blocking, a few milliseconds.
Sensors = Callable[[Sequence[Device]], tuple[Reading, ...]]


class Node:
    """Devices and metrics."""

    def __init__(
        self,
        store: Store,
        home: Home,
        metrics: Metrics,
        devices: tuple[Device, ...],
        sensors: Sensors,
        withheld: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`withheld` says at any time which devices are lent to nobody, and why."""
        self._store = store
        self._home = home
        self._metrics = metrics
        self._devices = devices
        self._sensors = sensors
        self._withheld = withheld
        self._ready = False

    def ready(self) -> bool:
        """Whether the daemon serves."""
        return self._ready

    def set_ready(self, ready: bool) -> None:
        self._ready = ready

    async def devices(self, actor: Actor) -> tuple[Reading, ...]:
        """Every lendable device as its sensors see it now, and who leases it.

        Of another project's job or model only that it is there, unless the actor may administer.
        """
        readings = await asyncio.to_thread(self._sensors, self._devices)
        holders = await attempts.holders(self._store.db)
        live = await servers.live(self._store.db)
        seen = tuple(
            replace(
                reading,
                withheld=self._withheld.get(reading.device.id),
                holder=holders.get(reading.device.id),
                serves=tuple(row.weights for row in live if row.device == reading.device.id),
            )
            for reading in readings
        )
        if Scope.ADMIN in actor.scopes:
            return seen
        own = await jobs.open_ids(self._store.db, actor.project)
        own |= {model.name for model in await models.visible(self._store.db, actor.project)}
        return tuple(_veiled(reading, own) for reading in seen)

    async def metrics(self, actor: Actor) -> bytes:
        """The Prometheus text, with the gauges that are true at this moment; of each job's own
        gauges those that the actor may see."""
        metrics = self._metrics
        queue = metrics.queue
        queue.totals.rows = await jobs.counts(self._store.db)
        for state in State:
            count = sum(n for _, found, n in queue.totals.rows if found == state)
            queue.jobs.labels(state).set(count)
        oldest = await jobs.oldest_queued(self._store.db)
        now = self._store.clock.now()
        queue.oldest.set(0 if oldest is None else max(0, now - oldest))
        for reading in await self.devices(HOST):
            self._show(reading)
        metrics.store.free.set(shutil.disk_usage(self._home.root).free)
        for path in (self._home.database, self._home.database.with_name("ftd.db-wal")):
            if path.exists():
                metrics.store.database_size.labels(path.name).set(path.stat().st_size)
        if Scope.ADMIN in actor.scopes:
            return metrics.render()
        return metrics.render(await jobs.open_ids(self._store.db, actor.project))

    def _show(self, reading: Reading) -> None:
        metrics, device = self._metrics.devices, reading.device
        metrics.info.labels(device.id, device.kind, device.name).set(1)
        lent = reading.holder is not None or bool(reading.serves)
        metrics.allocated.labels(device.id).set(lent)
        metrics.withheld.labels(device.id).set(reading.withheld is not None)
        metrics.total.labels(device.id).set(device.memory_bytes)
        for gauge, value in (
            (metrics.used, reading.used_bytes),
            (metrics.utilization, reading.utilization),
            (metrics.temperature, reading.temperature_celsius),
            (metrics.power, reading.power_watts),
        ):
            if value is not None:
                gauge.labels(device.id).set(value)


def _veiled(reading: Reading, own: AbstractSet[str]) -> Reading:
    """A device as somebody sees it whose jobs and models are `own`: those of others have no name,
    but a base model is everybody's."""
    if reading.holder is not None and reading.holder not in own:
        reading = replace(reading, holder=None, withheld=reading.withheld or f"{JOB} has it")
    serves = (name if name in own or is_base_name(name) else MODEL for name in reading.serves)
    return replace(reading, serves=tuple(serves))
