"""Assembles the house, opens the doors, and closes them in order."""

import asyncio
import json
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ftd import __version__
from ftd.api.grpc import server as grpc_server
from ftd.api.rest import server as rest_server
from ftd.bell import Bell
from ftd.config import Settings
from ftd.core.device import Device
from ftd.core.errors import FULL_DISK, FtdError, Kind
from ftd.core.ids import Ids
from ftd.engine import Engine
from ftd.host import certificates, cpu, descriptors, devices, lock, sockets, systemd
from ftd.host.home import Home
from ftd.host.space import Space
from ftd.launch.local import LocalLauncher
from ftd.launch.sandbox import confined
from ftd.metrics import Metrics
from ftd.runner.found import take_up
from ftd.runner.janitor import Janitor
from ftd.runner.quarantine import Quarantine
from ftd.runner.runner import Rooms
from ftd.runner.warm import Warm
from ftd.service.chat import Chat
from ftd.service.door import Door
from ftd.service.files import FileRooms, Files
from ftd.service.jobs import Jobs
from ftd.service.keys import Keys
from ftd.service.models import Models
from ftd.service.node import Node
from ftd.service.rates import Rates
from ftd.serving.handoff import Handoff
from ftd.serving.pool import Pool
from ftd.serving.worker import Rooms as ServingRooms
from ftd.store import sound
from ftd.store.connection import Unusable
from ftd.store.db import Database
from ftd.store.store import Store

log = logging.getLogger(__name__)

SWEEP_S = 60.0
LAG_S = 1.0
SPACE_S = 1.0
GRACE_S = 1.0  # that open requests get at the end
OTHER_DESCRIPTORS = 2048  # than those of connections: files, logs, shims, who is refused
EXAMINE_S = 3600  # that systemd gives the look at the whole database, on a slow disk
EX_DATAERR, EX_IOERR, EX_TEMPFAIL = 65, 74, 75


class SystemClock:
    """The clock on the wall, and one that never goes back."""

    def now(self) -> int:
        return int(time.time())

    def monotonic(self) -> float:
        return time.monotonic()


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """Everything that one daemon runs."""

    door: Door
    engine: Engine
    warm: Warm
    pool: Pool
    handoff: Handoff | None
    home: Home


def serve(settings: Settings) -> NoReturn:
    """Run the daemon until SIGTERM or SIGINT, which ends the process. Running jobs go on.

    Raises FtdError for what its owner can mend; exits 75 when there is a daemon already, 65 when
    the database cannot be used, 74 when the disk is full or the database has failed under us.
    """
    os.umask(0o077)
    doors = 2 + len(settings.grpc)  # REST, the unix socket, and each address
    descriptors.allow(doors * settings.limits.connections + OTHER_DESCRIPTORS)
    home = Home(settings.home)
    try:
        _make(home)
        with lock.hold(home.root / "daemon.lock"):
            asyncio.run(_serve(settings, home))
    except lock.Held as held:
        _give_up(held, EX_TEMPFAIL)
    except Unusable as unusable:
        _give_up(unusable, EX_DATAERR)
    except FtdError as error:
        if error.kind is not Kind.NO_SPACE:
            raise
        _give_up(error, EX_IOERR)
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        _give_up(f"the disk of {home.root} is full", EX_IOERR)
    raise AssertionError("_serve ends the process")


def _make(home: Home) -> None:
    try:
        home.make()
    except OSError as error:
        if error.errno in FULL_DISK:
            raise
        raise FtdError(Kind.INVALID, f"there cannot be a home: {error}") from error


def _give_up(why: object, status: int) -> NoReturn:
    print(f"ftd: {why}", file=sys.stderr)  # noqa: T201
    sys.exit(status)


async def _serve(settings: Settings, home: Home) -> NoReturn:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    async with assemble(settings, home) as house, _faces(settings, house):
        running = asyncio.create_task(_run(house))
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
        systemd.notify("STOPPING=1")
        house.door.node.set_ready(False)
        stopped.cancel()
        if running.done():
            running.result()  # the engine never ends by itself: this raises what ended it
        running.cancel()
        await asyncio.gather(running, stopped, return_exceptions=True)
        await house.pool.stop()  # before the faces close, so that open answers end with a reason
        alive = await house.engine.rooms.store.running()
    log.info("stopped", extra={"running_jobs": alive})
    if alive:
        jobs = "job goes" if alive == 1 else "jobs go"
        print(f"ftd: stopped; {alive} running {jobs} on without it", flush=True)  # noqa: T201
    _leave(0)


def _leave(status: int) -> NoReturn:
    """End now, and not when the last thread has: one that copies or hashes a model may take
    minutes, and the next daemon does its work again."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)


async def _run(house: House) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(house.engine.run())
        group.create_task(house.warm.run())
        group.create_task(_sweep(house))
        group.create_task(_janitor(house).run())
        group.create_task(_keep_space(house.engine.rooms))
        group.create_task(_feel_lag(house.engine.rooms.metrics))
        group.create_task(_mourn(house.engine.rooms.store.db))
        if house.handoff is not None:
            group.create_task(house.handoff.run())


def _janitor(house: House) -> Janitor:
    rooms = house.engine.rooms
    return Janitor(rooms.store, rooms.home, rooms.settings.limits.keep_runs_days)


async def _sweep(house: House) -> None:
    while True:
        await asyncio.sleep(SWEEP_S)
        try:
            await house.door.files.sweep()
            await house.door.models.sweep()
            await house.door.keys.sweep()
        except (FtdError, OSError):
            log.exception("sweep failed")  # a full disk: the next one tries again


async def _mourn(database: Database) -> None:
    """End as if killed when the database is lost: what is open is not acknowledged, and the next
    start finds out what is left. Jobs that run go on."""
    why = await database.lost()
    log.critical("the database is lost", extra={"why": why})
    print(f"ftd: it ends here: {why}", file=sys.stderr, flush=True)  # noqa: T201
    _leave(EX_IOERR)


async def _keep_space(rooms: Rooms) -> None:
    """Take note of a disk that is full, and of one that is not any more."""
    while True:
        try:
            await asyncio.to_thread(rooms.space.look)
        except OSError:
            log.exception("the ballast cannot be kept")
        rooms.metrics.store.full.set(rooms.space.full)
        await asyncio.sleep(SPACE_S)


async def _feel_lag(metrics: Metrics) -> None:
    """How late the loop comes to what is due: what every request waits for."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_S
        await asyncio.sleep(LAG_S)
        metrics.store.loop_lag.set(max(0.0, loop.time() - due))


@asynccontextmanager
async def assemble(settings: Settings, home: Home) -> AsyncIterator[House]:
    """Everything but the faces and the loop that moves jobs."""
    metrics = Metrics(__version__)
    bell, clock, ids = Bell(), SystemClock(), Ids(secrets.token_bytes)
    metrics.store.start_time.set(clock.now())
    space = Space(home.root, settings.limits.ballast_bytes)
    await asyncio.to_thread(space.look)  # before anything is written: the disk may be full now
    database = Database(
        home.database,
        bell,
        observe=metrics.store.transactions.observe,
        relieve=space.relieve,
    )
    await asyncio.to_thread(_examine, home)
    await database.open()
    try:
        store = Store(database, clock, ids)
        sandbox = confined(settings.sandbox.model_dump(), home.root)
        launcher = LocalLauncher(
            home=home.root, log_bytes=settings.limits.log_bytes, sandbox=sandbox
        )
        lendable: tuple[Device, ...] = devices.discover(settings.devices)
        rooms = Rooms(
            store=store,
            launcher=launcher,
            settings=settings,
            metrics=metrics,
            clock=clock,
            home=home,
            space=space,
        )
        pool = Pool(_serving(rooms, bell))
        handoff = _handoff(settings, store, home, bell)
        quarantine = Quarantine(lendable, devices.read)
        files = FileRooms(
            store=store,
            home=home,
            limits=settings.limits,
            metrics=metrics,
            space=space,
            sandbox=sandbox,
        )
        door = Door(
            keys=await Keys.open(store, home.root / "admin.key", secrets.choice),
            rates=Rates(settings.limits.requests_per_minute, clock.monotonic),
            files=Files(files),
            jobs=Jobs(store, settings, launcher, bell, space),
            models=Models(store, home, settings, sandbox),
            node=Node(store, home, metrics, lendable, devices.read, quarantine.withheld),
            chat=Chat(store, settings, pool, handoff),
            settings=settings,
        )
        await door.files.recover()
        await door.models.recover()
        for server in await store.recover_servers():
            await launcher.discard(server.launch)
        await take_up(rooms, lendable)
        warm = Warm(rooms, cpu.available)
        engine = Engine(rooms, bell, lendable, pool, warm, quarantine, alive=systemd.watchdog)
        yield House(door=door, engine=engine, warm=warm, pool=pool, handoff=handoff, home=home)
        await pool.stop()
        if handoff is not None:
            await handoff.close()
        await door.files.close()
        await launcher.close()
    finally:
        await database.close()
    await asyncio.to_thread(sound.end, home.database)


def _serving(rooms: Rooms, bell: Bell) -> ServingRooms:
    return ServingRooms(
        store=rooms.store,
        launcher=rooms.launcher,
        settings=rooms.settings,
        metrics=rooms.metrics,
        clock=rooms.clock,
        home=rooms.home,
        bell=bell,
    )


def _examine(home: Home) -> None:
    """See that the database can be trusted. Raises Unusable when it is damaged or lost."""
    if sound.blank(home.database):
        if (leftover := home.leftover()) is not None:
            raise sound.lost(home.database, leftover)
    elif not sound.stopped_cleanly(home.database):
        told = "reading the whole database: its last daemon did not stop in order"
        systemd.notify(f"STATUS={told}", f"EXTEND_TIMEOUT_USEC={EXAMINE_S * 10**6}")
        log.warning(told)
        started = time.monotonic()
        sound.read_whole(home.database)
        log.info("it is whole", extra={"seconds": round(time.monotonic() - started, 3)})
    sound.begin(home.database)


def _handoff(settings: Settings, store: Store, home: Home, bell: Bell) -> Handoff | None:
    if settings.serving.backend == "embedded":
        return None
    from ftd.serving.vllm import Vllm  # and with it an HTTP client that is of no use otherwise

    return Vllm(settings.serving, store, home, bell)


@asynccontextmanager
async def _faces(settings: Settings, house: House) -> AsyncIterator[None]:
    """Open both faces, say where, and close them again."""
    metrics, door, home = house.engine.rooms.metrics, house.door, house.home
    host, _, port = settings.rest.rpartition(":")
    socket = sockets.path(home.root)
    identity = certificates.read(settings.tls)
    rest = await rest_server.serve(door, host, int(port), metrics.api.observe_http, identity)
    try:
        grpc = await grpc_server.serve(
            door,
            unix_path=socket,
            tcp=settings.grpc,
            observe=metrics.api.observe_rpc,
            identity=identity,
        )
        try:
            if "RUNTIME_DIRECTORY" in os.environ:  # systemd's, which our group alone can enter
                socket.chmod(0o660)
            _link(home.root / "ftd.sock", socket)
            scheme = "http" if identity is None else "https"
            address = f"{scheme}://{_bracketed(host)}:{rest.port}/v1"
            _announce(home.root / "endpoint.json", address, socket, grpc.tcp_addresses)
            door.node.set_ready(True)
            systemd.notify("READY=1", "STATUS=serving")
            print(f"ftd {__version__} serves {address}, home {home.root}", flush=True)  # noqa: T201
            yield
        finally:
            (home.root / "endpoint.json").unlink(missing_ok=True)
            (home.root / "ftd.sock").unlink(missing_ok=True)
            await grpc.stop(GRACE_S)
            sockets.leave(socket)
    finally:
        await rest.stop()


def _link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def _announce(path: Path, rest: str, socket: Path, tcp: tuple[str, ...]) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    endpoint = {
        "rest": rest,
        "grpc": {"unix": str(socket), "tcp": tcp[0] if tcp else None},
        "pid": os.getpid(),
        "boot_id": boot,
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(endpoint) + "\n")
    temporary.rename(path)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
