"""The workstation over gRPC."""

from typing import Any

from ftd.api.grpc import convert
from ftd.api.grpc.gate import actor
from ftd.service.node import Node
from ftd.v1 import node_pb2, node_pb2_grpc


class NodeFace(node_pb2_grpc.NodeServicer):
    def __init__(self, node: Node) -> None:
        self._node = node

    async def ListDevices(
        self, request: node_pb2.ListDevicesRequest, context: Any
    ) -> node_pb2.ListDevicesResponse:
        readings = await self._node.devices(actor())
        return node_pb2.ListDevicesResponse(data=map(convert.device, readings))
