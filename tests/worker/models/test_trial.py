"""What is tried in a child says how it went, and takes nobody with it."""

import faulthandler
import os
import signal
import time

import psutil
import pytest

from ftd.core.errors import FtdError
from ftd.worker.models.refusal import broken
from ftd.worker.models.trial import attempt


def refuse() -> None:
    raise broken("no good.")


def hang() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while True:
        signal.sigwait({signal.SIGUSR2})


def crash() -> None:
    faulthandler.disable()  # it would tell of it at length
    os.abort()


def leave() -> None:
    os._exit(3)


def panic() -> None:
    raise BaseException("as a library in Rust does")


def eat() -> None:
    held = []
    while True:
        held.append(bytearray(2**26))


def tried(work: object) -> FtdError:
    with pytest.raises(FtdError) as refused:
        attempt("model", work, seconds=30.0, memory_bytes=2**30)  # type: ignore[arg-type]
    return refused.value


def test_what_goes_well_changes_nothing_here() -> None:
    changed: list[int] = []
    attempt("model", lambda: changed.append(1), seconds=30.0, memory_bytes=2**30)
    assert not changed


def test_a_refusal_comes_back() -> None:
    error = tried(refuse)
    assert (error.message, error.code, error.param) == ("no good.", "broken_model", "source")


def test_what_does_not_end_is_ended(capfd: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    with pytest.raises(FtdError, match=r"the model did not end within 1 s") as refused:
        attempt("model", hang, seconds=1.0, memory_bytes=2**30)
    assert refused.value.code == "unsafe_model"
    assert time.monotonic() - began < 10
    assert "in attempt" in capfd.readouterr().err, "the log says where it was"


@pytest.mark.parametrize(
    ("work", "words"),
    [(crash, "SIGABRT"), (leave, "no answer"), (panic, "no answer"), (eat, "more than 1,073")],
)
def test_what_breaks_its_process_is_unsafe(work: object, words: str) -> None:
    error = tried(work)
    assert error.code == "unsafe_model"
    assert words in error.message


def test_no_child_is_left() -> None:
    before = psutil.Process().children()
    tried(crash)
    assert psutil.Process().children() == before
