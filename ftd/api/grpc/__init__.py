"""The gRPC face: decode, one service call, encode."""
