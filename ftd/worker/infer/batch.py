"""The running batch: rows join and leave between turns, and one pass serves them all.

A turn computes the next token of every running row, and beside them a part of the prompts that
join: long prompts come in parts, so that the answers under way do not stall. Rows of one request
share their prompt, which is computed once. What a row leaves behind is kept for a request that
goes on from it.

    waiting prompts -> [part, part, ...] -> logits -> a free place for each of its rows
    running rows    -> one token each    -> logits -> choose, take -> the place is free again
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final, Protocol

import torch
from torch import Tensor

from ftd.core.errors import FtdError, Kind
from ftd.worker.infer.adapters import Adapters
from ftd.worker.infer.cache import KeyValues, Shelf
from ftd.worker.infer.model import Network
from ftd.worker.infer.threads import Threads

# Tokens of joining prompts in one turn, beside running rows and alone. Beside: what running rows
# wait for it, about 0.3 s with 135M parameters on two cores. Alone: a pass costs the weights'
# reading, worth about 40 tokens there; more would only make a cancelled prompt cost longer.
BESIDE: Final = {"cpu": 128, "cuda": 1024}
ALONE: Final = {"cpu": 512, "cuda": 4096}

SHORTAGE: Final = FtdError(
    Kind.UNAVAILABLE,
    "The device's memory is too small for this request beside the running ones; try again.",
    code="overloaded",
)
OWN_FAULT: Final = FtdError(
    Kind.INTERNAL,
    "The answer ended because of a fault of the server; its log says more.",
    code="server_error",
)

_log = logging.getLogger(__name__)


class Row(Protocol):
    """One choice of a request, as the batch sees it.

    A row hears `began` once, then for each token `choose` and `take`; or `failed`, at any time,
    and then nothing more. A row that raises is told `failed`; its neighbours go on.
    """

    ids: list[int]
    """The prompt, at least one token."""
    owner: str
    """Whose request it is. What is known of a prompt is known of an owner's."""
    adapter: str | None
    """A PEFT directory, relative to the working directory."""
    max_tokens: int
    """Of the answer, at least 1. Prompt and answer fit the context."""
    greedy: bool
    """The likeliest token is taken, whatever it is: `choose` need not be asked."""
    cancelled: bool
    """Nobody reads the answer any more. Looked at before each turn."""

    def choose(self, logits: Tensor) -> int:
        """The next token, by float32 logits [vocabulary] that the row may change."""

    def take(self, token: int) -> bool:
        """A token was chosen. True when the answer is complete."""

    def began(self, prompt_tokens: int, cached_tokens: int) -> None:
        """The prompt is computed, `cached_tokens` of it before this request came."""

    def failed(self, error: FtdError) -> None:
        """It cannot be done, or not be completed."""


class Limits(Protocol):
    """The part of a ServeSpec that a batch keeps to."""

    @property
    def rows(self) -> int: ...
    @property
    def adapters(self) -> int: ...
    @property
    def cache_tokens(self) -> int: ...


class _Prompt:
    """A prompt that joins, and the rows that wait for it."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = deque(rows)
        self.ids = list(rows[0].ids)
        self.owner = rows[0].owner
        self.adapter = rows[0].adapter
        self.known: KeyValues | None = None  # None until its turn comes
        self.cached = 0
        self.logits: Tensor | None = None  # of its last token, once it is computed

    @property
    def under(self) -> tuple[str, str | None]:
        return self.owner, self.adapter

    @property
    def left(self) -> int:
        return len(self.ids) - (len(self.known.tokens) if self.known else 0)


class _Running:
    """A row of the batch: what is known of it, and its last token, which is not computed yet."""

    def __init__(self, row: Row, known: KeyValues) -> None:
        self.row = row
        self.known = known
        self.token = -1
        self._count = 0

    @property
    def under(self) -> tuple[str, str | None]:
        return self.row.owner, self.row.adapter

    def begin(self, prompt: _Prompt, logits: Tensor) -> bool:
        """The first token, by logits of its own; True when the row is done."""

        def work() -> bool:
            self.row.began(len(prompt.ids), prompt.cached)
            return self._choose(logits, int(logits.argmax()))

        return self._guarded(work)

    def advance(self, logits: Tensor, likeliest: int) -> bool:
        """The next token; True when the row is done."""
        return self._guarded(lambda: self._choose(logits, likeliest))

    def _choose(self, logits: Tensor, likeliest: int) -> bool:
        self.token = likeliest if self.row.greedy else self.row.choose(logits)
        self._count += 1
        return self.row.take(self.token) or self._count >= self.row.max_tokens

    def _guarded(self, work: Callable[[], bool]) -> bool:
        """What `work` says; True when it raises: a row is done by its own fault, alone."""
        try:
            return work()
        except Exception:  # noqa: BLE001 - its neighbours in the batch have no part in it
            _log.exception("a row raised")
            self.row.failed(OWN_FAULT)
            return True


class Batch:
    """Rows in the order they came, as many at once as `limits.rows`. One thread drives it."""

    def __init__(self, network: Network, limits: Limits) -> None:
        self._network = network
        self._places = limits.rows
        self._adapters = Adapters(network.module, limits.adapters)
        self._shelf = Shelf(limits.cache_tokens)
        self._threads = Threads(1 if network.device.type == "cuda" else torch.get_num_threads())
        self._prompts: deque[_Prompt] = deque()
        self._running: list[_Running] = []
        self._opening: _Prompt | None = None  # still there when memory ran out over it

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Rows that have no place yet."""
        return sum(len(prompt.rows) for prompt in self._prompts)

    @property
    def adapters(self) -> int:
        """Adapters that are loaded."""
        return len(self._adapters)

    @property
    def cached_tokens(self) -> int:
        """Tokens that are kept of rows that ended."""
        return self._shelf.tokens

    def add(self, rows: Sequence[Row]) -> None:
        """Let the rows of one request join: all have the same prompt, owner and adapter."""
        self._prompts.append(_Prompt(rows))

    @torch.inference_mode()
    def turn(self) -> bool:
        """One pass; False when there was nothing to do. Memory that runs out costs what is kept,
        then the rows that came last, one turn each; the others go on."""
        self._drop_cancelled()
        if not self._prompts and not self._running:
            return False
        try:
            self._place()
            self._pass()
            self._place()
        except torch.OutOfMemoryError as error:
            _log.warning("out of memory: %s", error)
        else:
            return True
        # Out here the exception is gone, and with it the frames that held on to tensors.
        self._make_room()
        return True

    def _drop_cancelled(self) -> None:
        for prompt in list(self._prompts):
            prompt.rows = deque(row for row in prompt.rows if not row.cancelled)
            if not prompt.rows:
                self._prompts.remove(prompt)
                self._keep(prompt.under, prompt.known)
        for running in [running for running in self._running if running.row.cancelled]:
            self._leave(running)

    def _place(self) -> None:
        """Give free places to rows whose prompt is computed, and choose their first tokens."""
        ready = [prompt for prompt in self._prompts if prompt.logits is not None]
        for prompt in ready:
            assert prompt.known is not None
            assert prompt.logits is not None
            while prompt.rows and len(self._running) < self._places:
                known, logits = prompt.known, prompt.logits.clone()
                if len(prompt.rows) > 1:
                    known = known.copy(len(prompt.ids))
                else:
                    self._prompts.remove(prompt)
                running = _Running(prompt.rows.popleft(), known)
                self._running.append(running)
                if running.begin(prompt, logits):
                    self._leave(running)

    def _pass(self) -> None:
        """Compute the next token of each running row and the parts of prompts that join."""
        rows = list(self._running)
        joining = self._joining()
        if not rows and not joining:
            return
        parts = [(running.known, [running.token]) for running in rows]
        parts += [(known, new) for _, known, new in joining]
        whole = [prompt for prompt, _, new in joining if len(new) == prompt.left]
        ends = list(accumulate(len(new) for _, new in parts))
        wanted = ends[: len(rows)]
        wanted += [
            end
            for (prompt, _, _), end in zip(joining, ends[len(rows) :], strict=True)
            if prompt in whole
        ]
        self._adapters.use(
            [(running.row.adapter, 1) for running in rows]
            + [(prompt.adapter, len(new)) for prompt, _, new in joining]
        )
        logits = self._threads.run(
            lambda: self._network.compute(parts, [end - 1 for end in wanted])
        )
        likeliest = logits[: len(rows)].argmax(dim=-1).tolist()
        # From here on running out of memory ends no turn, so that what is known stays true.
        for known, new in parts:
            known.tokens.extend(new)
        for prompt, line in zip(whole, logits[len(rows) :], strict=True):
            prompt.logits = line
        for running, line, best in zip(rows, logits, likeliest, strict=False):
            if running.advance(line, best):
                self._leave(running)

    def _joining(self) -> list[tuple[_Prompt, KeyValues, list[int]]]:
        """The parts of prompts that are computed in this turn. Prompts join in the order they came,
        as far as their rows find places; short ones are computed first, but the oldest has half
        of what a turn may compute."""
        chosen = self._opened()
        if not chosen:
            return []
        budget = (BESIDE if self._running else ALONE)[self._network.device.type]
        oldest = chosen[0][0]
        reserved = min(oldest.left, budget // 2)
        parts = []
        for prompt, known in sorted(chosen, key=lambda each: each[0].left):
            if prompt is oldest:
                reserved = 0
            done = len(known.tokens)
            if part := prompt.ids[done : done + budget - reserved]:
                budget -= len(part)
                parts.append((prompt, known, part))
        return parts

    def _opened(self) -> list[tuple[_Prompt, KeyValues]]:
        """Prompts that are not complete and whose rows will find places."""
        free = self._places - len(self._running)
        chosen = []
        for prompt in list(self._prompts):
            if free <= 0:
                break
            known = prompt.known or self._open(prompt)
            if known is not None:
                chosen.append((prompt, known))
                free -= len(prompt.rows)
            elif prompt.rows:  # it waits for an adapter to be free, and none overtakes it
                break
        return [(prompt, known) for prompt, known in chosen if prompt.left]

    def _open(self, prompt: _Prompt) -> KeyValues | None:
        """Load the adapter of a prompt and find what is known of it. None when all places for
        adapters are in use, and when it cannot be done, which its rows are told."""
        self._opening = prompt
        opened = [other for other in self._prompts if other.known is not None]
        running = [(running.under, running.known) for running in self._running]
        joining = [(other.under, other.known) for other in opened if other.known is not None]
        if prompt.adapter is not None:
            used = {adapter for (_, adapter), _ in (*running, *joining) if adapter is not None}
            try:
                if not self._adapters.load(prompt.adapter, used):
                    self._opening = None
                    return None
            except FtdError as error:
                self._opening = None
                self._fail(prompt, error)
                return None
        known = self._shelf.take(prompt.under, prompt.ids, [*running, *joining])
        known = known or KeyValues(self._network.layout)
        prompt.cached = len(known.tokens)
        known.reserve(len(prompt.ids) - prompt.cached)
        prompt.known = known
        self._opening = None
        return known

    def _make_room(self) -> None:
        """Forget what is kept; when that is nothing, give up what came last."""
        opening, self._opening = self._opening, None
        opened = [prompt for prompt in self._prompts if prompt.known is not None]
        if self._shelf.clear():
            pass
        elif opening is not None:
            self._fail(opening, SHORTAGE)
        elif opened:
            self._fail(opened[-1], SHORTAGE)
        elif self._running:
            self._running.pop().row.failed(SHORTAGE)
        elif self._prompts:
            self._fail(self._prompts[0], SHORTAGE)
        if self._network.device.type == "cuda":
            torch.cuda.empty_cache()

    def _fail(self, prompt: _Prompt, error: FtdError) -> None:
        self._prompts.remove(prompt)
        while prompt.rows:
            prompt.rows.popleft().failed(error)

    def _leave(self, running: _Running) -> None:
        self._running.remove(running)
        self._keep(running.under, running.known)

    def _keep(self, under: tuple[str, str | None], known: KeyValues | None) -> None:
        if known is None:
            return
        try:
            self._shelf.put(under, known)
        except torch.OutOfMemoryError as error:
            _log.warning("out of memory, %d tokens are not kept: %s", len(known.tokens), error)
