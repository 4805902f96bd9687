"""What a job can be lent: a GPU or the CPU, and the slots that share it."""

from dataclasses import dataclass

CPU = "cpu"
SLACK_BYTES = 2**29  # of a GPU's memory that may be in use by nobody,
SLACK_SHARE = 50  # or this part of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One lendable device.

    id is a GPU's UUID, or "cpu". Tenants take slots of it: a GPU's trainer all of them, so that it
    is alone there; everybody else one.
    """

    id: str
    kind: str  # "cuda" or "cpu"
    name: str
    memory_bytes: int
    slots: int = 8

    @property
    def shared(self) -> bool:
        """Whether training and serving may live on it side by side."""
        return self.id == CPU

    @property
    def training_slots(self) -> range:
        """All that a trainer takes."""
        return range(1) if self.shared else range(self.slots)

    @property
    def serving_slots(self) -> range:
        """Of which an inference worker takes the lowest that is free."""
        return range(1, self.slots) if self.shared else range(self.slots)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A device as the sensors see it now; None where the sensor does not exist."""

    device: Device
    used_bytes: int | None = None
    utilization: float | None = None  # 0..1
    temperature_celsius: float | None = None
    power_watts: float | None = None
    owners: int | None = None  # processes that have memory of its own there
    withheld: str | None = None  # why it is lent to nobody for now
    holder: str | None = None  # the job that leases it
    serves: tuple[str, ...] = ()  # the models that answer from it


def stranded_bytes(reading: Reading, idle_bytes: int) -> int:
    """Memory in use on a device that nobody of ours has, and no other process either; 0 where it
    is too little to matter, or cannot be known.

    A driver keeps what a trainer took, after its end, when a kernel hangs or a process cannot die.
    `idle_bytes` were in use before anybody of ours came.
    """
    if reading.owners != 0 or reading.used_bytes is None:
        return 0
    held = reading.used_bytes - idle_bytes
    return held if held > max(SLACK_BYTES, reading.device.memory_bytes // SLACK_SHARE) else 0
