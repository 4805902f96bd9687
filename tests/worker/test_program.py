import errno

import pytest

from ftd.core.errors import invalid
from ftd.worker.program import failure


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (invalid("no good", code="bad", param="model"), "bad", "no good"),
        (MemoryError(), "out_of_memory", "The host has no memory left."),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "no_space",
            "The disk is full: No space left on device.",
        ),
        (
            ValueError("first line\nsecond line"),
            "trainer_error",
            "The trainer met an unexpected ValueError: first line",
        ),
        (
            RuntimeError(),
            "trainer_error",
            "The trainer met an unexpected RuntimeError: no reason given",
        ),
    ],
)
def test_a_fault_is_told_in_words(error: Exception, code: str, message: str) -> None:
    told = failure(error, "trainer")
    assert (told.code, told.message) == (code, message)


def test_a_fault_is_that_of_its_program() -> None:
    told = failure(ValueError("odd"), "inference worker")
    assert told.code == "inference_worker_error"
    assert told.message == "The inference worker met an unexpected ValueError: odd"
