"""The bounds of a create request, each met once."""

from typing import Any

import pytest

from ftd.core.errors import FtdError, Kind
from ftd.core.hyperparams import Requested
from ftd.service.jobs import CreateJob, check


def request(**changes: Any) -> CreateJob:
    return CreateJob(**{"model": "m", "training_file": "file-1"} | changes)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"method": "dpo"}, "method.type"),
        ({"requested": Requested(n_epochs=0)}, "hyperparameters.n_epochs"),
        ({"requested": Requested(n_epochs=51)}, "hyperparameters.n_epochs"),
        ({"requested": Requested(batch_size=0)}, "hyperparameters.batch_size"),
        ({"requested": Requested(batch_size=257)}, "hyperparameters.batch_size"),
        (
            {"requested": Requested(learning_rate_multiplier=0.0)},
            "hyperparameters.learning_rate_multiplier",
        ),
        (
            {"requested": Requested(learning_rate_multiplier=float("nan"))},
            "hyperparameters.learning_rate_multiplier",
        ),
        ({"suffix": ""}, "suffix"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**31}, "seed"),
        ({"priority": 1001}, "priority"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: ""}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k"),
    ],
)
def test_beyond_a_bound_is_invalid_and_names_the_field(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(FtdError) as caught:
        check(request(**changes))
    assert (caught.value.kind, caught.value.param) == (Kind.INVALID, param)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"requested": Requested(n_epochs=1, batch_size=1, learning_rate_multiplier=0.001)},
        {"requested": Requested(n_epochs=50, batch_size=256, learning_rate_multiplier=1000.0)},
        {"suffix": "x" * 64},
        {"suffix": "\u0633\u0644\u0627\u0645 !"},
        {"seed": 0},
        {"seed": 2**31 - 1},
        {"metadata": {"k" * 64: "v" * 512} | {str(n): "" for n in range(15)}},
    ],
)
def test_on_a_bound_is_fine(changes: dict[str, Any]) -> None:
    check(request(**changes))
