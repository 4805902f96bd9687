"""NVIDIA's GPUs, asked through NVML: no CUDA context is made, no GPU memory taken.

NVML is opened once and stays open, which keeps the driver loaded between jobs and makes a reading
cheap. Not covered: the instances of a GPU in MIG mode; such a GPU is one device.
"""

import functools
import logging
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import pynvml

from ftd.core.device import Device, Reading
from ftd.host import cpu

log = logging.getLogger(__name__)

_T = TypeVar("_T")


def devices(exclude: Collection[str]) -> tuple[Device, ...]:
    """Every GPU whose UUID is not excluded, in the driver's order.

    A GPU that does not answer is left out, and with a broken driver there are none; both are
    warnings. A host that has no driver is nothing to warn about.
    """
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as error:
        usual = error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND  # a host without a driver
        level = logging.INFO if usual else logging.WARNING
        log.log(level, "no NVIDIA GPU can be used", extra={"nvml": str(error)})
        return ()
    found = tuple(gpu for index in range(count) if (gpu := _device(index)) is not None)
    for uuid in sorted(set(exclude) - {gpu.id for gpu in found}):
        log.warning("an excluded GPU is not in this host", extra={"device": uuid})
    return tuple(gpu for gpu in found if gpu.id not in exclude)


def read(device: Device) -> Reading:
    """A sensor that does not exist, or fails, reads None; a failure is logged the first time."""
    handle = _ask(device, pynvml.nvmlDeviceGetHandleByUUID, device.id)
    if handle is None:
        return Reading(device=device)
    memory = _ask(device, _memory, handle)
    rates = _ask(device, pynvml.nvmlDeviceGetUtilizationRates, handle)
    celsius = _ask(device, pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
    milliwatts = _ask(device, pynvml.nvmlDeviceGetPowerUsage, handle)
    return Reading(
        device=device,
        used_bytes=None if memory is None else memory[1],
        utilization=None if rates is None else rates.gpu / 100,
        temperature_celsius=celsius,
        power_watts=None if milliwatts is None else milliwatts / 1000,
        owners=_ask(device, _owners, handle),
    )


def _device(index: int) -> Device | None:
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        total_bytes, _ = _memory(handle)
        return Device(
            id=pynvml.nvmlDeviceGetUUID(handle),
            kind="cuda",
            name=pynvml.nvmlDeviceGetName(handle),
            memory_bytes=total_bytes,
        )
    except pynvml.NVMLError as error:
        log.warning("a GPU is left out", extra={"index": index, "nvml": str(error)})
        return None


def _memory(handle: Any) -> tuple[int, int]:
    """(total, used) bytes. A GPU without memory of its own, such as GB10's, has the host's."""
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError_NotSupported:
        return cpu.memory()
    return memory.total, memory.used


def _owners(handle: Any) -> int:
    """How many processes use it, to compute or to show something. A GPU that has the host's memory
    is not asked: what is in use there says nothing about the GPU."""
    pynvml.nvmlDeviceGetMemoryInfo(handle)
    compute = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    return len(compute) + len(pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle))


def _ask(device: Device, question: Callable[..., _T], *arguments: object) -> _T | None:
    try:
        return question(*arguments)
    except pynvml.NVMLError_NotSupported:
        return None
    except pynvml.NVMLError as error:
        _complain(device.id, question.__name__, str(error))
        return None


@functools.cache
def _complain(device: str, question: str, answer: str) -> None:
    """Log a failure once: devices are read every few seconds, for months."""
    log.warning("a sensor fails", extra={"device": device, "question": question, "nvml": answer})
