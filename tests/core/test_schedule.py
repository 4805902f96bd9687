"""Who runs next, who answers where, and why the others wait."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftd.core.device import Device
from ftd.core.job import FINAL, State, Want
from ftd.core.schedule import (
    Action,
    Admit,
    Hold,
    LiveAttempt,
    OpenJob,
    Serve,
    Server,
    Snapshot,
    Start,
    Stop,
    Wait,
    Yield,
    decide,
)

CPU = Device(id="cpu", kind="cpu", name="a CPU", memory_bytes=1)
ONE = Device(id="GPU-1", kind="cuda", name="a card", memory_bytes=1)
TWO = Device(id="GPU-2", kind="cuda", name="a card", memory_bytes=1)
CARDS = {card.id: card for card in (ONE, TWO)}


def job(name: str, seq: int, **changes: object) -> OpenJob:
    values = {"priority": 0, "state": State.QUEUED, "want": Want.RUN} | changes
    return OpenJob(id=name, seq=seq, **values)  # type: ignore[arg-type]


def snapshot(
    *jobs: OpenJob,
    attempts: tuple[LiveAttempt, ...] = (),
    devices: tuple[Device, ...] = (CPU,),
    holders: dict[str, str] | None = None,
    **serving: object,
) -> Snapshot:
    view = Snapshot(
        jobs=jobs, attempts=attempts, devices=devices, holders=holders or {},
        idle_limit_s=600, max_servers=2,
    )  # fmt: skip
    return replace(view, **serving)  # type: ignore[arg-type]


def server(number: int, weights: str, device: Device, **changes: object) -> Server:
    """One that is idle, and was not for long."""
    values = {"busy": False, "idle_s": 1.0, "yielding": False} | changes
    return Server(id=number, weights=weights, device=device.id, **values)  # type: ignore[arg-type]


def test_a_lost_job_rests_and_keeps_nobody_from_its_device() -> None:
    resting, other = job("a", 1, retry_at=105), job("b", 2)
    why = Wait("a", "its trainer ended early; it rests before the next try")
    assert decide(snapshot(resting, other, now=100)) == [why, Start("b", (CPU,))]
    assert decide(snapshot(resting, now=105)) == [Start("a", (CPU,))]
    assert decide(snapshot(resting, now=0)) == [why]
    assert decide(snapshot(job("a", 1, retry_at=9_000), now=100)) == [Start("a", (CPU,))]


def test_nothing_starts_on_a_full_disk() -> None:
    why = "the disk of ftd's home is full"
    jobs = (job("a", 1), job("b", 2, retry_at=5))
    assert decide(snapshot(*jobs, disk_full=True)) == [Wait("a", why), Wait("b", why)]


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


def test_a_job_goes_on_on_the_kind_of_device_where_it_began() -> None:
    began = job("a", 1, began_on="cuda")
    assert decide(snapshot(began, job("b", 2))) == [
        Wait("a", "it began on cuda, and there is no such device"),
        Start("b", (CPU,)),
    ]
    assert decide(snapshot(began, devices=(ONE,))) == [Start("a", (ONE,))]


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


@pytest.mark.parametrize(
    ("changes", "stops"),
    [
        ({"want": Want.RUN}, []),
        ({"want": Want.PAUSE}, [Stop(7, save=True)]),
        ({"want": Want.CANCEL}, [Stop(7)]),
        ({"want": Want.PAUSE, "state": State.CANCELLED}, [Stop(7)]),
    ],
)
def test_an_attempt_is_stopped_as_people_want_it(
    changes: dict[str, object], stops: list[Action]
) -> None:
    running = job("a", 1, **{"state": State.RUNNING} | changes)
    view = snapshot(running, attempts=(LiveAttempt(id=7, job="a"),), holders={"cpu": "a"})
    assert decide(view) == stops


def test_a_paused_job_takes_no_device_and_keeps_nobody_waiting() -> None:
    paused = job("a", 1, priority=9, state=State.PAUSED, want=Want.PAUSE)
    assert decide(snapshot(paused, job("b", 2))) == [Start("b", (CPU,))]


def test_a_job_waits_for_the_end_of_its_last_attempt() -> None:
    actions = decide(snapshot(job("a", 1), attempts=(LiveAttempt(id=1, job="a"),)))
    assert actions == [Wait("a", "its last attempt has not ended yet")]


# The rule between training and serving, case by case: the view, and all that is done.
RULE: dict[str, tuple[Snapshot, list[Action]]] = {
    "on one CPU both run side by side": (
        snapshot(job("j", 1), wanted=("m",)),
        [Start("j", (CPU,)), Serve("m", CPU)],
    ),
    "a job starts on a CPU that serves": (
        snapshot(job("j", 1), servers=(server(1, "m", CPU, busy=True),)),
        [Start("j", (CPU,))],
    ),
    "a request is answered on a CPU that trains": (
        snapshot(holders={"cpu": "j"}, wanted=("m",)),
        [Serve("m", CPU)],
    ),
    "two jobs never share the CPU": (
        snapshot(job("k", 2), holders={"cpu": "j"}, servers=(server(1, "m", CPU),)),
        [Wait("k", "cpu runs j")],
    ),
    "the CPU has so many places": (
        snapshot(devices=(CPU,), wanted=("m",), full=frozenset({"cpu"})),
        [Hold("m", "cpu has no place left")],
    ),
    "a full CPU is left by who is idle": (
        snapshot(
            wanted=("m",), full=frozenset({"cpu"}), max_servers=9,
            servers=(server(1, "a", CPU, busy=True), server(2, "b", CPU)),
        ),
        [
            Yield(2, "m is asked for", if_idle=True),
            Hold("m", "b, which is idle, makes room for it"),
        ],
    ),
    "training comes first on a free GPU": (
        snapshot(job("j", 1), devices=(ONE,), wanted=("m",)),
        [Start("j", (ONE,)), Hold("m", "GPU-1 trains j")],
    ),
    "training is not interrupted for a request": (
        snapshot(devices=(ONE,), holders={"GPU-1": "j"}, wanted=("m",)),
        [Hold("m", "GPU-1 trains j")],
    ),
    "with two GPUs each has its own": (
        snapshot(job("j", 1), devices=(ONE, TWO), wanted=("m", "n")),
        [Start("j", (ONE,)), Serve("m", TWO), Serve("n", TWO)],
    ),
    "requests spread over free GPUs": (
        snapshot(devices=(ONE, TWO), wanted=("m", "n")),
        [Serve("m", ONE), Serve("n", TWO)],
    ),
    "a job prefers the GPU where nobody serves": (
        snapshot(job("j", 1), devices=(ONE, TWO), servers=(server(1, "m", ONE),)),
        [Start("j", (TWO,))],
    ),
    "a job prefers a device without servers": (
        snapshot(job("j", 1), devices=(CPU, ONE), servers=(server(1, "m", CPU),)),
        [Start("j", (ONE,))],
    ),
    "a GPU that serves gives way to a job": (
        snapshot(job("j", 1), devices=(ONE,), servers=(server(1, "m", ONE, busy=True),)),
        [
            Yield(1, "j needs GPU-1"),
            Wait("j", "GPU-1 serves m; it ends when its answers are given"),
        ],
    ),
    "until it has, nobody else gets it": (
        snapshot(
            job("j", 1), devices=(ONE,), wanted=("m",),
            servers=(server(1, "m", ONE, busy=True, yielding=True),),
        ),
        [
            Wait("j", "GPU-1 serves m; it ends when its answers are given"),
            Hold("m", "GPU-1 is kept for j"),
        ],
    ),
    "all servers of one GPU give way, and only of one": (
        snapshot(
            job("j", 1), job("k", 2, priority=1), devices=(ONE, TWO), max_servers=3,
            holders={},
            servers=(
                server(1, "a", ONE, busy=True), server(2, "b", TWO), server(3, "c", TWO),
            ),
            resting=frozenset({"j"}),
        ),
        [
            Yield(2, "k needs GPU-2"),
            Yield(3, "k needs GPU-2"),
            Wait("k", "GPU-2 serves b and c; they end when their answers are given"),
        ],
    ),
    "a job waits where a GPU is given up already": (
        snapshot(
            job("j", 1), devices=(ONE, TWO), max_servers=3,
            servers=(server(1, "a", ONE), server(2, "b", TWO, busy=True, yielding=True)),
        ),
        [Wait("j", "GPU-2 serves b; it ends when its answers are given")],
    ),
    "the next job is told of all that is before it": (
        snapshot(
            job("j", 1), job("k", 2), devices=(ONE, TWO), holders={"GPU-2": "i"},
            servers=(server(1, "a", ONE),),
        ),
        [
            Yield(1, "j needs GPU-1"),
            Wait("j", "GPU-1 serves a; it ends when its answers are given"),
            Wait("k", "GPU-1 serves a, GPU-2 runs i; 1 queued ahead of it"),
        ],
    ),
    "a request does not slip in before a job that rests": (
        snapshot(job("j", 1), devices=(ONE,), resting=frozenset({"j"}), wanted=("m",)),
        [Hold("m", "GPU-1 is kept for j")],
    ),
    "each job that rests keeps a GPU": (
        snapshot(
            job("j", 1), job("k", 2), devices=(ONE, TWO), resting=frozenset({"j", "k"}),
            wanted=("m",),
        ),
        [Hold("m", "GPU-1 is kept for j, GPU-2 is kept for k")],
    ),
    "another job may": (
        snapshot(job("j", 1), job("k", 2), devices=(ONE,), resting=frozenset({"j"})),
        [Start("k", (ONE,))],
    ),
    "what is idle for long ends": (
        snapshot(servers=(server(1, "a", CPU, idle_s=600), server(2, "b", CPU, idle_s=599))),
        [Yield(1, "it was idle for 600 s", if_idle=True)],
    ),
    "what is idle and asked for stays": (
        snapshot(servers=(server(1, "a", CPU, idle_s=700),), wanted=("a",)),
        [],
    ),
    "what is busy never ends for its age": (
        snapshot(servers=(server(1, "a", CPU, idle_s=700, busy=True),)),
        [],
    ),
    "the one idle longest ends for the next": (
        snapshot(
            servers=(server(1, "a", CPU, idle_s=5), server(2, "b", CPU, idle_s=9)),
            wanted=("c",),
        ),
        [
            Yield(2, "c is asked for", if_idle=True),
            Hold("c", "b, which is idle, makes room for it"),
        ],
    ),
    "one place is made once": (
        snapshot(
            servers=(server(1, "a", CPU), server(2, "b", CPU, yielding=True)), wanted=("c",)
        ),
        [Hold("c", "another model makes room for it (2 at once at most are loaded, now a and b)")],
    ),
    "a card too is left by one for one": (
        snapshot(
            servers=(server(1, "a", ONE), server(2, "b", ONE, yielding=True)),
            devices=(ONE,), wanted=("c",),
        ),
        [Hold("c", "another model makes room for it (2 at once at most are loaded, now a and b)")],
    ),
    "each wish makes a place": (
        snapshot(
            servers=(
                server(1, "a", CPU, idle_s=5), server(2, "b", CPU, idle_s=9),
                server(3, "c", CPU, yielding=True, idle_s=99),
            ),
            wanted=("d", "e", "f"), max_servers=3,
        ),
        [
            Hold(
                "d",
                "another model makes room for it (3 at once at most are loaded, now a and b and c)",
            ),
            Yield(2, "e is asked for", if_idle=True),
            Hold("e", "b, which is idle, makes room for it"),
            Yield(1, "f is asked for", if_idle=True),
            Hold("f", "a, which is idle, makes room for it"),
        ],
    ),
    "no model makes room where all train": (
        snapshot(
            job("j", 1), devices=(ONE, TWO), holders={"GPU-1": "i"}, wanted=("m",),
            full=frozenset({"GPU-1"}), servers=(server(1, "a", TWO, yielding=True),),
        ),
        [
            Wait("j", "GPU-2 serves a; it ends when its answers are given"),
            Hold("m", "GPU-1 trains i, GPU-2 is kept for j"),
        ],
    ),
    "who is asked for gives way all the same": (
        snapshot(
            job("j", 1), devices=(ONE,), wanted=("m",), servers=(server(1, "m", ONE, busy=True),)
        ),
        [
            Yield(1, "j needs GPU-1"),
            Wait("j", "GPU-1 serves m; it ends when its answers are given"),
            Hold("m", "GPU-1 is kept for j"),
        ],
    ),
    "who is busy makes no room": (
        snapshot(
            servers=(server(1, "a", CPU, busy=True), server(2, "b", CPU, busy=True)),
            wanted=("c",),
        ),
        [Hold("c", "2 at once at most are loaded, now a and b")],
    ),
    "the oldest wish gets the last place": (
        snapshot(servers=(server(1, "a", CPU, busy=True),), wanted=("c", "b")),
        [Serve("c", CPU), Hold("b", "2 at once at most are loaded, now a and c")],
    ),
    "without a device it says so": (
        snapshot(devices=(), wanted=("m",)),
        [Hold("m", "there is no device to run on")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RULE)
def test_the_rule(case: str) -> None:
    view, actions = RULE[case]
    assert decide(view) == actions


names = st.sampled_from("abcdefgh")
cards = st.sampled_from("0123")
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
    st.builds(Device, id=cards, kind=st.just("cuda"), name=st.just("x"), memory_bytes=st.just(1))
    | st.just(CPU),
    unique_by=lambda device: device.id,
)


@st.composite
def views(draw: st.DrawFn) -> Snapshot:
    """Any view that can be: a server is on a device, and a card that trains has none."""
    devices = draw(devices_strategy)
    leased = draw(st.sets(st.sampled_from([device.id for device in devices]))) if devices else set()
    places = [device.id for device in devices if device.shared or device.id not in leased]
    one = st.builds(
        Server,
        id=st.integers(1, 99),
        weights=st.sampled_from("uvwxyz"),
        device=st.sampled_from(places or ["none"]),
        busy=st.booleans(),
        idle_s=st.floats(0, 100),
        yielding=st.booleans(),
    )
    servers = draw(st.lists(one, unique_by=lambda s: s.id, max_size=6)) if places else []
    jobs = draw(jobs_strategy)
    full = draw(st.sets(st.sampled_from([device.id for device in devices]))) if devices else set()
    return Snapshot(
        jobs=tuple(jobs),
        attempts=(),
        devices=tuple(devices),
        holders=dict.fromkeys(leased, "other"),
        resting=frozenset(draw(st.sets(names))),
        servers=tuple(servers),
        wanted=tuple(draw(st.lists(st.sampled_from("uvwxyz"), unique=True))),
        full=frozenset(full),
        idle_limit_s=50.0,
        max_servers=draw(st.integers(1, 6)),
    )


@given(views())
def test_no_device_is_lent_twice_and_only_queued_jobs_start(view: Snapshot) -> None:
    starts = [action for action in decide(view) if isinstance(action, Start)]
    lent = [device.id for start in starts for device in start.devices]
    assert len(lent) == len(set(lent))
    assert not set(lent) & set(view.holders)
    by_id = {j.id: j for j in view.jobs}
    assert all(by_id[s.job].state is State.QUEUED for s in starts)
    assert all(by_id[s.job].want is Want.RUN for s in starts)


@given(views())
def test_a_card_that_trains_serves_nobody(view: Snapshot) -> None:
    actions = decide(view)
    started = {d.id for a in actions if isinstance(a, Start) for d in a.devices if not d.shared}
    served = {a.device.id for a in actions if isinstance(a, Serve) if not a.device.shared}
    assert not started & {s.device for s in view.servers}, "not before all of them have gone"
    assert not served & (started | set(view.holders))
    assert not {a.device.id for a in actions if isinstance(a, Serve)} & view.full


@given(views())
def test_a_card_that_is_being_given_up_for_a_job_takes_no_server(view: Snapshot) -> None:
    actions = decide(view)
    by_id = {s.id: s for s in view.servers}
    given_up = {
        by_id[a.server].device for a in actions if isinstance(a, Yield) and " needs " in a.why
    }
    assert not given_up & {a.device.id for a in actions if isinstance(a, Serve)}


@given(views())
def test_no_more_are_loaded_than_may_be(view: Snapshot) -> None:
    served = [a.weights for a in decide(view) if isinstance(a, Serve)]
    assert not served or len(served) + len(view.servers) <= view.max_servers
    assert len(served) == len(set(served))


@given(views())
def test_every_wish_is_served_granted_or_answered(view: Snapshot) -> None:
    actions = decide(view)
    ended = {a.server for a in actions if isinstance(a, Yield)}
    served = {s.weights for s in view.servers if not s.yielding and s.id not in ended}
    granted = {a.weights for a in actions if isinstance(a, Serve)}
    held = {a.weights for a in actions if isinstance(a, Hold) if a.why}
    for weights in view.wanted:
        assert (weights in served) + (weights in granted) + (weights in held) == 1
    assert granted | held <= set(view.wanted), "nothing is loaded that nobody wants"


@given(views())
def test_who_answers_gives_way_to_jobs_alone(view: Snapshot) -> None:
    by_id = {s.id: s for s in view.servers}
    yields = [a for a in decide(view) if isinstance(a, Yield)]
    assert len(yields) == len({a.server for a in yields})
    for action in yields:
        assert not by_id[action.server].yielding, "it is told once"
        if by_id[action.server].busy:
            assert " needs " in action.why
            assert by_id[action.server].device != "cpu"


@given(views())
def test_no_job_waits_behind_servers_that_stay(view: Snapshot) -> None:
    """As many cards are given up as jobs wait, or all of them are."""
    actions = decide(view)
    queued = {j.id for j in view.jobs if j.state is State.QUEUED}
    waiting = [a for a in actions if isinstance(a, Wait) and a.job in queued]
    started = {d.id for a in actions if isinstance(a, Start) for d in a.devices}
    leaving = {s.id for s in view.servers if s.yielding} | {
        a.server for a in actions if isinstance(a, Yield)
    }
    left = [d for d in view.devices if d.id not in view.holders and d.id not in started]
    given_up = [d for d in left if all(s.id in leaving for s in view.servers if s.device == d.id)]
    assert len(given_up) >= min(len(waiting), len(left))
    assert not waiting or not any(d.shared for d in left)


@dataclass
class Workstation:
    """A world that does as it is told: workers that give way end after a while."""

    devices: tuple[Device, ...]
    max_servers: int
    jobs: dict[str, OpenJob] = field(default_factory=dict)
    holders: dict[str, str] = field(default_factory=dict)
    servers: dict[int, Server] = field(default_factory=dict)
    wanted: dict[str, None] = field(default_factory=dict)
    patience: dict[int, int] = field(default_factory=dict)  # turns until a worker has gone
    waited: dict[str, int] = field(default_factory=dict)
    given_up_for: dict[str, set[str]] = field(default_factory=dict)
    count: int = 0

    def turn(self, grace: int) -> None:
        view = snapshot(
            *self.jobs.values(), devices=self.devices, holders=self.holders,
            servers=tuple(self.servers.values()), wanted=tuple(self.wanted),
            max_servers=self.max_servers,
        )  # fmt: skip
        for action in decide(view):
            self.apply(action, grace)
        for number in [n for n, left in self.patience.items() if left == 0]:
            del self.servers[number], self.patience[number]
        self.patience = {number: left - 1 for number, left in self.patience.items()}

    def apply(self, action: Action, grace: int) -> None:
        match action:
            case Start(job=name, devices=(device,)):
                assert device.id not in self.holders
                if not device.shared:
                    assert all(s.device != device.id for s in self.servers.values())
                self.holders[device.id] = name
                del self.jobs[name]
            case Wait(job=name):
                self.waited[name] = self.waited.get(name, 0) + 1
            case Serve(weights=weights, device=device):
                self.count += 1
                self.servers[self.count] = server(self.count, weights, device, busy=True)
                del self.wanted[weights]
            case Yield(server=number, why=why):
                gone = self.servers[number]
                self.servers[number] = replace(gone, yielding=True)
                self.patience[number] = grace if gone.busy else 0
                self.given_up_for.setdefault(why, set()).add(gone.device)


EVENTS = st.lists(
    st.tuples(st.sampled_from(["submit", "finish", "ask", "calm"]), st.integers(0, 9)),
    max_size=60,
)


@settings(max_examples=200)
@given(EVENTS, st.sampled_from([(ONE,), (ONE, TWO), (CPU,)]), st.integers(1, 3), st.integers(0, 4))
def test_in_any_story_jobs_start_and_wishes_come_true(
    events: list[tuple[str, int]], devices: tuple[Device, ...], most: int, grace: int
) -> None:
    world = Workstation(devices, most)
    for turn, (event, number) in enumerate(events):
        match event:
            case "submit":
                world.jobs[f"j{turn}"] = job(f"j{turn}", turn)
            case "finish" if world.holders:
                del world.holders[sorted(world.holders)[number % len(world.holders)]]
            case "ask":
                weights = "uvwx"[number % 4]
                if all(s.weights != weights or s.yielding for s in world.servers.values()):
                    world.wanted[weights] = None
            case "calm":
                world.servers = {n: replace(s, busy=False) for n, s in world.servers.items()}
        world.turn(grace)
        assert len(world.servers) <= most
    # One job needs one device: no second one is given up for it.
    assert all(len(cleared) == 1 for why, cleared in world.given_up_for.items() if " needs " in why)
    for _ in range(len(world.jobs) * (grace + 3)):  # jobs end as they come, and all are answered
        world.holders.clear()
        world.turn(grace)
    assert not world.jobs
    world.holders.clear()
    for _ in range(4 * (grace + 3)):
        world.servers = {n: replace(s, busy=False) for n, s in world.servers.items()}
        world.turn(grace)
    assert not world.wanted
