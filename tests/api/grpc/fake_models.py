"""Models in memory: rows without weights."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ftd.core.errors import invalid, no_such_model
from ftd.core.models import Model, ModelKind
from ftd.service.actor import Actor
from ftd.service.exports import Exported, Form

BASE = "smollm2"


@dataclass
class FakeModels:
    rows: dict[str, Model] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    exports: Path | None = None  # the files of whatever is exported
    exporting: int = 0

    def put(self, name: str, kind: ModelKind = ModelKind.BASE, job: str | None = None) -> Model:
        self.rows[name] = Model(
            name=name,
            project="default",
            kind=kind,
            base=BASE,
            path=f"models/{name}",
            sha256="1" * 64,
            created_at=1_700_000_000,
            job=job,
            facts={"architecture": "LlamaForCausalLM", "parameters": 135, "context_tokens": 2048},
        )
        return self.rows[name]

    async def add(self, actor: Actor, *, name: str, source: str) -> Model:
        if name in self.rows:
            raise invalid(f"There is a model {name!r} already.", param="name")
        self.sources.append(source)
        return self.put(name)

    async def list(self, actor: Actor) -> tuple[Model, ...]:
        return tuple(self.rows.values())

    async def get(self, actor: Actor, name: str) -> Model:
        if name not in self.rows:
            raise no_such_model(name)
        return self.rows[name]

    async def delete(self, actor: Actor, name: str, *, bases: bool = False) -> None:
        await self.get(actor, name)
        del self.rows[name]

    @asynccontextmanager
    async def export(
        self, actor: Actor, name: str, form: str | None = None
    ) -> AsyncIterator[Exported]:
        await self.get(actor, name)
        if form == "gguf":
            raise invalid("'OddForCausalLM' cannot be converted to GGUF.", param="format")
        assert self.exports is not None
        files = tuple(sorted(self.exports.iterdir()))
        self.exporting += 1
        try:
            yield Exported(
                form=Form(form or "adapter"),
                files=files,
                bytes=sum(file.stat().st_size for file in files),
            )
        finally:
            self.exporting -= 1
