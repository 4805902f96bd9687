"""The CPU is this machine's own; GPUs are a fake C library below the real pynvml."""

import ctypes
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import psutil
import pynvml
import pytest

from ftd.config import Devices
from ftd.core.device import CPU, Device, Reading
from ftd.host import cpu, devices, nvidia

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Card:
    """A GPU; `faults` maps a C function to the code that it returns for this card."""

    uuid: str
    name: str = "NVIDIA H100 80GB HBM3"
    total: int = 80 * GIB
    used: int = 3 * GIB
    percent: int = 42
    celsius: int = 61
    milliwatts: int = 312_500
    processes: tuple[int, int] = (0, 0)  # that compute, and that show something
    faults: dict[str, int] = field(default_factory=dict)


class Driver:
    """libnvidia-ml.so.1, as far as we call it, on cards that the test describes."""

    def __init__(self, *cards: Card, init: int = pynvml.NVML_SUCCESS) -> None:
        self.cards = list(cards)
        self._init = init
        self._handles = [pynvml.struct_c_nvmlDevice_t() for _ in cards]

    def nvmlInitWithFlags(self, flags: int) -> int:  # noqa: N802
        return self._init

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self.cards)
        return pynvml.NVML_SUCCESS

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:  # noqa: N802
        return self._give_handle("nvmlDeviceGetHandleByIndex_v2", index.value, handle)

    def nvmlDeviceGetHandleByUUID(self, uuid: Any, handle: Any) -> int:  # noqa: N802
        known = [card.uuid for card in self.cards]
        if uuid.value.decode() not in known:
            return pynvml.NVML_ERROR_NOT_FOUND
        return self._give_handle(
            "nvmlDeviceGetHandleByUUID", known.index(uuid.value.decode()), handle
        )

    def __getattr__(self, name: str) -> Callable[..., int]:
        """The functions that ask one card for one fact."""
        answer: Callable[[Card, Any], int | None] = getattr(Answers, name)

        def function(handle: Any, *out: Any) -> int:
            card = self._card(handle)
            if code := card.faults.get(name):
                return code
            return answer(card, *out) or pynvml.NVML_SUCCESS

        return function

    def _give_handle(self, function: str, index: int, handle: Any) -> int:
        if code := self.cards[index].faults.get(function):
            return code
        handle._obj.contents = self._handles[index]
        return pynvml.NVML_SUCCESS

    def _card(self, handle: Any) -> Card:
        addresses = [ctypes.addressof(known) for known in self._handles]
        return self.cards[addresses.index(ctypes.addressof(handle.contents))]


class Answers:
    """What a healthy card writes into the caller's memory."""

    @staticmethod
    def nvmlDeviceGetUUID(card: Card, buffer: Any, size: Any) -> None:  # noqa: N802
        buffer.value = card.uuid.encode()

    @staticmethod
    def nvmlDeviceGetName(card: Card, buffer: Any, size: Any) -> None:  # noqa: N802
        buffer.value = card.name.encode()

    @staticmethod
    def nvmlDeviceGetMemoryInfo(card: Card, memory: Any) -> None:  # noqa: N802
        memory._obj.total, memory._obj.used = card.total, card.used

    @staticmethod
    def nvmlDeviceGetUtilizationRates(card: Card, rates: Any) -> None:  # noqa: N802
        rates._obj.gpu = card.percent

    @staticmethod
    def nvmlDeviceGetTemperature(card: Card, sensor: Any, celsius: Any) -> None:  # noqa: N802
        assert sensor.value == pynvml.NVML_TEMPERATURE_GPU
        celsius._obj.value = card.celsius

    @staticmethod
    def nvmlDeviceGetComputeRunningProcesses_v3(  # noqa: N802
        card: Card, count: Any, processes: Any
    ) -> int:
        return Answers._list(card.processes[0], count, processes)

    @staticmethod
    def nvmlDeviceGetGraphicsRunningProcesses_v3(  # noqa: N802
        card: Card, count: Any, processes: Any
    ) -> int:
        return Answers._list(card.processes[1], count, processes)

    @staticmethod
    def _list(known: int, count: Any, processes: Any) -> int:
        """As NVML does: so many as fit, and how many there are."""
        room, count._obj.value = count._obj.value, known
        for index in range(min(known, room)):
            processes[index].pid = 100 + index
        return int(pynvml.NVML_SUCCESS if known <= room else pynvml.NVML_ERROR_INSUFFICIENT_SIZE)

    @staticmethod
    def nvmlDeviceGetPowerUsage(card: Card, milliwatts: Any) -> None:  # noqa: N802
        milliwatts._obj.value = card.milliwatts


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[Driver], Driver]:
    """Put a driver below pynvml for the length of a test."""

    def put(driver: Driver) -> Driver:
        monkeypatch.setattr(pynvml, "nvmlLib", driver)
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        nvidia._complain.cache_clear()
        return driver

    return put


def test_the_cpu_is_one_device_with_the_hosts_memory() -> None:
    (device,) = devices.discover(Devices(use="cpu"))
    assert (device.id, device.kind) == (CPU, "cpu")
    assert device.memory_bytes == psutil.virtual_memory().total
    assert device.name.isprintable()
    assert device.name.strip()


def test_what_is_available_is_some_of_the_hosts_memory() -> None:
    assert 0 < cpu.available() < cpu.device().memory_bytes


def test_the_cpu_says_how_busy_it_is() -> None:
    (device,) = devices.discover(Devices(use="cpu"))
    deadline = time.monotonic() + 10
    devices.read((device,))
    busy_until = time.monotonic() + 0.1
    while time.monotonic() < busy_until:
        pass
    (reading,) = devices.read((device,))
    while not reading.utilization and time.monotonic() < deadline:
        (reading,) = devices.read((device,))
    assert reading.device == device
    assert reading.utilization is not None
    assert 0 < reading.utilization <= 1
    assert reading.used_bytes is not None
    assert 0 < reading.used_bytes < device.memory_bytes
    assert reading.power_watts is None


def test_two_looks_within_one_tick_of_the_clock_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([(10.0, 20.0), (11.0, 24.0), (11.0, 24.0), (10.5, 25.0)])
    monkeypatch.setattr(cpu, "_seconds", lambda: next(seconds))
    meter = cpu._Meter()
    assert meter.utilization() == 0.75
    assert meter.utilization() == 0.75
    assert meter.utilization() == 1.0  # iowait ran backwards


def test_the_hottest_sensor_of_the_processor_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def sensor(celsius: float) -> psutil._ntuples.shwtemp:
        return psutil._ntuples.shwtemp("", celsius, None, None)

    chips = {"nvme": [sensor(90.0)], "coretemp": [sensor(55.0), sensor(58.0)]}
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: chips)
    (reading,) = devices.read((cpu.device(),))
    assert reading.temperature_celsius == 58.0


def test_gpus_come_in_the_drivers_order(install: Callable[[Driver], Driver]) -> None:
    install(Driver(Card(uuid="GPU-b"), Card(uuid="GPU-a", name="NVIDIA L4", total=24 * GIB)))
    assert devices.discover(Devices()) == (
        Device(id="GPU-b", kind="cuda", name="NVIDIA H100 80GB HBM3", memory_bytes=80 * GIB),
        Device(id="GPU-a", kind="cuda", name="NVIDIA L4", memory_bytes=24 * GIB),
    )


def test_the_configuration_may_ask_for_the_cpu(install: Callable[[Driver], Driver]) -> None:
    install(Driver(Card(uuid="GPU-a")))
    assert [device.id for device in devices.discover(Devices(use="cpu"))] == [CPU]


def test_an_excluded_gpu_is_not_lent(
    install: Callable[[Driver], Driver], caplog: pytest.LogCaptureFixture
) -> None:
    install(Driver(Card(uuid="GPU-a"), Card(uuid="GPU-b")))
    found = devices.discover(Devices(exclude=("GPU-a", "GPU-typo")))
    assert [device.id for device in found] == ["GPU-b"]
    assert _warnings(caplog) == [("an excluded GPU is not in this host", "GPU-typo")]


def test_with_every_gpu_excluded_the_cpu_is_lent(install: Callable[[Driver], Driver]) -> None:
    install(Driver(Card(uuid="GPU-a")))
    assert [device.id for device in devices.discover(Devices(exclude=("GPU-a",)))] == [CPU]


def test_a_lost_gpu_is_left_out(
    install: Callable[[Driver], Driver], caplog: pytest.LogCaptureFixture
) -> None:
    lost = {"nvmlDeviceGetHandleByIndex_v2": pynvml.NVML_ERROR_GPU_IS_LOST}
    install(Driver(Card(uuid="GPU-a", faults=lost), Card(uuid="GPU-b")))
    assert [device.id for device in devices.discover(Devices())] == ["GPU-b"]
    assert [record.__dict__["nvml"] for record in caplog.records] == ["GPU is lost"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "Driver Not Loaded"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "version mismatch"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "Insufficient Permissions"),
    ],
)
def test_a_broken_driver_is_a_warning_and_the_cpu(
    code: int,
    words: str,
    install: Callable[[Driver], Driver],
    caplog: pytest.LogCaptureFixture,
) -> None:
    install(Driver(Card(uuid="GPU-a"), init=code))
    assert [device.id for device in devices.discover(Devices())] == [CPU]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert words in record.__dict__["nvml"]


def test_no_driver_at_all_is_the_cpu_and_nothing_to_warn_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_library(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", no_library)
    assert [device.id for device in devices.discover(Devices())] == [CPU]
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert record.__dict__["nvml"] == "NVML Shared Library Not Found"


def test_sensors_are_read_in_the_units_that_they_promise(
    install: Callable[[Driver], Driver],
) -> None:
    other = Card(uuid="GPU-b", used=7 * GIB, percent=100, processes=(2, 1))
    install(Driver(Card(uuid="GPU-a"), other))
    found = devices.discover(Devices())
    assert devices.read(found) == (
        Reading(
            device=found[0],
            used_bytes=3 * GIB,
            utilization=0.42,
            temperature_celsius=61,
            power_watts=312.5,
            owners=0,
        ),
        Reading(
            device=found[1],
            used_bytes=7 * GIB,
            utilization=1.0,
            temperature_celsius=61,
            power_watts=312.5,
            owners=3,
        ),
    )


def test_a_sensor_that_does_not_exist_reads_none_without_a_word(
    install: Callable[[Driver], Driver], caplog: pytest.LogCaptureFixture
) -> None:
    missing = {
        "nvmlDeviceGetPowerUsage": pynvml.NVML_ERROR_NOT_SUPPORTED,
        "nvmlDeviceGetUtilizationRates": pynvml.NVML_ERROR_NOT_SUPPORTED,
    }
    install(Driver(Card(uuid="GPU-a", faults=missing)))
    (reading,) = devices.read(devices.discover(Devices()))
    assert (reading.power_watts, reading.utilization) == (None, None)
    assert reading.temperature_celsius == 61
    assert caplog.records == []


def test_a_failing_sensor_reads_none_and_is_logged_once(
    install: Callable[[Driver], Driver], caplog: pytest.LogCaptureFixture
) -> None:
    driver = install(Driver(Card(uuid="GPU-a")))
    found = devices.discover(Devices())
    driver.cards[0] = replace(
        driver.cards[0], faults={"nvmlDeviceGetTemperature": pynvml.NVML_ERROR_UNKNOWN}
    )
    for _ in range(3):
        (reading,) = devices.read(found)
        assert reading.temperature_celsius is None
        assert reading.power_watts == 312.5
    assert _warnings(caplog) == [("a sensor fails", "GPU-a")]


def test_a_gpu_that_is_gone_reads_nothing(
    install: Callable[[Driver], Driver], caplog: pytest.LogCaptureFixture
) -> None:
    driver = install(Driver(Card(uuid="GPU-a")))
    found = devices.discover(Devices())
    driver.cards.clear()
    assert devices.read(found) == (Reading(device=found[0]),)
    assert _warnings(caplog) == [("a sensor fails", "GPU-a")]


def test_a_gpu_without_memory_of_its_own_has_the_hosts(
    install: Callable[[Driver], Driver],
) -> None:
    unified = {"nvmlDeviceGetMemoryInfo": pynvml.NVML_ERROR_NOT_SUPPORTED}
    install(Driver(Card(uuid="GPU-a", name="NVIDIA GB10", faults=unified)))
    (device,) = devices.discover(Devices())
    assert device.memory_bytes == psutil.virtual_memory().total
    (reading,) = devices.read((device,))
    assert reading.used_bytes is not None
    assert 0 < reading.used_bytes < device.memory_bytes
    assert reading.owners is None, "what the host has in use is not the GPU's"


def test_nvml_is_loaded_only_where_gpus_are_wanted() -> None:
    program = (
        "import sys; from ftd.config import Devices; from ftd.host import devices;"
        "devices.read(devices.discover(Devices(use='cpu'))); print('pynvml' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ, check=True
    )
    assert done.stdout.strip() == "False"


def _warnings(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.getMessage(), record.__dict__["device"]) for record in caplog.records]
