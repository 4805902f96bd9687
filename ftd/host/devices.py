"""The devices of this host: which of them can be lent, and what their sensors say now."""

from collections.abc import Sequence

from ftd.config import Devices
from ftd.core.device import CPU, Device, Reading
from ftd.host import cpu


def discover(settings: Devices) -> tuple[Device, ...]:
    """Every NVIDIA GPU that is not excluded, in the driver's order; where there is none, the CPU.

    A driver that is missing (logged at info) or broken (a warning) is the CPU too.
    """
    if settings.use == "cpu":
        return (cpu.device(),)
    from ftd.host import nvidia

    return nvidia.devices(settings.exclude) or (cpu.device(),)


def read(devices: Sequence[Device]) -> tuple[Reading, ...]:
    """What the sensors of these devices, as `discover` gave them, say now; for any thread.

    Blocks for about a millisecond a device. A sensor that does not exist, or fails, reads None.
    """
    return tuple(_read(device) for device in devices)


def _read(device: Device) -> Reading:
    if device.id == CPU:
        return cpu.read(device)
    from ftd.host import nvidia

    return nvidia.read(device)
