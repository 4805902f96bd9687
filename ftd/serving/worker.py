"""One inference worker's life: launched, loading, answering, leaving, gone.

Its row holds a lease from before the launch until the kernel says that it is gone, so nobody else
is lent its device too early. Its shim ends with the daemon, so there is nothing to adopt.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from ftd.bell import Bell, wait
from ftd.config import Settings
from ftd.core import chat, wire
from ftd.core.clock import Clock
from ftd.core.device import Device
from ftd.core.errors import FtdError, Kind, no_such_model
from ftd.core.models import Model
from ftd.core.spec import ServeSpec
from ftd.host.home import Home
from ftd.launch.base import Assignment, BadInputs, Channel, Launcher, Refused, Role
from ftd.metrics import Metrics
from ftd.serving.line import Heard, Line, Silent
from ftd.store.servers import ServerRow
from ftd.store.store import Store

log = logging.getLogger(__name__)

SOCKET = "serve.sock"  # below out/
LOAD_S = 1800.0  # from launch to ready: a large model from a slow disk, proved and warmed up
STOP_S = 2.0  # to end when it is asked to
STACK_S = 2.0  # to write its stack, when it hangs
END_S = 10.0  # to vanish when it is killed, and once more when its shim is
LOOK_S = 0.05  # between looks at a lock that is still held
FREE_AGAIN_S = 1.0
POKE_S = 1.0  # how late a lost poke can make us
FACTS_BYTES = 2**16

_NOT_THE_MODEL = {
    "out_of_memory": Kind.UNAVAILABLE,
    "no_space": Kind.NO_SPACE,
    "inference_worker_error": Kind.INTERNAL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """What the pool and its workers work with."""

    store: Store
    launcher: Launcher
    settings: Settings
    metrics: Metrics
    clock: Clock
    home: Home
    bell: Bell


class Worker:
    """One worker of some model's weights on one device.

    `changed` is told when it gets ready and when it begins to leave. One that leaves because it
    could not go on has a `fault` by then: Refused when it could not even begin, else the error to
    tell whoever waits for it.
    """

    def __init__(
        self,
        rooms: Rooms,
        row: ServerRow,
        weights: Model,
        device: Device,
        changed: Callable[["Worker"], None],
    ) -> None:
        self.id = row.id
        self.weights = weights
        self.device = device
        self.leaving = False
        self.fault: BaseException | None = None
        self._rooms = rooms
        self._launch = row.launch
        self._changed = changed
        self._requests = 0
        self._adapters = 0  # loaded, as it says
        self._idle_since = rooms.clock.monotonic()
        self._line: Line | None = None
        self._channel: Channel | None = None
        self._lent: dict[str, asyncio.Task[None]] = {}
        self._news = Bell()
        self._asked = asyncio.Event()
        self._deadline = 0.0
        self._why = ""
        self._politely = True

    # What the pool asks.

    @property
    def loaded(self) -> bool:
        """Whether it was ready once."""
        return self._line is not None

    @property
    def ready(self) -> bool:
        """Whether it takes requests."""
        return self.loaded and not self.leaving

    @property
    def busy(self) -> bool:
        return self._requests > 0 or not self.loaded

    @property
    def idle_s(self) -> float:
        """How long it has had nothing to do."""
        return 0.0 if self.busy else self._rooms.clock.monotonic() - self._idle_since

    def enter(self) -> None:
        """Somebody will ask it something; `exit` takes that back."""
        self._requests += 1

    def exit(self) -> None:
        self._requests -= 1
        self._idle_since = self._rooms.clock.monotonic()
        self._news.ring()

    def leave(self, why: str, grace_s: float, *, politely: bool = True) -> None:
        """Begin nothing more; end when all is answered, or after so long. Idempotent.

        Unless `politely`, it is then killed without being asked to stop.
        """
        deadline = self._rooms.clock.monotonic() + grace_s
        self._politely = self._politely and politely
        self._deadline = min(self._deadline, deadline) if self.leaving else deadline
        self._why = self._why or why
        self._asked.set()
        self._news.ring()
        self._turn_away()

    async def lend(self, adapter: Model) -> str:
        """Put an adapter where the worker finds it, once; returns its place in the run.

        Raises NOT_FOUND when its bytes have gone.
        """
        # By name and bytes: a name that was given anew must not answer with what it was before.
        key = hashlib.sha256(f"{adapter.name}\n{adapter.sha256}".encode()).hexdigest()[:24]
        lending = self._lent.get(key)
        if lending is None or (lending.done() and lending.exception() is not None):
            source = self._rooms.home.root / adapter.path
            lending = asyncio.create_task(
                self._rooms.launcher.lend(self._launch, f"adapters/{key}", source)
            )
            self._lent[key] = lending
        try:
            await asyncio.shield(lending)  # others may wait for the same
        except BadInputs as error:
            if self.leaving:
                raise self._farewell() from None
            raise FtdError(
                Kind.NOT_FOUND,
                f"The model {adapter.name} cannot be used: {error}.",
                code="model_not_found",
                param="model",
            ) from error
        except OSError as error:
            raise FtdError(
                Kind.UNAVAILABLE, f"The adapter {adapter.name} cannot be read: {error}."
            ) from error
        return f"in/adapters/{key}"

    def ask(self, request: chat.Generate, heard: Heard) -> AsyncGenerator[chat.Answer, None]:
        """As Line.ask. Only for who has entered."""
        assert self._line is not None, "asked before it was ready"
        return self._line.ask(request, heard)

    # Its life.

    async def run(self) -> None:
        """From the launch until it has gone and its row is ended."""
        try:
            await self._live()
            try:
                await self._end()
            finally:
                await self._free()
        finally:
            if self._channel is not None:
                await self._channel.close()

    async def _live(self) -> None:
        serving = asyncio.create_task(self._serve())
        leaving = asyncio.create_task(self._wait_to_leave())
        try:
            await asyncio.wait({serving, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done() and not self.leaving:
                self.fault = serving.exception()
            self._turn_away()
            self._cut()
            if self.fault is None and self._politely and self._line and self._channel:
                await self._ask_to_stop(self._channel)
        finally:
            serving.cancel()
            leaving.cancel()
            await asyncio.gather(serving, leaving, *self._lent.values(), return_exceptions=True)

    async def _serve(self) -> None:
        try:
            async with asyncio.timeout(LOAD_S):
                self._line = await self._load()
        except TimeoutError:
            await self._ask_for_stack()
            raise _ended(f"it was not ready within {LOAD_S:g} seconds") from None
        except BadInputs as error:
            raise no_such_model(self.weights.name) from error
        self._idle_since = self._rooms.clock.monotonic()
        self._changed(self)
        try:
            await self._line.listen()
        except wire.WireError as error:
            raise self._nonsense(error) from error
        except Silent as error:
            await self._ask_for_stack()
            raise _ended(f"it said {error}") from error
        raise _ended("its socket is closed")

    async def _load(self) -> Line:
        launcher = self._rooms.launcher
        await launcher.launch(self._launch, Role.INFER)
        await launcher.assign(
            self._launch,
            Assignment(
                job=self._launch,
                attempt=1,
                spec=self._spec().model_dump_json().encode(),
                inputs={"model": self._rooms.home.root / self.weights.path},
                devices=(self.device,),
                shared=True,
            ),
        )
        self._channel = await launcher.connect(self._launch)
        await self._hear_ready()
        try:
            reader, writer = await launcher.dial(self._launch, SOCKET)
        except OSError as error:
            raise _ended(f"it does not listen: {error}") from error
        silence_s = self._rooms.settings.serving.silence_s
        return Line(reader, writer, self._hear_load, silence_s)

    def _spec(self) -> ServeSpec:
        serving = self._rooms.settings.serving
        cuda = self.device.kind == "cuda"
        return ServeSpec(
            model_name=self.weights.name,
            device="cuda" if cuda else "cpu",
            dtype="bfloat16" if cuda else "float32",
            threads=serving.threads,
            context_tokens=serving.context_tokens,
            rows=serving.rows,
            queue=serving.queue,
            adapters=serving.adapters,
            cache_tokens=serving.cache_tokens,
        )

    async def _hear_ready(self) -> None:
        """Follow its facts until it is ready. Raises INVALID for a model that it says is
        unfit, UNAVAILABLE when it ends."""
        offset, alive = 0, True
        while alive:
            alive = self._channel is not None and await self._channel.changed(POKE_S)
            spooled = self._rooms.launcher.read(self._launch, offset, FACTS_BYTES)
            for frame in spooled.frames:
                try:
                    fact = wire.decode_fact(frame.line)
                except wire.WireError as error:
                    raise self._nonsense(error) from error
                if isinstance(fact, wire.Ready):
                    return
                if isinstance(fact, wire.Failed):
                    raise _unfit(fact)
            offset = spooled.offset
        raise _ended("it ended while it was loading")

    def _nonsense(self, error: wire.WireError) -> FtdError:
        """Its line may hold what others asked it: that is for no log, and for nobody who waits."""
        log.debug("nonsense", extra={"launch": self._launch, "said": str(error)})
        return _ended("it said what makes no sense")

    async def _ask_for_stack(self) -> None:
        """Have one that hangs write into its log where, if it still can."""
        if self._channel is not None:
            with contextlib.suppress(Refused):
                await self._channel.signal("USR1")
                await asyncio.sleep(STACK_S)

    def _hear_load(self, load: chat.Load) -> None:
        adapters = self._rooms.metrics.serving.adapters.labels(self.weights.base)
        adapters.inc(load.adapters - self._adapters)
        self._adapters = load.adapters

    async def _wait_to_leave(self) -> None:
        """Until it was told to leave, and owes no answer or has no time left."""
        await self._asked.wait()
        while True:
            heard = self._news.listen()
            left_s = self._deadline - self._rooms.clock.monotonic()
            if left_s <= 0 or not self._requests:
                return
            await wait(heard, left_s)

    def _turn_away(self) -> None:
        if not self.leaving:
            self.leaving = True
            self._changed(self)

    def _cut(self) -> None:
        if self._line is not None:
            self._line.cut(self._farewell())

    def _farewell(self) -> FtdError:
        """What is told to whoever still waits for an answer."""
        if self.fault is None:
            message = f"The inference worker has given way ({self._why}); try again."
        else:
            message = "The inference worker has ended; try again."
        return FtdError(Kind.UNAVAILABLE, message)

    async def _ask_to_stop(self, channel: Channel) -> None:
        """The polite way; what follows is not."""
        try:
            await channel.command(wire.Stop())
            async with asyncio.timeout(STOP_S):
                while await channel.changed(STOP_S):
                    pass
        except (Refused, TimeoutError):
            return

    async def _end(self) -> None:
        rooms, launch = self._rooms, self._launch
        await rooms.launcher.hang_up(launch)
        if not await self._vanished() and self._channel is not None:
            with contextlib.suppress(Refused):
                await self._channel.end()  # its shim does not do what it is told: it is frozen
            if not await self._vanished():
                log.error("inference worker does not end", extra={"launch": launch})
        exit_ = rooms.launcher.exit_record(launch)
        told = {
            "model": self.weights.name,
            "device": self.device.id,
            "log": str(rooms.launcher.log(launch)),
            "why": self._why if self.fault is None else str(self.fault),
            "exit": None if exit_ is None else str(exit_),
        }
        if self.fault is None:
            log.info("inference worker ended", extra=told)
        else:
            log.warning("inference worker lost", extra=told)
        self._hear_load(chat.Load(running=0, waiting=0, adapters=0, cached_tokens=0))
        await rooms.launcher.discard(launch)

    async def _vanished(self) -> bool:
        """Whether the kernel says, soon, that it has gone."""
        clock = self._rooms.clock
        deadline = clock.monotonic() + END_S
        while await self._rooms.launcher.alive(self._launch):
            if clock.monotonic() > deadline:
                return False
            await asyncio.sleep(LOOK_S)
        return True

    async def _free(self) -> None:
        """End its row, and with it its lease; on a full disk as soon as that can be written."""
        why = self._why if self.fault is None else str(self.fault)
        while True:
            try:
                await self._rooms.store.served(self.id, why)
            except FtdError:
                log.exception("a lease is not given back yet", extra={"launch": self._launch})
                await asyncio.sleep(FREE_AGAIN_S)
            else:
                return


def _ended(why: str) -> FtdError:
    return FtdError(Kind.UNAVAILABLE, f"The inference worker has ended ({why}); try again.")


def _unfit(fact: wire.Failed) -> FtdError:
    """What it says of itself: about the model, unless the code says that the host is at fault."""
    kind = _NOT_THE_MODEL.get(fact.code, Kind.INVALID)
    param = "model" if kind is Kind.INVALID else None
    return FtdError(kind, fact.message, code=fact.code, param=fact.param or param)
