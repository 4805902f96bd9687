"""Who runs next, and why the others wait."""

from hypothesis import given
from hypothesis import strategies as st

from ftd.core.device import Device
from ftd.core.job import FINAL, State, Want
from ftd.core.schedule import (
    Admit,
    LiveAttempt,
    OpenJob,
    Snapshot,
    Start,
    Stop,
    Wait,
    decide,
)

CPU = Device(id="cpu", kind="cpu", name="a CPU", memory_bytes=1)


def job(name: str, seq: int, **changes: object) -> OpenJob:
    values = {"priority": 0, "state": State.QUEUED, "want": Want.RUN} | changes
    return OpenJob(id=name, seq=seq, **values)  # type: ignore[arg-type]


def snapshot(
    *jobs: OpenJob,
    attempts: tuple[LiveAttempt, ...] = (),
    devices: tuple[Device, ...] = (CPU,),
    holders: dict[str, str] | None = None,
) -> Snapshot:
    return Snapshot(jobs=jobs, attempts=attempts, devices=devices, holders=holders or {})


def test_the_oldest_of_equals_starts() -> None:
    actions = decide(snapshot(job("b", 2), job("a", 1)))
    assert actions[0] == Start("a", (CPU,))


def test_priority_goes_before_age() -> None:
    actions = decide(snapshot(job("old", 1), job("urgent", 2, priority=5)))
    assert actions[0] == Start("urgent", (CPU,))


def test_a_busy_device_is_named_to_those_who_wait() -> None:
    actions = decide(snapshot(job("b", 2), job("c", 3), holders={"cpu": "a"}))
    assert actions == [
        Wait("b", "cpu runs a"),
        Wait("c", "cpu runs a; 1 queued ahead of it"),
    ]


def test_without_devices_it_says_so() -> None:
    assert decide(snapshot(job("a", 1), devices=())) == [Wait("a", "there is no device to run on")]


def test_checked_files_admit_and_unchecked_ones_are_named() -> None:
    ready = job("a", 1, state=State.VALIDATING)
    checking = job("b", 2, state=State.VALIDATING, checking=("file-1", "file-2"))
    assert decide(snapshot(ready, checking)) == [
        Admit("a"),
        Wait("b", "checking file-1 and file-2"),
    ]


def test_an_attempt_of_a_job_that_is_over_is_stopped() -> None:
    # A job that is over has no row in the snapshot.
    assert decide(snapshot(attempts=(LiveAttempt(id=7, job="gone"),))) == [Stop(7)]


def test_a_job_waits_for_the_end_of_its_last_attempt() -> None:
    actions = decide(snapshot(job("a", 1), attempts=(LiveAttempt(id=1, job="a"),)))
    assert actions == [Wait("a", "its last attempt has not ended yet")]


names = st.sampled_from("abcdefgh")
jobs_strategy = st.lists(
    st.builds(
        OpenJob,
        id=names,
        seq=st.integers(1, 100),
        priority=st.integers(-3, 3),
        state=st.sampled_from([state for state in State if state not in FINAL]),
        want=st.sampled_from(list(Want)),
    ),
    unique_by=(lambda j: j.id, lambda j: j.seq),
)
devices_strategy = st.lists(
    st.builds(
        Device, id=st.sampled_from("0123"), kind=st.just("cuda"), name=st.just("x"),
        memory_bytes=st.just(1),
    ),
    unique_by=lambda device: device.id,
)  # fmt: skip


@given(jobs_strategy, devices_strategy, st.sets(st.sampled_from("0123")))
def test_no_device_is_lent_twice_and_only_queued_jobs_start(
    jobs: list[OpenJob], devices: list[Device], leased: set[str]
) -> None:
    view = Snapshot(
        jobs=tuple(jobs),
        attempts=(),
        devices=tuple(devices),
        holders=dict.fromkeys(leased, "other"),
    )
    starts = [action for action in decide(view) if isinstance(action, Start)]
    lent = [device.id for start in starts for device in start.devices]
    assert len(lent) == len(set(lent))
    assert not set(lent) & leased
    by_id = {j.id: j for j in jobs}
    assert all(by_id[s.job].state is State.QUEUED for s in starts)
    assert all(by_id[s.job].want is Want.RUN for s in starts)
