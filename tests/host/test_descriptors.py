"""How many files may be open: as many as are needed, never fewer than before."""

import subprocess
import sys

import pytest

# A process with limits of its own allows itself so many, and says what it has.
ALLOWS = """
import resource, sys
from ftd.host import descriptors
soft, hard, count = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
descriptors.allow(count)
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "count", "allowed"),
    [(64, 512, 300, 300), (64, 512, 1000, 512), (400, 512, 300, 400), (512, 512, 300, 512)],
)
def test_the_limit_rises_as_far_as_it_may(soft: int, hard: int, count: int, allowed: int) -> None:
    arguments = map(str, (soft, hard, count))
    done = subprocess.run(
        [sys.executable, "-c", ALLOWS, *arguments],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [str(allowed), str(hard)]
