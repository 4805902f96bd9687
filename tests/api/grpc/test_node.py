"""Devices over gRPC: a sensor that is not there is absent, not zero."""

from pathlib import Path

from ftd.v1 import node_pb2, node_pb2_grpc
from tests.api.grpc.serving import BEARER, served


async def test_devices(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, _, channel):
        stub = node_pb2_grpc.NodeStub(channel)
        answer = await stub.ListDevices(node_pb2.ListDevicesRequest(), metadata=BEARER)
    gpu, cpu = answer.data
    assert (gpu.id, gpu.kind, gpu.job_id, gpu.utilization) == ("GPU-1", "cuda", "ftjob-1", 0.5)
    assert not cpu.HasField("used_bytes")
    assert not cpu.HasField("power_watts")
    assert not cpu.HasField("job_id")
    assert (list(gpu.models), list(cpu.models)) == ([], ["smollm2", "other"])
