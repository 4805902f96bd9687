"""A log line that nobody meant to hold a key or a row of data does not hold it."""

import asyncio
import logging
from collections.abc import Callable

import pytest
from pydantic import BaseModel

from ftd.core import keys
from ftd.core.ids import ALPHABET
from ftd.host.logs import Formatter
from ftd.host.redact import WITHHELD, without_keys

ROW = "the row of training data"


class Body(BaseModel):
    n: int


def formatted(error: BaseException, *, words: bool = False, message: str = "failed") -> str:
    record = logging.makeLogRecord(
        {"name": "ftd.test", "msg": message, "exc_info": (type(error), error, error.__traceback__)}
    )
    return Formatter(journal=False, words=words).format(record)


@pytest.mark.parametrize(
    "key",
    [
        keys.mint(lambda letters: letters[-1], ALPHABET),
        keys.token("k1a2b3c4", "S" * keys.SECRET_CHARACTERS),
        "hf_" + "a" * 34,
        "sk-proj-" + "b" * 40,
    ],
)
def test_a_key_is_hidden_wherever_it_stands(key: str) -> None:
    for text in (key, f"key={key}", f"'{key}',", f"/v1/files/{key}/content", f"Bearer {key}"):
        assert key not in without_keys(text)


def test_a_bearer_is_hidden_whatever_its_form() -> None:
    assert without_keys("Authorization: Bearer my-own-word") == "Authorization: Bearer [hidden]"


@pytest.mark.parametrize(
    "text", ["ftd-0123456789abcdef/ftd.sock", "ftd_http_request_duration_seconds", "ftjob-" * 9]
)
def test_what_only_resembles_a_key_stays(text: str) -> None:
    assert without_keys(text) == text


def test_a_key_among_the_fields_of_a_line_is_hidden() -> None:
    key = keys.mint(lambda letters: letters[0], ALPHABET)
    record = logging.makeLogRecord({"name": "ftd", "msg": "request", "path": f"/v1/{key}"})
    assert key not in Formatter(journal=False).format(record)


def pydantic() -> None:
    Body.model_validate({"n": ROW})


def number() -> None:
    int(ROW)


def lookup() -> None:
    {}[ROW]  # type: ignore[index]


def chained() -> None:
    try:
        int(ROW)
    except ValueError as error:
        raise RuntimeError("a reader failed") from error


def grouped() -> None:
    raise ExceptionGroup("tasks failed", [ValueError(ROW), OSError(5, "broken")])


@pytest.mark.parametrize("cause", [pydantic, number, lookup, chained, grouped])
def test_an_error_that_quotes_what_was_sent_is_told_without_its_words(
    cause: Callable[[], None],
) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it is
        cause()
    line = formatted(caught.value)
    assert ROW not in line
    assert WITHHELD in line
    assert f"in {cause.__name__}" in line, "where it was stays to be read"
    assert ROW in formatted(caught.value, words=True)


def test_other_errors_keep_their_words() -> None:
    line = formatted(OSError(28, "No space left on device"))
    assert "OSError: [Errno 28] No space left on device" in line


async def test_a_task_that_nobody_awaits_tells_no_data_either() -> None:
    async def fail() -> None:
        raise ValueError(ROW)

    task = asyncio.create_task(fail())
    await asyncio.wait({task})
    error = task.exception()
    assert error is not None
    assert ROW in repr(task)
    assert ROW not in formatted(error, message=f"never retrieved\nfuture: {task}")
