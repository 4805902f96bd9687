"""The client of a home: it uploads, submits, cancels, pauses and reads, whatever happens."""

import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from random import Random
from typing import Any
from urllib.parse import urlsplit

from bench.chaos.holds import Violation, expect
from bench.chaos.ledger import Ledger, Submission, Upload
from bench.chaos.trainer import FLOOD
from bench.chaos.world import MODEL, Answer, World

BOUNDARY = "chaos-boundary"
PAGE = 100
JOBS = "/fine_tuning/jobs"
EXAMPLES = range(12, 50)
MOST_JOBS = 4  # of one cycle
PAUSE_S = 0.05  # between two requests


class Client:
    """Its requests are drawn from a seed; its ledger says what it was told."""

    def __init__(self, world: World, ledger: Ledger, chance: Random, tag: str) -> None:
        self.world = world
        self.ledger = ledger
        self.doing = "nothing"
        self.pauses = True  # until the daemon says that it knows no such thing
        self.answers = 0
        self.refusals = 0
        self.mine: list[Submission] = []  # this cycle's
        self.turn = threading.Lock()  # held while it asks for something and notes the answer
        self._chance = chance
        self._tag = tag
        self._made = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="client")
        self._fault: Exception | None = None

    def begin(self) -> None:
        """So that faults meet somebody at work: a file and two jobs."""
        if not self.ledger.files:
            self.upload()
        self.submit()
        self.submit()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Raises what it found wrong on its way."""
        self._stopping.set()
        self._thread.join()
        if self._fault is not None:
            raise self._fault

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                with self.turn:
                    self._act(self._draw())
                self._stopping.wait(PAUSE_S)
        except Exception as error:  # noqa: BLE001 - told where the cycle waits for us
            self._fault = error

    def _draw(self) -> str:
        if not self.ledger.files:
            return "upload"
        if not self.mine:
            return "submit"
        names = ("upload", "cancel", "pause", "resume", "events", "look", "delete", "submit")
        weights = (1, 1, 2, 2, 6, 6, 1, 4 if len(self.mine) < MOST_JOBS else 0)
        return self._chance.choices(names, weights)[0]

    def _act(self, name: str) -> None:
        acts: dict[str, Callable[[], object]] = {
            "upload": self.upload,
            "submit": self.submit,
            "delete": self.delete,
            "look": lambda: self.look(self._any()),
            "events": lambda: self.read_events(self._any()),
        }
        self.doing = name
        if name in acts:
            acts[name]()
        else:
            self.wish(self._any(), name)
        self.doing = "nothing"

    def _any(self) -> Submission:
        known = [submission for submission in self.mine if submission.id]
        return self._chance.choice(known) if known else self.mine[0]

    def _ask(self, method: str, path: str, body: Any = None) -> Answer | None:
        data = None if body is None else json.dumps(body).encode()
        return self._count(self.world.ask(method, path, data))

    def _count(self, answer: Answer | None) -> Answer | None:
        """An answer of 5xx promises nothing: what it was about is in doubt."""
        if answer is None:
            return None
        if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self.refusals += 1
            return None
        self.answers += 1
        return answer

    def forget(self) -> None:
        """The ledger went back: only jobs that it knows are ours."""
        known = {submission.nonce for submission in self.ledger.submissions}
        self.mine[:] = [submission for submission in self.mine if submission.nonce in known]

    # What it does.

    def upload(self) -> None:
        self._made += 1
        # One in twenty makes its trainer print a great deal.
        word = FLOOD.decode() if self._chance.random() < 0.05 else "calm"
        lines = [
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": f"{word} {self._tag} {self._made} {n}"},
                        {"role": "assistant", "content": f"answer {n}"},
                    ]
                }
            ).encode()
            + b"\n"
            for n in range(self._chance.choice(EXAMPLES))
        ]
        content = b"".join(lines)
        upload = Upload(sha256=hashlib.sha256(content).hexdigest(), lines=lines)
        self.ledger.uploads.append(upload)
        self.ledger.note("upload", sha256=upload.sha256)
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        answer = self._count(self.world.ask("POST", "/files", form(content), kind, timeout_s=20))
        if answer is not None:
            if not answer.good:
                raise Violation(f"a good file was refused: {answer}")
            upload.id = answer.body["id"]
            self.ledger.note("uploaded", sha256=upload.sha256, id=upload.id)

    def submit(self) -> None:
        self._made += 1
        if not self.ledger.files:
            return
        file = self._chance.choice(self.ledger.files[-4:])
        assert file.id is not None
        made = Submission(f"{self._tag}-{self._made}", file.id, FLOOD in file.lines[0])
        self.ledger.submissions.append(made)
        self.mine.append(made)
        self.ledger.note("submit", nonce=made.nonce, file=file.id)
        hyperparameters = {"n_epochs": self._chance.choice((1, 1, 2, 4)), "batch_size": 1}
        answer = self._ask(
            "POST",
            JOBS,
            {
                "model": MODEL,
                "training_file": file.id,
                "hyperparameters": hyperparameters,
                "metadata": {"nonce": made.nonce},
                "seed": self._chance.randrange(2**31),
            },
        )
        if answer is not None:
            if not answer.good:
                raise Violation(f"a good job was refused: {answer}")
            made.id = answer.body["id"]
            self.ledger.note("submitted", nonce=made.nonce, id=made.id)
            see(made, answer.body["status"])

    def wish(self, job: Submission, wish: str) -> None:
        if job.id is None or (wish != "cancel" and not self.pauses):
            return
        before, job.wish_in_doubt = job.wish_in_doubt, True
        self.ledger.note(wish, id=job.id)
        answer = self._ask("POST", f"{JOBS}/{job.id}/{wish}")
        if answer is None:
            return
        job.wish_in_doubt = before
        if answer.status == HTTPStatus.NOT_FOUND and wish != "cancel":
            self.pauses = False
        elif answer.good:
            job.grant("run" if wish == "resume" else wish)
            self.ledger.note("granted", wish=wish, id=job.id)
            see(job, answer.body["status"])
        elif answer.status != HTTPStatus.BAD_REQUEST:
            raise Violation(f"{wish} of {job.id}: {answer}")

    def delete(self) -> None:
        if len(self.ledger.files) < 3:
            return
        file = self._chance.choice(self.ledger.files)
        file.deleting = True
        self.ledger.note("delete", id=file.id)
        answer = self._ask("DELETE", f"/files/{file.id}")
        if answer is not None:
            if not answer.good:
                raise Violation(f"the file {file.id} that we had: {answer}")
            file.deleted = True
            self.ledger.note("deleted", id=file.id)

    def look(self, job: Submission) -> dict[str, Any] | None:
        """The job as the daemon shows it."""
        answer = self._ask("GET", f"{JOBS}/{job.id}") if job.id else None
        if answer is None:
            return None
        if not answer.good:
            raise Violation(f"the acknowledged job {job.id}: {answer}")
        see(job, answer.body["status"])
        body: dict[str, Any] = answer.body
        return body

    def read_events(self, job: Submission) -> bool:
        """Page back from the newest to the last one known; whether all came."""
        if job.id is None:
            return False
        fresh: list[tuple[str, Any]] = []
        known = job.events[-1][0] if job.events else None
        after = ""
        while True:
            answer = self._ask("GET", f"{JOBS}/{job.id}/events?limit={PAGE}{after}")
            if answer is None:
                return False
            if not answer.good:
                raise Violation(f"events of the acknowledged job {job.id}: {answer}")
            for event in answer.body["data"]:
                if event["id"] == known:
                    break
                fresh.append((event["id"], event))
            else:
                if answer.body["has_more"]:
                    after = f"&after={fresh[-1][0]}"
                    continue
                if known is not None:
                    raise Violation(f"an event of {job.id} is gone: {job.events[-1]}")
            break
        job.events += reversed(fresh)
        self.ledger.note("events", job=job.id, ids=[id_ for id_, _ in reversed(fresh)])
        return True


def abort_upload(
    world: World, chance: Random, meanwhile: Callable[[], object] = lambda: None
) -> bool:
    """Begin an upload and go away in the middle, with a reset; whether anybody listened."""
    endpoint = world.endpoint
    if endpoint is None:
        return False
    url = urlsplit(endpoint["rest"])
    body = form(b'{"messages": []}\n' * 5000)
    head = (
        f"POST {url.path}/files HTTP/1.1\r\nHost: {url.netloc}\r\n"
        f"Authorization: Bearer {world.key}\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    ).encode()
    try:
        with socket.create_connection((url.hostname, url.port), timeout=5) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall((head + body)[: chance.randrange(1, len(head) + len(body) - 100)])
            time.sleep(0.05)  # so that some of it is taken in before the reset
            meanwhile()
    except OSError:
        return False
    return True


def form(content: bytes) -> bytes:
    """A multipart body with one training file."""
    mark = BOUNDARY.encode()
    return (
        b"--" + mark + b'\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        b"--" + mark + b'\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n" + content + b"\r\n--" + mark + b"--\r\n"
    )


def see(job: Submission, state: str) -> None:
    """Note a state that was shown. One that somebody paused stays so until he wants otherwise."""
    if job.states and job.states[-1] == state:
        return
    held = bool(job.states) and job.states[-1] == "paused" and job.wish == "pause"
    expect(not held or job.wish_in_doubt, f"{job.id} stays paused", state)
    job.states.append(state)
