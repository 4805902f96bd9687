"""What a job can be lent: a GPU or the CPU, and the slots that share it."""

from dataclasses import dataclass

CPU = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One lendable device.

    id is a GPU's UUID, or "cpu". An exclusive tenant takes every one of its `slots`.
    """

    id: str
    kind: str  # "cuda" or "cpu"
    name: str
    memory_bytes: int
    slots: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A device as the sensors see it now; None where the sensor does not exist."""

    device: Device
    used_bytes: int | None = None
    utilization: float | None = None  # 0..1
    temperature_celsius: float | None = None
    power_watts: float | None = None
    holder: str | None = None  # the job that leases it
