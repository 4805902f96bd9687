"""Hands requests over to a `vllm serve` that runs already, and keeps its adapters as our rows are.

It must have been started with --enable-lora, with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its
environment, where it can read our home, and with our name of the base as --served-model-name. The
calls are those of its documentation (docs.vllm.ai, LoRA adapters): load_lora_adapter,
unload_lora_adapter, and /v1/models, which lists an adapter with its path as `root`.

What it says of a request may quote the prompt: that goes to who sent the request, as a refusal, and
nowhere else. What it says of our own calls, which hold none, is told and logged.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from ftd.bell import Bell, wait
from ftd.config import Serving
from ftd.core import chat
from ftd.core.errors import FtdError, Kind, invalid
from ftd.core.models import Model, ModelKind, is_full
from ftd.host.home import Home
from ftd.serving import translate
from ftd.serving.handoff import Relay
from ftd.store import models
from ftd.store.store import Store

log = logging.getLogger(__name__)

CONNECT_S = 5.0
SILENCE_S = 600.0  # of one that owes an answer; OpenAI's own clients wait no longer
CALL_S = 300.0  # to load an adapter
TICK_S = 30.0  # how late a restart of the other server is seen when nobody asks for anything
PAUSE_S = 1.0  # between looks, so that a burst of commits is one look
PASSED_ON = ("content-type", "retry-after")
WORDS = 500  # characters of what it says that are told on
LOADED_ALREADY = "already been loaded"


class Away(FtdError):
    """The other server does not answer at all."""


@dataclass(frozen=True, slots=True)
class _Served:
    """What the other server has: its base models, and the paths of its adapters by name."""

    bases: frozenset[str]
    adapters: dict[str, Path]


class Vllm:
    """A Handoff. Belongs to one event loop; `close` it there.

    Raises INVALID for an address or a key that is none.
    """

    def __init__(self, settings: Serving, store: Store, home: Home, bell: Bell) -> None:
        self._url = _without_password(settings.vllm_url)
        self._store = store
        self._home = home
        self._bell = bell
        self._served = _Served(frozenset(), {})
        self._loading: dict[str, asyncio.Lock] = {}
        self._untaken: set[str] = set()
        self._told: str | None = None
        headers = {"Accept-Encoding": "identity"}  # what comes is passed on as it is
        if key := settings.vllm_key.get_secret_value():
            if not (key.isascii() and key.isprintable()):  # the HTTP library would say which
                raise invalid("serving.vllm_key is no key: it is not of printable ASCII characters")
            headers["Authorization"] = f"Bearer {key}"
        try:
            self._http = httpx2.AsyncClient(
                base_url=settings.vllm_url,
                headers=headers,
                timeout=httpx2.Timeout(None, connect=CONNECT_S, read=SILENCE_S),
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20),
                trust_env=False,
            )
        except httpx2.InvalidURL as error:
            raise invalid(f"serving.vllm_url: {self._url!r}: {error}") from error

    async def close(self) -> None:
        await self._http.aclose()

    async def relay(self, path: str, model: Model, body: bytes, *, renamed: bool) -> Relay:
        """Send a request on, its adapter registered before. Raises INVALID, UNAVAILABLE."""
        if renamed:
            body = json.dumps(json.loads(body) | {"model": model.name}).encode()
        response = await self._ask(path, model, body)
        return Relay(
            status=response.status_code,
            headers={k: v for k, v in response.headers.items() if k.lower() in PASSED_ON},
            body=self._parts(response),
            close=response.aclose,
        )

    async def generate(
        self, model: Model, request: chat.Generate
    ) -> AsyncGenerator[chat.Answer, None]:
        """Ask in its words, and answer in ours. Raises what it refuses with."""
        told = json.dumps(translate.body(request, model.name)).encode()
        response = await self._ask(translate.path(request), model, told)
        try:
            if not response.is_success:
                await response.aread()
                raise _passed_on(response)
            reader = translate.Reader(request)
            async with aclosing(_events(response)) as events:
                async for event in events:
                    for answer in reader.take(event):
                        yield answer
            yield reader.end()
        except httpx2.HTTPError as error:
            raise self._away(error) from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _garbled(error) from error
        finally:
            await response.aclose()

    async def run(self) -> None:
        """Register what is new and unload what was deleted, for ever.

        Level-triggered from the rows and from what the other server says it has, so that a restart
        of either loses nothing.
        """
        loop = asyncio.get_running_loop()
        due, settled = 0.0, None
        while True:
            heard = self._bell.listen()
            try:
                rows = await models.adapters(self._store.db)
                names = frozenset(row.name for row in rows)
                if names != settled or loop.time() >= due:
                    settled = names if await self._settle(rows) else None
                    due = loop.time() + TICK_S
            except Exception:
                # Whatever it is, training must not end by it: the next turn tries again.
                log.exception("hand-off failed")
            await wait(heard, TICK_S)
            await asyncio.sleep(PAUSE_S)

    async def _settle(self, rows: tuple[Model, ...]) -> bool:
        """Make its adapters ours. Checkpoints are registered when they are asked for."""
        try:
            served = self._served = await self._look()
            for row in rows:
                new = row.name not in served.adapters and row.base in served.bases
                if new and row.kind is ModelKind.TUNED and not is_full(row):
                    await self._try_to_register(row)
            names = {row.name for row in rows}
            for name, path in served.adapters.items():
                if name not in names and path.is_relative_to(self._home.root):
                    await self._unload(name)
        except FtdError as error:
            if self._told != error.message:
                self._told = error.message
                log.warning("hand-off not settled", extra={"url": self._url, "why": error.message})
            return False
        self._told = None
        return True

    async def _try_to_register(self, model: Model) -> None:
        """One that it does not take is said once, and again to whoever asks for it."""
        try:
            await self._register(model)
        except FtdError as error:
            if isinstance(error, Away):
                raise
            if model.name not in self._untaken:
                log.warning("adapter not taken", extra={"model": model.name, "why": error.message})
            self._untaken.add(model.name)

    async def _register(self, model: Model) -> None:
        """Raises INVALID when the other server cannot serve it, UNAVAILABLE when it is away."""
        if is_full(model):
            raise invalid(
                f"{model.name} was trained in every weight; the vLLM server that answers here "
                "serves its base model and adapters to it alone.",
                code="model_not_available",
                param="model",
            )
        async with self._loading.setdefault(model.name, asyncio.Lock()):
            served = self._served = await self._look()
            if model.name in served.adapters:
                return
            if model.base not in served.bases:
                raise invalid(
                    f"{model.name} is built on {model.base}; the vLLM server that answers here "
                    f"serves {', '.join(sorted(served.bases)) or 'no model'}.",
                    code="model_not_available",
                    param="model",
                )
            path = self._home.root / model.path
            answer = await self._call(
                "POST", "/v1/load_lora_adapter", {"lora_name": model.name, "lora_path": str(path)}
            )
            if answer.is_success or LOADED_ALREADY in answer.text:
                served.adapters[model.name] = path
                log.info("adapter registered", extra={"model": model.name, "url": self._url})
                return
            raise _refused(answer, f"The vLLM server does not take the adapter {model.name}")

    async def _unload(self, name: str) -> None:
        answer = await self._call("POST", "/v1/unload_lora_adapter", {"lora_name": name})
        if not answer.is_success and answer.status_code != httpx2.codes.NOT_FOUND:
            raise _refused(answer, f"The vLLM server does not unload {name}")
        self._served.adapters.pop(name, None)
        self._loading.pop(name, None)
        log.info("adapter unloaded", extra={"model": name, "url": self._url})

    async def _look(self) -> _Served:
        answer = await self._call("GET", "/v1/models")
        try:
            cards: list[dict[str, Any]] = answer.json()["data"]
            return _Served(
                frozenset(card["id"] for card in cards if card.get("parent") is None),
                {card["id"]: Path(card["root"]) for card in cards if card.get("parent")},
            )
        except (ValueError, KeyError, TypeError) as error:
            raise _refused(answer, "The vLLM server does not list its models") from error

    async def _call(self, method: str, path: str, body: Any = None) -> httpx2.Response:
        try:
            return await self._http.request(method, path, json=body, timeout=CALL_S)
        except httpx2.HTTPError as error:
            raise self._away(error) from error

    async def _ask(self, path: str, model: Model, body: bytes) -> httpx2.Response:
        """Send a request whose model the other server knows, or learns before."""
        adapter = model.kind is not ModelKind.BASE
        if adapter and model.name not in self._served.adapters:
            await self._register(model)
        response = await self._send(path, body)
        if adapter and response.status_code == httpx2.codes.NOT_FOUND:
            # It was started anew since we looked, and knows nothing of ours.
            await response.aclose()
            await self._register(model)
            response = await self._send(path, body)
        return response

    async def _send(self, path: str, body: bytes) -> httpx2.Response:
        request = self._http.build_request(
            "POST", path, content=body, headers={"Content-Type": "application/json"}
        )
        try:
            return await self._http.send(request, stream=True)
        except httpx2.HTTPError as error:
            raise self._away(error) from error

    async def _parts(self, response: httpx2.Response) -> AsyncIterator[bytes]:
        try:
            async for part in response.aiter_raw():
                yield part
        except httpx2.HTTPError as error:
            raise self._away(error) from error

    def _away(self, error: httpx2.HTTPError) -> FtdError:
        why = type(error).__name__
        if isinstance(error, httpx2.ConnectError):  # before anything was sent that it could quote
            why = str(error) or why
        return Away(Kind.UNAVAILABLE, f"The vLLM server at {self._url} does not answer: {why}.")


def _without_password(url: str) -> str:
    """An address for clients and logs to see."""
    scheme, slashes, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return scheme + slashes + authority.rpartition("@")[2] + slash + path


async def _events(response: httpx2.Response) -> AsyncGenerator[dict[str, Any], None]:
    """The events of a stream up to its end. Raises what one of them says went wrong."""
    async for line in _lines(response):
        if not line.startswith(b"data:"):
            continue
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            log.debug("the vLLM server broke off", extra={"said": event["error"]})
            raise FtdError(Kind.UNAVAILABLE, "The vLLM server broke off; its log says why.")
        yield event
    raise FtdError(Kind.UNAVAILABLE, "The vLLM server's stream ends in the middle.")


async def _lines(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """Lines by line feeds alone: JSON may hold what str.splitlines takes for the end of one."""
    rest = b""
    async for part in response.aiter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line
    yield rest


def _refused(answer: httpx2.Response, what: str) -> FtdError:
    """Its refusal of one of our own calls."""
    told = _error(answer)
    words = str(told.get("message") or told.get("detail") or answer.text)[:WORDS]
    if answer.status_code == httpx2.codes.NOT_FOUND and words == "Not Found":
        words = "it was started without --enable-lora or VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
    if answer.status_code == httpx2.codes.BAD_REQUEST:
        return invalid(f"{what}: {words}", code="model_not_available", param="model")
    return FtdError(Kind.UNAVAILABLE, f"{what}: {words} ({answer.status_code}).")


def _passed_on(answer: httpx2.Response) -> FtdError:
    """Its refusal of a request as ours, its param and code too; of a fault, the status alone."""
    told = _error(answer)
    kinds = {400: Kind.INVALID, 404: Kind.NOT_FOUND, 413: Kind.TOO_LARGE}
    kind = kinds.get(answer.status_code)
    if kind is None:
        log.debug("the vLLM server failed", extra={"said": answer.text})
        status = answer.status_code
        return FtdError(Kind.UNAVAILABLE, f"The vLLM server answered {status}; its log says why.")
    code = told.get("code")
    return FtdError(
        kind,
        str(told.get("message") or answer.text),
        param=told.get("param"),
        code=code if isinstance(code, str) else None,
    )


def _garbled(error: Exception) -> FtdError:
    what = type(error).__name__
    return FtdError(Kind.UNAVAILABLE, f"The vLLM server's answer makes no sense ({what}).")


def _error(answer: httpx2.Response) -> dict[str, Any]:
    """What an error says, in the shape of its older releases or its newer ones."""
    try:
        told = answer.json()
    except ValueError:
        return {}
    told = told.get("error", told) if isinstance(told, dict) else {}
    return told if isinstance(told, dict) else {}
