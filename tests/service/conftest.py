"""The serving tests' pool, whose workers live below real shims."""

from tests.serving.conftest import bench, home, serving, shelf

__all__ = ["bench", "home", "serving", "shelf"]
