"""Answers: whom a name means, what may be asked, and the answer as it is written."""

import math
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from ftd.config import Settings
from ftd.core import chat
from ftd.core.errors import FtdError, array_too_long, empty_array, invalid, no_such_model
from ftd.core.models import Model, ModelKind, is_full
from ftd.service.actor import Actor
from ftd.service.veil import veiled_error
from ftd.serving.handoff import Handoff, Relay
from ftd.serving.pool import Pool
from ftd.store import models
from ftd.store.store import Store

MAX_CHOICES = 128
MAX_TOKENS = 2**31 - 1
MAX_STOPS = 4
MAX_LIKELY = {"chat": 20, "text": 5, "tokens": 5}  # of top_logprobs, of logprobs in completions
MAX_BIASES = 1024
SEEDS = (-(2**63), 2**63 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A request for an answer; its values are checked here, its types were by the face."""

    model: str
    prompt: chat.Prompt
    sampling: chat.Sampling
    constraint: chat.Constraint | None = None
    echo: bool = False


class Reply:
    """An answer that has begun: Pieces, a Finished for each choice, and Ended.

    `model` is the name as it was asked for, an alias too: clients look their prices and limits up
    by it. Close what is not read to its end, and the work on it ends.
    """

    def __init__(
        self,
        *,
        request_id: str,
        model: str,
        created_at: int,
        began: chat.Began,
        answers: AsyncGenerator[chat.Answer, None],
    ) -> None:
        self.id = request_id
        self.model = model
        self.created_at = created_at
        self.began = began
        self._answers = answers

    def __aiter__(self) -> AsyncIterator[chat.Piece | chat.Finished | chat.Ended]:
        return self

    async def __anext__(self) -> chat.Piece | chat.Finished | chat.Ended:
        answer = await anext(self._answers)
        assert isinstance(answer, chat.Piece | chat.Finished | chat.Ended), answer
        return answer

    async def aclose(self) -> None:
        await self._answers.aclose()


class Chat:
    """Chat and text completions by base models, tuned models and checkpoints."""

    def __init__(
        self, store: Store, settings: Settings, pool: Pool, handoff: Handoff | None = None
    ) -> None:
        self._store = store
        self._settings = settings
        self._pool = pool
        self._handoff = handoff

    async def generate(self, actor: Actor, request: ChatRequest) -> Reply:
        """Begin an answer; returns when the prompt is read.

        Raises NOT_FOUND for a model that there is not, INVALID for a request that cannot be
        answered, UNAVAILABLE when no device is free in time or too much waits already. The reply
        raises UNAVAILABLE when its worker ends before it is complete.
        """
        self.check(request)
        model = await self._model(actor, request.model)
        ids = self._store.ids
        request_id = ids.chat() if isinstance(request.prompt, chat.Conversation) else ids.text()
        asked = chat.Generate(
            id=request_id,
            owner=actor.project,
            prompt=request.prompt,
            sampling=request.sampling,
            constraint=request.constraint,
            echo=request.echo,
        )
        answers = self._veiled(actor, await self._answers(model, asked))
        began = await anext(answers)
        assert isinstance(began, chat.Began), began
        return Reply(
            request_id=request_id,
            model=request.model,
            created_at=self._store.clock.now(),
            began=began,
            answers=answers,
        )

    async def _answers(
        self, model: Model, asked: chat.Generate
    ) -> AsyncGenerator[chat.Answer, None]:
        if self._handoff is not None:
            return self._handoff.generate(model, asked)
        weights = await self._weights(model)
        return self._pool.generate(weights, None if is_full(model) else model, asked)

    async def _veiled(
        self, actor: Actor, answers: AsyncGenerator[chat.Answer, None]
    ) -> AsyncGenerator[chat.Answer, None]:
        """The answers; why there are none, or no more, may be another project's job."""
        async with aclosing(answers):
            try:
                async for answer in answers:
                    yield answer
            except FtdError as error:
                raise await veiled_error(self._store.db, actor.project, error) from error

    async def relay(self, actor: Actor, path: str, model: str, body: bytes) -> Relay | None:
        """Hand a request over to the server that answers instead of us; None: there is none.

        `path` is "/v1/chat/completions" or "/v1/completions". The body goes as it is, but for an
        alias in it. Raises NOT_FOUND, INVALID for a model that it cannot serve, UNAVAILABLE.
        """
        if self._handoff is None:
            return None
        found = await self._model(actor, model)
        return await self._handoff.relay(path, found, body, renamed=found.name != model)

    def check(self, request: ChatRequest) -> None:
        """Raises INVALID for a value out of its bounds, with OpenAI's param and code."""
        check(request)
        queue = self._settings.serving.queue
        if self._handoff is None and request.sampling.n > queue:
            raise _above("n", request.sampling.n, queue, "integer")

    async def _model(self, actor: Actor, name: str) -> Model:
        resolved = self._settings.aliases.get(name, name)
        model = await models.get(self._store.db, actor.project, resolved)
        if model is None:
            raise no_such_model(name)
        return model

    async def _weights(self, model: Model) -> Model:
        """The model itself if it is whole, else the base that it is an adapter to."""
        if is_full(model):
            return model
        base = await models.any_named(self._store.db, model.base)
        if base is None or base.kind is not ModelKind.BASE:
            raise no_such_model(model.base)
        return base


def check(request: ChatRequest) -> None:
    """Every bound of OpenAI's requests, in their words. Raises INVALID."""
    sampling = request.sampling
    _within("temperature", sampling.temperature, 0, 2)
    _within("top_p", sampling.top_p, 0, 1)
    _within("frequency_penalty", sampling.frequency_penalty, -2, 2)
    _within("presence_penalty", sampling.presence_penalty, -2, 2)
    _within("n", sampling.n, 1, MAX_CHOICES)
    if sampling.max_tokens is not None:
        least = 1 if request.prompt.kind == "chat" else 0  # none: only the prompt's echo
        _within("max_tokens", sampling.max_tokens, least, MAX_TOKENS)
    if sampling.seed is not None:
        _within("seed", sampling.seed, *SEEDS)
    if sampling.top_logprobs is not None:
        name = "top_logprobs" if request.prompt.kind == "chat" else "logprobs"
        _within(name, sampling.top_logprobs, 0, MAX_LIKELY[request.prompt.kind])
    _check_stops(sampling.stop)
    _check_biases(sampling.logit_bias)
    if request.echo and sampling.top_logprobs is not None:
        raise invalid(
            "Unsupported parameter: 'logprobs' together with 'echo': the prompt's own tokens have "
            "no logprobs here.",
            code="unsupported_parameter",
            param="logprobs",
        )
    _check_prompt(request.prompt)


def _check_stops(stops: tuple[str, ...]) -> None:
    if len(stops) > MAX_STOPS:
        raise array_too_long("stop", len(stops), MAX_STOPS)
    if "" in stops:
        raise invalid(
            "Invalid 'stop': empty string. Expected a string with minimum length 1, but got an "
            "empty string instead.",
            code="empty_string",
            param="stop",
        )


def _check_biases(biases: dict[int, float]) -> None:
    if len(biases) > MAX_BIASES:
        raise invalid(
            f"Invalid 'logit_bias': too many properties. Expected an object with at most "
            f"{MAX_BIASES} properties, but got an object with {len(biases)} properties instead.",
            code="object_above_max_properties",
            param="logit_bias",
        )
    for token, bias in biases.items():
        if token < 0:
            raise invalid(
                f"Invalid key in 'logit_bias': {token}. Expected the id of a token.",
                code="invalid_value",
                param="logit_bias",
            )
        _within("logit_bias", bias, -100, 100)


def _check_prompt(prompt: chat.Prompt) -> None:
    if isinstance(prompt, chat.Conversation) and not prompt.messages:
        raise empty_array("messages")
    if isinstance(prompt, chat.Tokens):
        if not prompt.ids:
            raise empty_array("prompt")
        if min(prompt.ids) < 0:
            raise invalid(
                f"Invalid 'prompt': {min(prompt.ids)} is no token's id.",
                code="invalid_value",
                param="prompt",
            )


def _within(param: str, value: float, low: float, high: float) -> None:
    sort = "integer" if isinstance(value, int) else "decimal"
    if math.isnan(value):
        raise invalid(
            f"Invalid type for '{param}': expected a decimal number, but got NaN instead.",
            code="invalid_type",
            param=param,
        )
    if value < low:
        raise invalid(
            f"Invalid '{param}': {sort} below minimum value. Expected a value >= {low}, but got "
            f"{value} instead.",
            code=f"{sort}_below_min_value",
            param=param,
        )
    if value > high:
        raise _above(param, value, high, sort)


def _above(param: str, value: float, high: float, sort: str) -> FtdError:
    return invalid(
        f"Invalid '{param}': {sort} above maximum value. Expected a value <= {high}, but got "
        f"{value} instead.",
        code=f"{sort}_above_max_value",
        param=param,
    )
