"""A job's events, each once, across restarts of the daemon."""

import time
from collections.abc import Iterator

from ftctl.client import Client, is_lost
from ftctl.failure import Failure, Status
from ftctl.output import say
from ftd.v1 import jobs_pb2

FINAL = frozenset({"succeeded", "failed", "cancelled"})

FIRST_RETRY_S = 0.25
LAST_RETRY_S = 4.0
GIVE_UP_S = 900.0  # a daemon that is away for longer will not come back by itself


def events(
    client: Client, job_id: str, *, after: str = "", timeout_s: float | None = None
) -> Iterator[jobs_pb2.Event]:
    """Every event newer than `after`, oldest first; ends when the job is over and told.

    A daemon that goes away is asked again, from the last event seen, and that is said once.
    Raises Failure, timed out, after `timeout_s`.
    """
    import grpc

    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    lost: _Lost | None = None
    while True:
        try:
            request = jobs_pb2.WatchEventsRequest(job_id=job_id, after=after)
            told = client.stream(
                client.jobs.WatchEvents, request, timeout_s=_left(job_id, deadline)
            )
            for event in told:
                lost = None
                after = event.id
                yield event
            if job(client, job_id).status in FINAL:
                return
            lost = None  # it answers: an absence to come is another one
        except grpc.RpcError as error:
            _left(job_id, deadline)  # a deadline that has passed is what has happened
            if not is_lost(error):
                raise
            lost = lost or _Lost()
            if lost.for_good():
                raise
        else:
            lost = lost or _Lost()  # the daemon ends its streams when it ends
        lost.wait(_left(job_id, deadline))


def job(client: Client, job_id: str) -> jobs_pb2.Job:
    found: jobs_pb2.Job = client.call(client.jobs.GetJob, jobs_pb2.GetJobRequest(id=job_id))
    return found


class _Lost:
    """A daemon that is away, and how long to leave it alone."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._pause_s = FIRST_RETRY_S
        say("the daemon has gone away; the job goes on. Waiting for it to come back ...")

    def for_good(self) -> bool:
        return time.monotonic() - self._since > GIVE_UP_S

    def wait(self, left_s: float | None) -> None:
        time.sleep(self._pause_s if left_s is None else min(self._pause_s, left_s))
        self._pause_s = min(2 * self._pause_s, LAST_RETRY_S)


def _left(job_id: str, deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise _timed_out(job_id)
    return left_s


def _timed_out(job_id: str) -> Failure:
    return Failure(
        f"{job_id} is not over yet",
        hint=f"it goes on; `ftctl watch {job_id}` shows how far it is",
        status=Status.TIMED_OUT,
    )
