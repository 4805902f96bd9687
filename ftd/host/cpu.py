"""The processors as one device, and the memory that they share."""

import platform
import threading
from pathlib import Path

import psutil

from ftd.core.device import CPU, Device, Reading

# The kernel's drivers of the processor's own sensors: Intel, AMD (two of them), ARM boards.
SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")


def device() -> Device:
    """All processors of this host, under their model's name."""
    total_bytes, _ = memory()
    return Device(id=CPU, kind="cpu", name=_name(), memory_bytes=total_bytes)


def read(device: Device) -> Reading:
    """Utilization is the share since the last reading. No sensor that all may read knows power."""
    _, used_bytes = memory()
    return Reading(
        device=device,
        used_bytes=used_bytes,
        utilization=_meter.utilization(),
        temperature_celsius=_temperature(),
    )


def memory() -> tuple[int, int]:
    """(total, used) bytes of this host; what the kernel could free at once is not used."""
    host = psutil.virtual_memory()
    return host.total, host.total - host.available


def available() -> int:
    """Bytes of memory that programs can still get without swapping."""
    return psutil.virtual_memory().available


def _name() -> str:
    """The model as the kernel knows it; on ARM it knows the architecture alone."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def _temperature() -> float | None:
    """The hottest of the processor's own sensors."""
    chips = psutil.sensors_temperatures()
    for chip in SENSORS:
        if sensors := chips.get(chip):
            return max(sensor.current for sensor in sensors)
    return None


class _Meter:
    """How busy the processors were since the last look, whichever thread looked.

    psutil.cpu_percent remembers its last look per thread: from a pool it would answer 0.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle, self._total = _seconds()
        self._utilization: float | None = None

    def utilization(self) -> float | None:
        """0..1; None until the kernel's clock has ticked since the start."""
        with self._lock:
            idle, total = _seconds()
            if total > self._total:
                share = 1 - (idle - self._idle) / (total - self._total)
                self._utilization = min(1.0, max(0.0, share))  # iowait may run backwards: proc(5)
                self._idle, self._total = idle, total
            return self._utilization


def _seconds() -> tuple[float, float]:
    """(idle, total) of all processors since boot. A guest's time is in its host's user time."""
    times = psutil.cpu_times()
    return times.idle + times.iowait, sum(times) - times.guest - times.guest_nice


_meter = _Meter()
