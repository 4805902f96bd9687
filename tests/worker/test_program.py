import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ftd.core.errors import invalid
from ftd.core.wire import LINE_BYTES, Failed, Notice, WireError, encode
from ftd.worker.program import failure, see
from tests.worker.quoting import Row
from tests.worker.shim import Shim


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
            ValueError("Error while serializing: No space left on device (os error 28)"),
            "no_space",
            "The disk is full.",
        ),
        (
            RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later."),
            "out_of_memory",
            "The device has no memory left. Another program may have it.",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to have 9 bytes"),
            "out_of_memory",
            "The host has no memory left.",
        ),
        (
            ValueError("words that may quote a row"),
            "trainer_error",
            "The trainer met an unexpected ValueError; the log of its run says more.",
        ),
    ],
)
def test_a_fault_is_told_in_words(error: Exception, code: str, message: str) -> None:
    told = failure(error, "trainer")
    assert (told.code, told.message) == (code, message)


def test_a_fault_is_that_of_its_program() -> None:
    told = failure(ValueError("odd"), "inference worker")
    assert told.code == "inference_worker_error"
    assert told.message.startswith("The inference worker met an unexpected ValueError; ")


def test_a_fault_has_its_place() -> None:
    try:
        encode(Notice(level="info", message="a row " * LINE_BYTES))
    except WireError as error:
        told = failure(error, "trainer").message
    assert re.search(r"unexpected WireError at ftd\.core\.wire:\d+; ", told)


@pytest.mark.parametrize(("words", "logged"), [(False, False), (True, True)])
def test_the_words_of_a_fault_are_for_the_log_of_whom_it_concerns(
    tmp_path: Path, words: bool, logged: bool
) -> None:
    (tmp_path / "in").mkdir()
    if words:
        (tmp_path / "in" / "words").touch()
    shim = Shim("tests.worker.quoting", tmp_path, tmp_path / "log")
    shim.assign("job", Row(text="canary row"))
    told = shim.hear(Failed).message
    assert shim.end() == 0
    log = (tmp_path / "log").read_text()
    assert re.match(r"The quoting program met an unexpected KeyError at ftd\.\S+:\d+; ", told)
    assert ("canary" in log) == logged
    for place in ("in work", "ValueError", "KeyError"):
        assert place in log, "where it was, and what led there"


def test_a_worker_sees_what_it_was_lent_or_what_its_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-0")
    see(None)  # by a daemon that has put it there
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-0"
    see(("GPU-1", "GPU-2"))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-2"
    see(())
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_it_is_too_late_to_lend_a_device_once_cuda_was_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(AssertionError, match="before a device was lent"):
        see(("GPU-1",))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


_PRODUCTS = """
from pathlib import Path
from ftd.worker.program import settle
settle()
import torch
torch.set_num_threads(1)
matrix = torch.zeros(512, 512, dtype=torch.bfloat16)

def multiply(lengths):
    for length in lengths:
        torch.nn.functional.linear(matrix.new_zeros(length, 512), matrix)

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

multiply(range(1, 20))
before = held()
multiply(range(20, 420))
print(held() - before)
"""


def test_kernels_of_lengths_that_come_once_do_not_pile_up() -> None:
    said = subprocess.run(
        [sys.executable, "-c", _PRODUCTS], check=True, capture_output=True, text=True
    )
    assert int(said.stdout) < 100 * 1024  # KiB; 265 MiB where every kernel is kept
