"""ftctl chat: one prompt and its answer, or a conversation."""

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from enum import StrEnum
from typing import Annotated

import typer

from ftctl.answers import Answer, chat_request, check_model, completion, listen, message
from ftctl.client import Client, connect, explain, is_lost
from ftctl.failure import Failure, Status
from ftctl.output import safe, say, to_json
from ftd.v1 import chat_pb2

PROMPT = "> "
HELP = "/reset forgets the conversation, /quit or Ctrl-D ends it, Ctrl-C stops an answer"


class Form(StrEnum):
    TEXT = "text"
    JSON = "json"


def chat(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A base or tuned model, a checkpoint, an alias.")
    ],
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT",
            help="What to ask; - reads it from stdin. Without it: a conversation.",
        ),
    ] = None,
    system: Annotated[str | None, typer.Option(help="The system's message.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy. Default: 1.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Default: all that fit.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed, the same answer.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Of the likeliest tokens. Default: 1.")
    ] = None,
    form: Annotated[
        Form, typer.Option("-o", "--format", help="json: the API's chat.completion, whole.")
    ] = Form.TEXT,
) -> None:
    """Ask MODEL; the answer is printed as it is made.

    Without PROMPT, on a terminal, it is a conversation: /reset forgets it, /quit or Ctrl-D ends
    it, Ctrl-C stops an answer.
    """
    sampling = chat_pb2.Sampling(
        temperature=temperature, max_tokens=max_tokens, seed=seed, top_p=top_p
    )
    opening = [] if system is None else [message("system", system)]
    if prompt is None and sys.stdin.isatty():
        if form is Form.JSON:
            raise Failure("json needs a PROMPT, or - and the prompt in stdin", status=Status.USAGE)
        with connect(context) as client:
            check_model(client, model)
            _Talk(client, model, opening, sampling).go_on()
        return
    asked = [*opening, message("user", _read(prompt))]
    with connect(context) as client, _interruptible():
        answer = Answer()
        _hear(client, chat_request(model, asked, sampling), answer, quiet=form is Form.JSON)
        if form is Form.JSON:
            print(to_json(completion(answer), indent=2))


class _Talk:
    """A conversation on a terminal; what a failed turn asked is forgotten."""

    def __init__(
        self,
        client: Client,
        model: str,
        opening: list[chat_pb2.ChatMessage],
        sampling: chat_pb2.Sampling,
    ) -> None:
        self._client = client
        self._model = model
        self._opening = opening
        self._sampling = sampling
        self._said = list(opening)

    def go_on(self) -> None:
        """Until the person at the terminal has enough."""
        say(f"{self._model}: {HELP}")
        for line in _lines():
            match line.strip():
                case "":
                    continue
                case "/quit":
                    return
                case "/help":
                    say(HELP)
                case "/reset":
                    self._said = list(self._opening)
                    say("forgotten")
                case _:
                    self._turn(message("user", line))

    def _turn(self, asked: chat_pb2.ChatMessage) -> None:
        import grpc

        request = chat_request(self._model, [*self._said, asked], self._sampling)
        answer = Answer()
        try:
            _hear(self._client, request, answer)
        except KeyboardInterrupt:
            say("stopped")
        except grpc.RpcError as error:
            if is_lost(error):
                raise
            failure = explain(error, "this address")
            say(f"ftctl: {failure.message}")
            return
        if answer.text:
            self._said += [asked, message("assistant", answer.text)]


def _hear(
    client: Client, request: chat_pb2.CompleteRequest, answer: Answer, *, quiet: bool = False
) -> None:
    """Print the answer as it comes, unless `quiet`, and say if it was cut off."""
    try:
        with closing(listen(client, request, answer)) as texts:
            for text in texts:
                if not quiet:
                    _print(text)
    finally:
        if not quiet and (answer.text or answer.reason) and not answer.text.endswith("\n"):
            print(flush=True)
    if answer.reason == "length":
        say(f"cut off after {answer.completion_tokens:,} tokens")


def _print(text: str) -> None:
    """As it is into a pipe; on a terminal it must not steer it."""
    sys.stdout.write(safe(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def _lines() -> Iterator[str]:
    """What is typed, line by line, until Ctrl-D; Ctrl-C drops the line."""
    import readline  # noqa: F401  # input() edits lines and recalls them with it

    beside = sys.stdout if sys.stdout.isatty() else sys.stderr  # a prompt is no data
    while True:
        try:
            if beside is sys.stdout:
                yield input(PROMPT)
            else:
                print(PROMPT, end="", file=beside, flush=True)
                yield input()
        except KeyboardInterrupt:
            print()
        except EOFError:
            print()
            return


def _read(prompt: str | None) -> str:
    """The prompt, from stdin for `-` or where it is piped. Raises Failure for none."""
    if prompt not in (None, "-"):
        return prompt
    try:
        text = sys.stdin.buffer.read().decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise Failure(f"stdin is not UTF-8: {error}", status=Status.USAGE) from error
    if not text.strip():
        raise Failure("stdin holds no prompt", status=Status.USAGE)
    return text


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(Status.INTERRUPTED) from None
