"""Gigabytes over REST: one copy on the disk, hardly any memory, nothing after an abort."""

from pathlib import Path

import pytest

from bench import upload
from tests.running import running

SIZE = 2 * 10**9


def test_an_upload_of_gigabytes(tmp_path: Path) -> None:
    """bench/upload.py does the same with 25 GB, waits for the check, and tells how quick it is."""
    if not upload.enough_space(tmp_path, SIZE):
        pytest.skip(f"{tmp_path} has no room for {SIZE:,} bytes and some to spare")
    environment = {"FTD_DEVICES__USE": "cpu"}
    with running(tmp_path / "home", environment=environment) as daemon:
        found = upload.measure(daemon, SIZE, abort_after=SIZE // 8, check=False)
    assert found["memory grown by the upload [MiB]"].median <= 64
    assert 0.99 < found["copies on the disk"].median <= 1.01
    assert found["left by an abort [MB]"].median < 1
    assert found["files and rows left by an abort"].median == 0
