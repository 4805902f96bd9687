"""The table of moves, and how an attempt's end is judged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftd.core.job import FINAL, MOVES, Ending, Exit, JobError, State, outcome, sources


def test_final_states_are_openais_three() -> None:
    assert {State.SUCCEEDED, State.FAILED, State.CANCELLED} == FINAL


def test_every_state_but_the_first_can_be_reached() -> None:
    reached = set().union(*MOVES.values())
    assert reached == set(State) - {State.VALIDATING}


@given(st.sampled_from(list(State)), st.sampled_from(list(State)))
def test_sources_is_the_table_read_backwards(before: State, to: State) -> None:
    assert (before in sources(to)) == (to in MOVES[before])


def test_a_job_can_be_cancelled_wherever_it_is_not_over() -> None:
    assert sources(State.CANCELLED) == set(State) - FINAL


@pytest.mark.parametrize(
    ("exit_", "word", "ending"),
    [
        (Exit(code=0), "done", Ending.DONE),
        (Exit(signal=9), "done", Ending.DONE),  # killed after it had published everything
        (Exit(code=0), "stopped", Ending.STOPPED),
        (Exit(code=0), "accepted", Ending.LOST),  # a clean exit is no proof of anything
        (Exit(signal=9), "accepted", Ending.LOST),
        (None, None, Ending.LOST),
    ],
)
def test_the_last_word_goes_before_the_exit(
    exit_: Exit | None, word: str | None, ending: Ending
) -> None:
    assert outcome(exit_, word, None).ending is ending


def test_a_failure_keeps_its_reason() -> None:
    error = JobError(code="out_of_memory", message="One example does not fit.")
    verdict = outcome(Exit(code=0), "failed", error)
    assert (verdict.ending, verdict.error) == (Ending.FAILED, error)


@pytest.mark.parametrize(
    ("exit_", "words"),
    [
        (Exit(signal=9), "signal 9"),
        (Exit(code=3), "status 3"),
        (None, "without an exit record"),
    ],
)
def test_a_lost_attempt_says_how_it_was_lost(exit_: Exit | None, words: str) -> None:
    verdict = outcome(exit_, "accepted", None)
    assert verdict.error is not None
    assert words in verdict.error.message
