"""The table of moves, and how an attempt's end is judged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftd.core.job import (
    CHECKPOINT_DAMAGED,
    CUT_OFF_TIMES,
    FINAL,
    HOST_OUT_OF_MEMORY,
    MAX_PAUSE_S,
    MOVES,
    NO_SPACE,
    TRAINER_CUT_OFF,
    TRAINER_HUNG,
    TRAINER_LOST,
    Ending,
    Exit,
    JobError,
    Losses,
    State,
    again,
    outcome,
    pauses,
    sources,
)


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
    ("exit_", "code", "words"),
    [
        (Exit(signal=9), TRAINER_LOST, "was killed by signal 9 (SIGKILL)."),
        (Exit(signal=11), TRAINER_LOST, "was killed by signal 11 (SIGSEGV)."),
        (Exit(signal=63), TRAINER_LOST, "was killed by signal 63."),
        (Exit(code=3), TRAINER_LOST, "exited with status 3 before it finished."),
        (None, TRAINER_CUT_OFF, "without an exit record"),
        (
            Exit(signal=9, starved=True, peak_memory_bytes=13 * 2**28),
            HOST_OUT_OF_MEMORY,
            "its kernel killed the trainer, which held 3.2 GiB at its peak.",
        ),
        (Exit(signal=9, starved=True), HOST_OUT_OF_MEMORY, "its kernel killed the trainer."),
        (
            Exit(signal=9, starved=True, bounded=True),
            HOST_OUT_OF_MEMORY,
            "More memory was taken than one worker may have, which ended the trainer.",
        ),
    ],
)
def test_a_lost_attempt_says_how_it_was_lost(exit_: Exit | None, code: str, words: str) -> None:
    verdict = outcome(exit_, "accepted", None)
    assert verdict.ending is Ending.LOST
    assert verdict.error is not None
    assert verdict.error.code == code
    assert words in verdict.error.message


HUNG = JobError(code=TRAINER_HUNG, message="No sign of life.")


@pytest.mark.parametrize("exit_", [Exit(signal=9), Exit(signal=9, starved=True), None])
def test_why_we_ended_it_goes_before_how_it_died(exit_: Exit | None) -> None:
    assert outcome(exit_, "accepted", None, ended_for=HUNG).error == HUNG


def test_one_that_finished_before_we_ended_it_is_done() -> None:
    assert outcome(Exit(signal=9), "done", None, ended_for=HUNG).ending is Ending.DONE


@pytest.mark.parametrize("code", [NO_SPACE, CHECKPOINT_DAMAGED])
def test_a_reason_that_another_attempt_may_not_meet_is_a_loss(code: str) -> None:
    error = JobError(code=code, message="Something was in the way.")
    verdict = outcome(Exit(code=0), "failed", error)
    assert (verdict.ending, verdict.error) == (Ending.LOST, error)


LOST = JobError(code=TRAINER_LOST, message="The trainer was killed.")
CUT_OFF = JobError(code=TRAINER_CUT_OFF, message="The trainer vanished.")
STARVED = JobError(code=HOST_OUT_OF_MEMORY, message="No memory.")


def chances(error: JobError, *losses: Losses, attempts: int = 3, smaller: bool = True) -> list[str]:
    """What becomes of a job after each of these losses."""
    found = []
    for loss in losses:
        chance = again(error, loss, attempts=attempts, pause_s=5.0, smaller=smaller)
        found.append("failed" if chance is None else f"{chance.after_s:g}")
    return found


def in_a_row(*counts: int) -> list[Losses]:
    return [Losses(in_a_row=count) for count in counts]


def test_each_chance_comes_later_and_there_are_so_many() -> None:
    assert chances(LOST, *in_a_row(1, 2, 3, 4)) == ["5", "10", "failed", "failed"]
    assert chances(LOST, *in_a_row(1), attempts=1) == ["failed"]
    assert chances(LOST, *in_a_row(6, 7, 99), attempts=100) == ["160", "300", "300"]


def test_one_that_published_a_checkpoint_is_tried_again_at_once() -> None:
    assert chances(LOST, *in_a_row(0)) == ["0"]
    assert chances(LOST, *in_a_row(0), attempts=1) == ["0"]


def test_a_starved_one_gets_one_smaller_chance_if_that_can_be() -> None:
    first, second = Losses(in_a_row=1, starved=1), Losses(in_a_row=2, starved=2)
    assert chances(STARVED, first, second) == ["5", "failed"]
    assert chances(STARVED, first, smaller=False) == ["failed"]
    assert chances(STARVED, Losses(in_a_row=0, starved=2)) == ["failed"], "progress or not"


def test_one_that_was_cut_off_takes_no_chance_of_the_job() -> None:
    lost = Losses(in_a_row=9, cut_off=7)
    assert chances(LOST, lost, Losses(in_a_row=9, cut_off=6)) == ["300", "failed"]
    assert chances(CUT_OFF, Losses(in_a_row=3, cut_off=1), Losses(in_a_row=3, cut_off=3)) == [
        "20",
        "20",
    ], "whatever else was lost before"


def test_a_machine_that_dies_of_a_job_does_not_do_so_for_ever() -> None:
    last = 3 * CUT_OFF_TIMES
    losses = [Losses(in_a_row=count, cut_off=count) for count in (1, last - 1, last, last + 1)]
    assert chances(CUT_OFF, *losses) == ["5", "300", "failed", "failed"]


def test_people_are_told_what_comes() -> None:
    def how(error: JobError, count: int) -> str:
        cut_off = count if error is CUT_OFF else 0
        losses = Losses(in_a_row=count, cut_off=cut_off, starved=1)
        chance = again(error, losses, attempts=3, pause_s=5.0, smaller=True)
        assert chance is not None
        return chance.how

    assert how(LOST, 0) == "The job is queued again."
    assert how(LOST, 1) == "The job is queued again, and tried in 5 s."
    assert how(CUT_OFF, 0) == "The job is queued again."
    assert (
        how(CUT_OFF, 1) == "The job is queued again, not counting this attempt, and tried in 5 s."
    )
    assert (
        how(STARVED, 1)
        == "The job is queued again, with half the memory for a pass, and tried in 5 s."
    )


@given(st.none() | st.integers(0, 10**10), st.integers(0, 10**10))
def test_no_clock_makes_a_job_pause_for_long(retry_at: int | None, now: int) -> None:
    if pauses(retry_at, now):
        assert retry_at is not None
        assert now < retry_at <= now + MAX_PAUSE_S
    assert not pauses(retry_at, (retry_at or 0)), "it is over when its time has come"
