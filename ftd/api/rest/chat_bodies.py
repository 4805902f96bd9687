"""What clients may send to get an answer: OpenAI's two requests, their types checked.

Null is the same as absent and unknown keys are ignored, as in every body. A key that OpenAI knows
(or that other servers of open models do) and that would change the answer, but cannot here, is
refused by its name: nobody shall believe that it was heeded. Bounds are the service's; those that
a schema can tell are in the document.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, WithJsonSchema
from pydantic_core import PydanticCustomError

from ftd.api.rest import chat_document as document
from ftd.api.rest.bodies import Integer, bounds
from ftd.core import chat
from ftd.core.conversation import read_constraint, read_conversation
from ftd.core.errors import FtdError, empty_array, invalid
from ftd.service.chat import MAX_CHOICES, MAX_LIKELY, MAX_TOKENS, ChatRequest

COMPLETION_TOKENS = 16  # of /v1/completions, where max_tokens is absent

# Keys that cannot be heeded, and the values by which they ask for nothing.
_OF_OTHERS: dict[str, tuple[object, ...]] = {
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "ignore_eos": (False,),
    "min_p": (0,),
    "min_tokens": (0,),
    "repetition_penalty": (1,),
    "structured_outputs": (),
    "top_k": (-1, 0),
}
_OF_CHAT = _OF_OTHERS | {
    "audio": (),
    "function_call": (),
    "functions": (),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "reasoning_effort": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "verbosity": (),
    "web_search_options": (),
}
_OF_TEXT = _OF_OTHERS | {"suffix": ("",)}
_INSTEAD = {
    "function_call": " Use 'tool_choice' instead.",
    "functions": " Use 'tools' instead.",
    "guided_grammar": " Use 'response_format' instead.",
    "guided_json": " Use 'response_format' instead.",
}


def _number(value: object) -> object:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise PydanticCustomError("float_type", "expected a number")
    if isinstance(value, int) and abs(value) > 2**53:  # too large for a float, or near to it
        raise PydanticCustomError("number_range", "the number is too large")
    return value


def _stops(value: object) -> object:
    """A string or an array of them; the first fault is enough, arrays may be long."""
    if value is None or isinstance(value, str):
        return value if value is None else [value]
    if not isinstance(value, list):
        raise PydanticCustomError("list_type", "expected a string or an array of strings")
    if not all(isinstance(stop, str) for stop in value):
        raise PydanticCustomError("string_type", "expected an array of strings alone")
    return value


def _biases(value: object) -> object:
    """A number for each token's id; JSON's keys are strings."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise PydanticCustomError("dict_type", "expected an object of token ids and numbers")
    biases = {}
    for key, bias in value.items():
        if not (key.isascii() and key.isdigit() and len(key) <= 10):
            raise PydanticCustomError("key_value", "every key must be a token's id")
        if isinstance(bias, bool) or not isinstance(bias, int | float):
            raise PydanticCustomError("float_type", "expected a number for every token's id")
        biases[int(key)] = _number(bias)
    return biases


Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Stops = Annotated[list[str], BeforeValidator(_stops), WithJsonSchema(document.STOPS)]
Biases = Annotated[dict[int, float], BeforeValidator(_biases), WithJsonSchema(document.BIASES)]


class StreamOptions(BaseModel):
    include_usage: StrictBool | None = None
    include_obfuscation: StrictBool | None = Field(None, description="Never done.")


class _Asked(BaseModel):
    """What both requests have."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(description="A base model, an alias, a tuned model or a checkpoint.")
    max_tokens: Integer | None = Field(None, description="At most so many tokens for each choice.")
    temperature: Number | None = Field(
        None, json_schema_extra=bounds(0, 2), description="Default 1; 0 is greedy."
    )
    top_p: Number | None = Field(None, json_schema_extra=bounds(0, 1), description="Default 1.")
    n: Integer | None = Field(
        None,
        json_schema_extra=bounds(1, MAX_CHOICES),
        description="Choices for each prompt, default 1.",
    )
    stop: Stops | None = Field(None, description="The answer ends before one of them.")
    seed: Integer | None = Field(
        None,
        json_schema_extra=document.SEED,
        description="The same answer each time; else one is drawn.",
    )
    frequency_penalty: Number | None = Field(
        None, json_schema_extra=document.PENALTY, description="Default 0."
    )
    presence_penalty: Number | None = Field(
        None, json_schema_extra=document.PENALTY, description="Default 0."
    )
    logit_bias: Biases | None = Field(None, description="By token id.")
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def _refuse(self, unheeded: Mapping[str, tuple[object, ...]]) -> None:
        for name, value in (self.model_extra or {}).items():
            harmless = unheeded.get(name)
            if harmless is not None and value is not None and value not in harmless:
                raise unsupported(name)
        if self.stream_options is not None and not self.stream:
            raise invalid(
                "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
                param="stream_options",
            )

    def _sampling(self, max_tokens: int | None, top_logprobs: int | None) -> chat.Sampling:
        given = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "n": self.n,
            "stop": self.stop and tuple(self.stop),
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
            "logit_bias": self.logit_bias,
        }
        return chat.Sampling(
            max_tokens=max_tokens,
            seed=self.seed,
            top_logprobs=top_logprobs,
            **{name: value for name, value in given.items() if value is not None},
        )


class ChatBody(_Asked):
    """OpenAI's request for an answer to a conversation."""

    messages: Annotated[Any, WithJsonSchema(document.MESSAGES)] = Field(
        description="Roles system, developer, user, assistant and tool; content is text."
    )
    max_tokens: Integer | None = Field(
        None,
        json_schema_extra={"deprecated": True, **document.CHAT_TOKENS},
        description="The older name of max_completion_tokens.",
    )
    max_completion_tokens: Integer | None = Field(
        None,
        json_schema_extra=document.CHAT_TOKENS,
        description="At most so many tokens for each choice; else what the context holds.",
    )
    logprobs: StrictBool | None = None
    top_logprobs: Integer | None = Field(
        None, json_schema_extra=bounds(0, MAX_LIKELY["chat"]), description="Needs logprobs."
    )
    tools: Annotated[Any, WithJsonSchema(document.TOOLS)] = None
    tool_choice: Annotated[Any, WithJsonSchema(document.TOOL_CHOICE)] = Field(
        None, description="auto, none, required, or the function to be called."
    )
    parallel_tool_calls: StrictBool | None = None
    response_format: Annotated[Any, WithJsonSchema(document.FORMAT)] = Field(
        None, description="text, json_object or json_schema."
    )

    @property
    def names(self) -> dict[str, str]:
        """What a parameter that the service speaks of is called in this request."""
        if self.max_completion_tokens is None:
            return {}
        return {"max_tokens": "max_completion_tokens"}

    def request(self) -> ChatRequest:
        """As the service takes it. Raises INVALID for what cannot be heeded."""
        self._refuse(_OF_CHAT)
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid(
                "Invalid value for 'top_logprobs': it needs 'logprobs' set to true.",
                param="top_logprobs",
            )
        parallel = self.parallel_tool_calls is not False
        return ChatRequest(
            model=self.model,
            prompt=read_conversation(self.messages, self.tools, self.tool_choice, parallel),
            sampling=self._sampling(
                self._max_tokens(), (self.top_logprobs or 0) if self.logprobs else None
            ),
            constraint=read_constraint(self.response_format),
        )

    def _max_tokens(self) -> int | None:
        newer, older = self.max_completion_tokens, self.max_tokens
        if newer is not None and older is not None and newer != older:
            raise invalid(
                "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not "
                "supported; leave 'max_tokens' out.",
                param="max_tokens",
            )
        return older if newer is None else newer


class CompletionBody(_Asked):
    """OpenAI's request for a text, or several, to go on."""

    prompt: Annotated[Any, WithJsonSchema(document.PROMPT)] = Field(
        description="Texts, or token ids of the model's own tokenizer; control tokens are text."
    )
    max_tokens: Integer | None = Field(
        None,
        json_schema_extra=bounds(0, MAX_TOKENS),
        description=f"At most so many tokens for each choice, default {COMPLETION_TOKENS}.",
    )
    best_of: Integer | None = Field(
        None,
        json_schema_extra=bounds(1, MAX_CHOICES),
        description="The same as n, or absent.",
    )
    echo: StrictBool | None = Field(None, description="The text begins with the prompt.")
    logprobs: Integer | None = Field(
        None,
        json_schema_extra=bounds(0, MAX_LIKELY["text"]),
        description="So many beside each token's own.",
    )

    def requests(self) -> list[ChatRequest]:
        """One for each prompt. Raises INVALID for what cannot be heeded."""
        self._refuse(_OF_TEXT)
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise unsupported("best_of", " All choices are returned: leave it out, or equal to n.")
        prompts = read_prompts(self.prompt)
        n = 1 if self.n is None else self.n
        if n * len(prompts) > MAX_CHOICES:
            raise invalid(
                f"Invalid 'n': {len(prompts)} prompts with {n} choices each are more "
                f"than {MAX_CHOICES} choices.",
                code="integer_above_max_value",
                param="n",
            )
        tokens = COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens
        sampling = self._sampling(tokens, self.logprobs)
        return [
            ChatRequest(model=self.model, prompt=prompt, sampling=sampling, echo=bool(self.echo))
            for prompt in prompts
        ]


def read_prompts(prompt: object) -> tuple[chat.Prompt, ...]:
    """A string, strings, token ids, or arrays of them. Raises INVALID with OpenAI's param."""
    if prompt is None:
        raise invalid(
            "Missing required parameter: 'prompt'.",
            code="missing_required_parameter",
            param="prompt",
        )
    if isinstance(prompt, str):
        return (chat.Text(text=prompt),)
    if prompt == []:
        raise empty_array("prompt")
    if isinstance(prompt, list):
        if all(isinstance(text, str) for text in prompt):
            return tuple(chat.Text(text=text) for text in prompt)
        if _are_ids(prompt):
            return (chat.Tokens(ids=tuple(prompt)),)
        if all(isinstance(ids, list) for ids in prompt):
            return tuple(_tokens(ids, f"prompt[{index}]") for index, ids in enumerate(prompt))
    raise _no_prompt("prompt")


def _tokens(ids: list[Any], at: str) -> chat.Tokens:
    if not ids:
        raise empty_array(at)
    if not _are_ids(ids):
        raise _no_prompt(at)
    return chat.Tokens(ids=tuple(ids))


def _are_ids(values: list[Any]) -> bool:
    # `type`, because true is an int too
    return all(type(value) is int and 0 <= value <= document.MAX_TOKEN_ID for value in values)


def unsupported(param: str, instead: str | None = None) -> FtdError:
    hint = _INSTEAD.get(param, "") if instead is None else instead
    return invalid(
        f"Unsupported parameter: '{param}' is not supported by this server.{hint}",
        code="unsupported_parameter",
        param=param,
    )


def _no_prompt(at: str) -> FtdError:
    wanted = "an array of token ids"
    if at == "prompt":
        wanted = f"a string, an array of strings, {wanted}, or an array of such arrays"
    return invalid(
        f"Invalid type for '{at}': expected {wanted}.",
        code="invalid_type",
        param=at,
    )
