"""The gRPC face on real sockets, over a door in memory."""

import socket
import stat
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ftd.api.grpc.server import MAX_UNIX_PATH_BYTES, serve
from ftd.core.errors import FtdError, Kind
from ftd.v1 import files_pb2, files_pb2_grpc, jobs_pb2, jobs_pb2_grpc, node_pb2, node_pb2_grpc
from tests.api.grpc.fake_door import KEY, FakeDoor
from tests.api.grpc.serving import BEARER, Observed, refused, served, until

WORD = "\u0633\u0644\u0627\u0645"


def get_job(channel: grpc.aio.Channel, job_id: str, **more: Any) -> Any:
    return jobs_pb2_grpc.JobsStub(channel).GetJob(jobs_pb2.GetJobRequest(id=job_id), **more)


async def test_the_socket_is_its_owners_alone_and_goes_with_the_server(tmp_path: Path) -> None:
    async with served(tmp_path):
        mode = (tmp_path / "s").stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
    assert not (tmp_path / "s").exists()


async def test_a_dead_daemons_socket_gives_way(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    async with served(tmp_path) as (_, _, channel):
        await refused(get_job(channel, "x", metadata=BEARER))


async def test_a_file_in_the_way_of_the_socket_stays(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(FtdError, match="is no socket"):
        await serve(FakeDoor(tmp_path), unix_path=tmp_path / "s", tcp=(), observe=Observed())
    assert (tmp_path / "s").read_text() == "precious"


async def test_a_socket_path_that_no_socket_can_have_is_explained(tmp_path: Path) -> None:
    path = Path("/tmp") / ("x" * MAX_UNIX_PATH_BYTES)
    with pytest.raises(FtdError, match="107 bytes"):
        await serve(FakeDoor(tmp_path), unix_path=path, tcp=(), observe=Observed())


async def test_tcp_on_a_port_of_its_choice(tmp_path: Path) -> None:
    async with served(tmp_path, tcp=("127.0.0.1:0",)) as (_, server, _):
        (address,) = server.tcp_addresses
        assert address.startswith("127.0.0.1:")
        assert not address.endswith(":0")
        async with grpc.aio.insecure_channel(address) as channel:
            code, _, _ = await refused(get_job(channel, "x", metadata=BEARER))
        assert code is grpc.StatusCode.NOT_FOUND


async def test_a_taken_port_is_a_conflict_and_leaves_nothing_bound(tmp_path: Path) -> None:
    async with served(tmp_path, tcp=("127.0.0.1:0",)) as (_, server, _):
        other = tmp_path / "other"
        with pytest.raises(FtdError, match="is it taken") as caught:
            await serve(
                FakeDoor(tmp_path), unix_path=other, tcp=server.tcp_addresses, observe=Observed()
            )
        assert caught.value.kind is Kind.CONFLICT
        assert not other.exists()


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:8421", "192.168.1.5:1", "example.org:80", "[::]:1", "127.0.0.1", "::1", ":1"],
)
async def test_only_loopback_is_served_in_clear(tmp_path: Path, address: str) -> None:
    with pytest.raises(FtdError, match=r"loopback|HOST:PORT"):
        await serve(
            FakeDoor(tmp_path), unix_path=tmp_path / "s", tcp=(address,), observe=Observed()
        )
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "metadata",
    [(), (("authorization", "Bearer wrong"),), (("authorization", f"Basic {KEY}"),)],
    ids=["none", "wrong", "basic"],
)
async def test_nobody_gets_in_without_the_key(
    tmp_path: Path, metadata: tuple[tuple[str, str], ...]
) -> None:
    async with served(tmp_path) as (door, _, channel):
        jobs = jobs_pb2_grpc.JobsStub(channel)
        files = files_pb2_grpc.FilesStub(channel)

        async def watch() -> None:
            async for _ in jobs.WatchEvents(jobs_pb2.WatchEventsRequest(), metadata=metadata):
                pass

        parts = [files_pb2.UploadFileRequest(header=files_pb2.UploadHeader(filename="a.jsonl"))]
        for call in (
            get_job(channel, "x", metadata=metadata),
            watch(),
            files.UploadFile(iter(parts), metadata=metadata),
        ):
            code, _, said = await refused(call)
            assert code is grpc.StatusCode.UNAUTHENTICATED
            assert said["ftd-kind"] == "UNAUTHENTICATED"
        assert door.files.uploads == 0


async def test_health_and_reflection_are_open(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, _, channel):
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        async for said in stub.ServerReflectionInfo(iter([ask])):
            names = {service.name for service in said.list_services_response.service}
    assert {"ftd.v1.Jobs", "ftd.v1.Files", "ftd.v1.Models", "ftd.v1.Node"} <= names


async def test_an_error_carries_its_kind_code_and_param(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, _, channel):
        code, details, said = await refused(get_job(channel, "ftjob-x", metadata=BEARER))
    assert code is grpc.StatusCode.NOT_FOUND
    assert details == "Could not find fine tune: ftjob-x"
    assert said == {
        "ftd-kind": "NOT_FOUND",
        "ftd-code": "fine_tune_not_found",
        "ftd-param": "fine_tune_id",
    }


async def test_a_message_of_any_length_and_script_arrives_cut_but_whole(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, _, channel):
        code, details, _ = await refused(get_job(channel, f"{WORD}\n" * 5000, metadata=BEARER))
    assert code is grpc.StatusCode.NOT_FOUND
    assert details.startswith(f"Could not find fine tune: {WORD}\n{WORD}")
    assert details.endswith("...")


async def test_our_own_mistakes_are_logged_and_tell_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(tmp_path) as (door, _, channel):
        door.node.broken = True
        stub = node_pb2_grpc.NodeStub(channel)
        code, details, said = await refused(
            stub.ListDevices(node_pb2.ListDevicesRequest(), metadata=BEARER)
        )
    assert code is grpc.StatusCode.INTERNAL
    assert "secret" not in details
    assert said["ftd-kind"] == "INTERNAL"
    assert "a secret of the house" in caplog.text


async def test_a_request_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, _, channel):
        code, _, _ = await refused(get_job(channel, "x" * (5 * 2**20), metadata=BEARER))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_every_call_is_observed_once(tmp_path: Path) -> None:
    observed = Observed()
    async with served(tmp_path, observe=observed) as (_, _, channel):
        await refused(get_job(channel, "x"))
        await refused(get_job(channel, "x", metadata=BEARER))
        stub = node_pb2_grpc.NodeStub(channel)
        await stub.ListDevices(node_pb2.ListDevicesRequest(), metadata=BEARER)
        await until(lambda: len(observed) == 3)
    assert observed.codes() == [
        ("GetJob", "UNAUTHENTICATED"),
        ("GetJob", "NOT_FOUND"),
        ("ListDevices", "OK"),
    ]
    assert {service for service, *_ in observed} == {"ftd.v1.Jobs", "ftd.v1.Node"}
    assert all(seconds >= 0 for *_, seconds in observed)
