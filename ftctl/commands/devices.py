"""ftctl devices: what the workstation can lend."""

from collections.abc import Callable

import typer

from ftctl import objects
from ftctl.client import connect
from ftctl.objects import optional
from ftctl.output import Columns, Format, Output, show_page, size
from ftd.v1 import node_pb2


def devices(context: typer.Context, output: Output = Format.TABLE) -> None:
    """Show the devices: how busy they are, which job has them, and which models answer there."""
    with connect(context) as client:
        answer = client.call(client.node.ListDevices, node_pb2.ListDevicesRequest())
    page = objects.listing(map(objects.device, answer.data))
    show_page(page, answer.data, COLUMNS, output)


def _memory(device: node_pb2.Device) -> str:
    total = size(device.memory_bytes)
    used = optional(device, "used_bytes")
    return total if used is None else f"{size(used)} of {total}"


def _reading(name: str, unit: str, scale: float = 1) -> Callable[[node_pb2.Device], str]:
    """The cell of a sensor, empty where there is none."""

    def cell(device: node_pb2.Device) -> str:
        value = optional(device, name)
        return "" if value is None else f"{value * scale:.0f}{unit}"

    return cell


COLUMNS: Columns = (
    ("DEVICE", lambda device: device.id),
    ("KIND", lambda device: device.kind),
    ("BUSY", _reading("utilization", "%", scale=100)),
    ("TEMP", _reading("temperature_celsius", " C")),
    ("POWER", _reading("power_watts", " W")),
    ("MEMORY", _memory),
    ("NAME", lambda device: device.name),
    ("JOB", lambda device: device.job_id),
    ("MODELS", lambda device: ", ".join(device.models)),
    ("WITHHELD", lambda device: device.withheld),
)
