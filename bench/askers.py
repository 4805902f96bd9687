"""Asks a daemon small things, again and again, in a process of its own, and tells how long it took.

    python -m bench.askers URL KEY

One connection for each kind of request, one request at a time, PAUSE_S between them. At SIGTERM it
prints {"kind": [seconds, ...], ...}.
"""

import http.client
import json
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Self
from urllib.parse import urlsplit

PAUSE_S = 0.01
MARK = "small"
FORM = (
    f'--{MARK}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    f'--{MARK}\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\nsmall\r\n'
    f"--{MARK}--\r\n"
).encode()


class Asker:
    """A connection that stays open, with its key; use it by `with`."""

    def __init__(self, url: str, key: str) -> None:
        address = urlsplit(url)
        self._path = address.path
        self._headers = {"Authorization": f"Bearer {key}"}
        self._web = http.client.HTTPConnection(str(address.hostname), address.port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._web.close()

    def ask(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> bytes:
        headers = self._headers | ({"Content-Type": kind} if kind else {})
        self._web.request(method, self._path + path, body=body, headers=headers)
        answer = self._web.getresponse()
        told = answer.read()
        assert answer.status == 200, told
        return told


def main() -> None:
    url, key = sys.argv[1:]
    requests: dict[str, Callable[[Asker], bytes]] = {
        "a list": lambda asker: asker.ask("GET", "/files?limit=1"),
        "a list of jobs": lambda asker: asker.ask("GET", "/fine_tuning/jobs"),
        "a small upload": lambda asker: asker.ask(
            "POST", "/files", FORM, f"multipart/form-data; boundary={MARK}"
        ),
    }
    took: dict[str, list[float]] = {name: [] for name in requests}
    asked_to_end = False

    def end(*_: object) -> None:
        nonlocal asked_to_end
        asked_to_end = True

    signal.signal(signal.SIGTERM, end)
    with ExitStack() as stack:
        askers = {name: stack.enter_context(Asker(url, key)) for name in requests}
        print("asking", flush=True)
        while not asked_to_end:
            for name, request in requests.items():
                started = time.perf_counter()
                request(askers[name])
                took[name].append(time.perf_counter() - started)
                time.sleep(PAUSE_S)
    print(json.dumps(took))


if __name__ == "__main__":
    main()
