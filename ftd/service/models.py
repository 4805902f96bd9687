"""Models by name: bases on their way in, tuned models and checkpoints on their way out."""

import asyncio
import logging
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from ftd.config import Settings
from ftd.core.errors import FtdError, Kind, invalid, no_such_model
from ftd.core.keys import Scope
from ftd.core.models import Model, ModelKind, is_base_name, is_full
from ftd.host import unknown
from ftd.host.home import Home
from ftd.launch.sandbox import DEFAULT, Sandbox
from ftd.service import audit
from ftd.service.actor import Actor
from ftd.service.arrivals import Arrivals
from ftd.service.exports import Exported, Exports
from ftd.service.rules import permit
from ftd.store import jobs, models
from ftd.store.db import Transaction
from ftd.store.store import Store

log = logging.getLogger(__name__)


class Models:
    """Add, look at, export and delete models."""

    def __init__(
        self, store: Store, home: Home, settings: Settings, sandbox: Sandbox = DEFAULT
    ) -> None:
        self._store = store
        self._home = home
        self._settings = settings
        self._adding: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._arrivals = Arrivals(home, sandbox)
        self._exports = Exports(home, sandbox)

    async def add(self, actor: Actor, *, name: str, source: str) -> Model:
        """Fetch, check, copy and convert a base model; returns when it is usable.

        Raises INVALID for a name that is taken or cannot be, or a source that is no good.
        """
        if not is_base_name(name):
            raise invalid(
                "A model name has letters, digits, '.', '_' and '-', begins with a letter or "
                "digit and is at most 96 long.",
                param="name",
            )
        if "\0" in source or not _can_be_a_path(source):
            raise invalid("The source is neither a path nor a name that can be.", param="source")
        audit.concerns(name)
        async with self._adding[name]:
            if name in self._settings.aliases:
                raise invalid(f"{name!r} is an alias in the configuration.", param="name")
            if await models.get(self._store.db, actor.project, name) is not None:
                raise invalid(f"There is a model {name!r} already.", param="name")
            if await models.any_named(self._store.db, name) is not None:
                raise invalid(
                    f"The removed {name!r} is still used by a job; add it again when that is over.",
                    param="name",
                )
            target = self._home.models / name
            if target.exists():  # its row was purged, never written, or lost: nobody can tell
                await self._set_aside([target])
            facts = await self._arrivals.bring_in(source, target)
            model = Model(
                name=name,
                project=models.SHARED,
                kind=ModelKind.BASE,
                base=name,
                path=f"models/{name}",
                sha256=facts.sha256,
                created_at=self._store.clock.now(),
                facts=facts.model_dump(exclude={"sha256"}),
            )
            await self._store.db.write(lambda tx: models.insert(tx, model))
            log.info("model added", extra={"model": name, "source": source, "by": actor.name})
            return model

    async def list(self, actor: Actor) -> tuple[Model, ...]:
        """Bases, tuned models and checkpoints."""
        return await models.visible(self._store.db, actor.project)

    async def get(self, actor: Actor, name: str) -> Model:
        """A model by its name or alias. Raises NOT_FOUND."""
        resolved = self._settings.aliases.get(name, name)
        model = await models.get(self._store.db, actor.project, resolved)
        if model is None:
            raise no_such_model(name)
        return model

    @asynccontextmanager
    async def export(
        self, actor: Actor, name: str, form: str | None = None
    ) -> AsyncIterator[Exported]:
        """A model's files for other programs, merged or converted first where that is asked.

        `form` is adapter, merged or gguf; None is what the model is. Raises NOT_FOUND, INVALID
        for a form that the model cannot have, NO_SPACE.
        """
        model = await self.get(actor, name)
        base = model if is_full(model) else await models.any_named(self._store.db, model.base)
        if base is None:
            raise no_such_model(model.base)
        async with self._exports.export(model, base, form) as exported:
            log.info("model exported", extra={"model": model.name, "form": exported.form})
            yield exported

    async def delete(self, actor: Actor, name: str, *, bases: bool = False) -> None:
        """Hide a model now; its bytes go when the last attempt that uses them has ended.

        A base model is everybody's: it wants `bases` and the scope admin, else FORBIDDEN. Raises
        CONFLICT for one with tuned models.
        """
        audit.concerns(name)
        model = await self.get(actor, name)
        if model.kind is ModelKind.BASE:
            if not bases or name != model.name:
                raise FtdError(
                    Kind.FORBIDDEN,
                    f"The model {name} is a base model; `ftctl models rm` removes one.",
                    param="model",
                )
            permit(actor, Scope.ADMIN)
            await self._refuse_if_built_on(actor, name)
        now = self._store.clock.now()
        await self._store.db.write(lambda tx: models.hide(tx, model.name, now))
        await self.sweep()

    async def _refuse_if_built_on(self, actor: Actor, base: str) -> None:
        """By models of any project, of which only the actor's own are named."""
        tuned = [model for model in await models.adapters(self._store.db) if model.base == base]
        if not tuned:
            return
        own = [model.name for model in tuned if model.project == actor.project]
        named = f"{own[0]} among them" if own else "of other projects"
        raise FtdError(
            Kind.CONFLICT,
            f"{len(tuned)} models are built on {base}, {named}; remove those first.",
            param="model",
        )

    async def sweep(self) -> None:
        """Remove the bytes of deleted models that nobody needs any more."""
        now = self._store.clock.now()

        def work(tx: Transaction) -> tuple[str, ...]:
            paths = []
            for model in models.unpurged(tx):
                used = jobs.in_use(tx, "model", model.name) or jobs.in_use(tx, "base", model.name)
                if model.job is not None:
                    used = used or jobs.is_open(tx, model.job)
                if used or models.shares_bytes(tx, model.path):
                    continue
                models.purged(tx, model.name, now)
                paths.append(model.path)
            return tuple(paths)

        for path in await self._store.db.write(work):
            await asyncio.to_thread(shutil.rmtree, self._home.root / path, ignore_errors=True)

    async def recover(self) -> None:
        """After a start: remove what an interrupted `add`, export, publication or purge left.

        Whole models that no row names are set aside: their rows may have been lost.
        """
        await self._exports.recover()
        known = await models.unpurged_paths(self._store.db)
        deleted = await models.purged_paths(self._store.db)
        lost = []
        for path in (*self._home.models.iterdir(), *self._home.adapters.iterdir()):
            name = str(path.relative_to(self._home.root))
            if name in known:
                continue
            if path.name.startswith(".") or name in deleted:  # on its way in or out
                await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
            else:
                lost.append(path)
        await self._set_aside(lost)

    async def _set_aside(self, paths: Collection[Path]) -> None:
        now = self._store.clock.now()
        await asyncio.to_thread(unknown.set_aside, paths, self._home, now)


def _can_be_a_path(source: str) -> bool:
    """Whether the system can look for it: PATH_MAX and NAME_MAX, in bytes."""
    parts = source.encode("utf-8", "surrogatepass").split(b"/")
    return sum(map(len, parts)) + len(parts) <= 4096 and all(len(part) <= 255 for part in parts)
