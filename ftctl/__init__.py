"""ftctl: the command-line client of ftd."""

import os

# gRPC reads these when it is first imported. Its own log lines are not for people, and a client
# that forks nothing needs no fork handlers.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
