import pytest

from ftd.config import Training
from ftd.core.device import Device
from ftd.runner.plan import dtype

GPU = Device(id="gpu", kind="cuda", name="card", memory_bytes=2**34)
CPU = Device(id="cpu", kind="cpu", name="processor", memory_bytes=2**34)


def test_a_gpu_computes_in_bfloat16_and_a_processor_in_float32() -> None:
    assert dtype(Training(), GPU) == "bfloat16"
    assert dtype(Training(), CPU) == "float32"


@pytest.mark.parametrize("device", [GPU, CPU])
def test_what_is_configured_holds_everywhere(device: Device) -> None:
    assert dtype(Training(dtype="float32"), device) == "float32"
    assert dtype(Training(dtype="bfloat16"), device) == "bfloat16"
