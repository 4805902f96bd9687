"""One request's marks in the metrics, made as its answers come and not as they are read."""

from types import TracebackType
from typing import Self

from ftd.core import chat
from ftd.core.clock import Clock
from ftd.metrics import Serving


class Meter:
    """Counts a request as waiting until its prompt is read, then as running until it is left."""

    def __init__(self, serving: Serving, base: str, clock: Clock) -> None:
        self._serving = serving
        self._base = base
        self._clock = clock
        self._state = "waiting"
        self._asked_at = clock.monotonic()
        self._last: dict[int, float] = {}  # when each choice last grew

    def __enter__(self) -> Self:
        self._serving.requests.labels(self._state, self._base).inc()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._serving.requests.labels(self._state, self._base).dec()

    def take(self, answer: chat.Answer) -> None:
        match answer:
            case chat.Began():
                self._begin(answer)
            case chat.Piece():
                self._grow(answer.index)
            case chat.Ended():
                self._count("completion", answer.completion_tokens)

    def _begin(self, began: chat.Began) -> None:
        self._serving.requests.labels(self._state, self._base).dec()
        self._state = "running"
        self._serving.requests.labels(self._state, self._base).inc()
        self._count("prompt", began.prompt_tokens - began.cached_tokens)
        self._count("cached", began.cached_tokens)

    def _grow(self, index: int) -> None:
        now = self._clock.monotonic()
        if not self._last:
            self._serving.first_token.labels(self._base).observe(now - self._asked_at)
        elif index in self._last:
            self._serving.inter_token.labels(self._base).observe(now - self._last[index])
        self._last[index] = now

    def _count(self, kind: str, tokens: int) -> None:
        self._serving.tokens.labels(kind, self._base).inc(tokens)
