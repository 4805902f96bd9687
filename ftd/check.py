"""What `ftd check` says: whether the configuration holds, and what would run on what."""

import asyncio
import shutil

from ftd.bell import Bell
from ftd.config import Settings
from ftd.core.device import CPU
from ftd.core.errors import FtdError
from ftd.core.models import Model, ModelKind
from ftd.host import certificates, devices
from ftd.host.home import Home
from ftd.launch import sandbox
from ftd.service.actor import PROJECT
from ftd.store import models, sound
from ftd.store.db import Database
from ftd.store.schema import outdated


def check(settings: Settings) -> int:
    """Print the findings; 0 when the daemon could serve, 1 when something stands in its way."""
    home = Home(settings.home)
    print(f"home          {home.root}")
    secured = "" if settings.tls.certificate is None else " (TLS)"
    print(f"REST          {settings.rest}{secured}")
    addresses = "".join(f", {address}{secured}" for address in settings.grpc)
    print(f"gRPC          unix socket{addresses}")
    found = devices.discover(settings.devices)
    for device in found:
        memory = f"{device.memory_bytes / 2**30:.1f} GiB"
        print(f"device        {device.id} ({device.name}, {memory})")
    if settings.devices.use == "auto" and found and found[0].id == CPU:
        print("GPU           none: no NVIDIA GPU can be used")
    problems = [] if found else ["there is no device to run on"]
    problems += _insecure(settings)
    problems += _unguarded(settings, home)
    known: tuple[Model, ...] = ()
    if sound.blank(home.database):
        if (leftover := home.leftover()) is not None:
            problems.append(sound.lost(home.database, leftover).message)
    elif outdated(home.database):
        print("database      of an older version; the next start brings it to this one's schema")
    else:
        known = asyncio.run(_models(home))
    for model in known:
        if model.kind is ModelKind.BASE:
            print(f"model         {model.name} {_training(settings, model.name)}")
    if not known:
        print("model         none yet: ftctl models add NAME SOURCE")
    names = {model.name for model in known}
    for alias, name in settings.aliases.items():
        print(f"alias         {alias} -> {name}")
        if known and name not in names:
            problems.append(f"the alias {alias} stands for {name}, which is not registered")
    nearest = next(path for path in (home.root, *home.root.parents) if path.exists())
    print(f"free disk     {shutil.disk_usage(nearest).free / 2**30:.1f} GiB")
    for problem in problems:
        print(f"problem       {problem}")
    print("the daemon would not serve every name" if problems else "ready to serve")
    return 1 if problems else 0


def _unguarded(settings: Settings, home: Home) -> list[str]:
    """Print what of the sandbox does not hold here; why no worker would start, where it must."""
    missing = sandbox.lacks(home.root)
    print("sandbox       " + (f"in part: {'; '.join(missing)}" if missing else "whole"))
    if missing and settings.sandbox.require:
        return ["sandbox.require is set, and this kernel lacks a part of the sandbox"]
    return []


def _insecure(settings: Settings) -> list[str]:
    """Why there could be no TLS, where it is wanted."""
    try:
        certificates.read(settings.tls)
    except FtdError as error:
        return [error.message]
    return []


def _training(settings: Settings, base: str) -> str:
    training = settings.training_of(base)
    if training.full:
        how = f"every weight, learning rate {training.full_learning_rate:g}"
    else:
        how = f"LoRA rank {training.lora.rank}, learning rate {training.lora_learning_rate:g}"
    return f"({how}, up to {training.context_tokens:,} tokens an example)"


async def _models(home: Home) -> tuple[Model, ...]:
    database = Database(home.database, Bell())
    await database.open()
    try:
        return await models.visible(database, PROJECT)
    finally:
        await database.close()
