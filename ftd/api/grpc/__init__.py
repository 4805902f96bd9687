"""The gRPC face: decode, one service call, encode."""

import os

# gRPC reads this when it is first imported. The daemon only ever forks to exec, so gRPC's fork
# handlers would do nothing but stop its threads and complain.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
