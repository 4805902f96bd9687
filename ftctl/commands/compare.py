"""ftctl compare: two models side by side on the same prompts, graded if wanted."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftctl.answers import Answer, ask, check_model
from ftctl.client import Client, connect, explain, is_lost
from ftctl.failure import Failure, Status
from ftctl.grade import grade_by, needs_reference
from ftctl.objects import Object
from ftctl.output import Columns, Format, console, print_table, safe, say, show_data, working
from ftctl.prompts import Prompt, read_prompts
from ftd.v1 import chat_pb2

if TYPE_CHECKING:
    from rich.text import Text


class Form(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


@dataclass(slots=True)
class Side:
    """What one model made of one prompt."""

    answer: Answer | None = None
    score: float | None = None
    error: str | None = None

    @property
    def words(self) -> str:
        return f"[{self.error}]" if self.answer is None else self.answer.words


@dataclass(frozen=True, slots=True)
class Row:
    prompt: Prompt
    left: Side
    right: Side

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.left, self.right


# Does some work for each of many things; what comes of it, in order.
Over = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Over the prompts on which both models have a score."""

    graded: int
    means: tuple[float | None, float | None]
    wins: tuple[int, int]
    ties: int


def compare(
    context: typer.Context,
    model_a: Annotated[
        str,
        typer.Argument(metavar="MODEL_A", help="A base or tuned model, a checkpoint, an alias."),
    ],
    model_b: Annotated[str, typer.Argument(metavar="MODEL_B", help="Another.")],
    prompts: Annotated[
        Path,
        typer.Argument(
            metavar="PROMPTS",
            help="Lines of a training file; the assistant's last message, or the completion, is "
            "the reference. A line may also be an object with a prompt alone.",
        ),
    ],
    grader: Annotated[
        str | None,
        typer.Option(
            help="exact_match, text_similarity (F1 of the words shared with the reference), or a "
            "model that judges from 1 to 10."
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Of each answer.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="The same seed, the same answers.")] = None,
    limit: Annotated[
        int | None, typer.Option(help="Only the first so many prompts.", min=1)
    ] = None,
    at_once: Annotated[int, typer.Option(help="Requests at a time.", min=1, max=64)] = 4,
    form: Annotated[
        Form, typer.Option("-o", "--format", help="How to print it; json has everything.")
    ] = Form.TABLE,
) -> None:
    """Ask two models the same and show their answers side by side; a grader scores both.

    The exit status is 1 if any answer or score is missing.
    """
    asked = read_prompts(prompts, limit)
    if grader is not None and needs_reference(grader) and not any(p.reference for p in asked):
        raise Failure(
            f"{prompts} has no references to grade by",
            hint="end each conversation with the assistant's reply, or name a model as the grader",
            status=Status.USAGE,
        )
    models = (model_a, model_b)
    sampling = chat_pb2.Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed)
    with connect(context) as client:
        for name in {*models, *(() if grader is None or needs_reference(grader) else (grader,))}:
            check_model(client, name)
        with _several(at_once) as over:
            rows = _ask(client, asked, models, sampling, over)
            if grader is not None:
                _grade(client, rows, grader, over)
    tally = _tally(rows)
    if form is Form.TABLE:
        _print(rows, models, tally, graded=grader is not None)
    else:
        show_data(_object(rows, models, tally, grader), [], Format(form.value))
    _conclude(rows)


@contextmanager
def _several(at_once: int) -> Iterator[Over]:
    """Yields what does some work for each of many things, a few at a time, in order.

    An interrupt or a lost daemon leaves nothing running: what runs ends with the channel.
    """
    workers = ThreadPoolExecutor(at_once)
    try:
        yield lambda work, things: list(workers.map(work, things))
    except KeyboardInterrupt:
        raise typer.Exit(Status.INTERRUPTED) from None
    finally:
        workers.shutdown(wait=False, cancel_futures=True)


def _ask(
    client: Client,
    asked: Sequence[Prompt],
    models: tuple[str, str],
    sampling: chat_pb2.Sampling,
    over: Over,
) -> list[Row]:
    """One model after the other, because a daemon may have room for the weights of one alone."""

    def answer(model: str, prompt: Prompt) -> Side:
        request = chat_pb2.CompleteRequest(model=model, sampling=sampling)
        request.MergeFrom(prompt.request)
        side = Side()
        with _noting(side):
            side.answer = ask(client, request)
        return side

    columns = []
    for model in models:
        with working(f"asking {model} {len(asked):,} prompts"):
            columns.append(over(partial(answer, model), asked))
    return [Row(*cells) for cells in zip(asked, *columns, strict=True)]


def _grade(client: Client, rows: Sequence[Row], grader: str, over: Over) -> None:
    """Score every answer that there is something to score by."""
    grade = grade_by(grader, client)

    def score(graded: tuple[Prompt, Side]) -> None:
        prompt, side = graded
        if side.answer is not None and (prompt.reference is not None or not by_reference):
            with _noting(side):
                side.score = grade(prompt, side.answer)

    by_reference = needs_reference(grader)
    with working(f"grading by {grader}"):
        over(score, [(row.prompt, side) for row in rows for side in row.sides])


@contextmanager
def _noting(side: Side) -> Iterator[None]:
    """What goes wrong with one answer or score does not end the others.

    Raises grpc.RpcError when the daemon has gone.
    """
    import grpc

    try:
        yield
    except grpc.RpcError as error:
        if is_lost(error):
            raise
        side.error = explain(error, "this address").message
    except Failure as failure:
        side.error = failure.message


def _tally(rows: Sequence[Row]) -> Tally:
    pairs = [
        (left.score, right.score)
        for left, right in (row.sides for row in rows)
        if left.score is not None and right.score is not None
    ]
    columns = list(zip(*pairs, strict=True)) or [(), ()]
    left, right = (fmean(column) if column else None for column in columns)
    return Tally(
        graded=len(pairs),
        means=(left, right),
        wins=(sum(a > b for a, b in pairs), sum(b > a for a, b in pairs)),
        ties=sum(a == b for a, b in pairs),
    )


def _conclude(rows: Sequence[Row]) -> None:
    errors = [side.error for row in rows for side in row.sides if side.error is not None]
    if errors:
        count = f"{len(errors):,} of {2 * len(rows):,}"
        raise Failure(f"{count} answers are missing or without a score; the first: {errors[0]}")


def _object(
    rows: Sequence[Row], models: tuple[str, str], tally: Tally, grader: str | None
) -> Object:
    found: Object = {
        "object": "comparison",
        "models": list(models),
        "grader": grader,
        "data": [_row(row, models) for row in rows],
        "summary": None,
    }
    if grader is not None:
        found["summary"] = {
            "graded": tally.graded,
            "ties": tally.ties,
            "models": [
                {"model": model, "mean": mean, "wins": wins}
                for model, mean, wins in zip(models, tally.means, tally.wins, strict=True)
            ],
        }
    return found


def _row(row: Row, models: tuple[str, str]) -> Object:
    return {
        "line": row.prompt.line,
        "prompt": row.prompt.asked,
        "reference": row.prompt.reference,
        "answers": [_answer(side, model) for side, model in zip(row.sides, models, strict=True)],
    }


def _answer(side: Side, model: str) -> Object:
    answer = side.answer
    return {
        "model": model,
        "text": None if answer is None else answer.words,
        "finish_reason": None if answer is None else answer.reason,
        "completion_tokens": None if answer is None else answer.completion_tokens,
        "score": side.score,
        "error": side.error,
    }


def _print(rows: Sequence[Row], models: tuple[str, str], tally: Tally, *, graded: bool) -> None:
    screen = console()
    if screen.is_terminal:
        screen.print(_beside(rows, models, graded=graded))
    else:
        print_table(rows, _columns(rows, models, graded=graded))
    if graded:
        print()
        summary = list(zip(models, tally.means, tally.wins, strict=True))
        print_table(summary, SUMMARY)
        say(f"{tally.graded:,} of {len(rows):,} prompts graded, {tally.ties:,} ties")


def _columns(rows: Sequence[Row], models: tuple[str, str], *, graded: bool) -> Columns:
    """One line for each prompt, for programs that read lines."""
    columns: list[tuple[str, Callable[[Any], str]]] = [
        ("LINE", lambda row: str(row.prompt.line)),
        ("PROMPT", lambda row: row.prompt.asked),
    ]
    if any(row.prompt.reference is not None for row in rows):
        columns.append(("REFERENCE", lambda row: row.prompt.reference or ""))
    for number, model in enumerate(models):
        columns.append((model, _words(number)))
        if graded:
            columns.append(("SCORE", _score(number)))
    return columns


def _words(side: int) -> Callable[[Row], str]:
    return lambda row: row.sides[side].words


def _score(side: int) -> Callable[[Row], str]:
    return lambda row: _figure(row.sides[side].score)


def _beside(rows: Sequence[Row], models: tuple[str, str], *, graded: bool) -> Any:
    """A table whose cells are texts of several lines, for people."""
    from rich.table import Table

    references = any(row.prompt.reference is not None for row in rows)
    table = Table(show_lines=True, header_style="bold", expand=True)
    for title in ("PROMPT", *(("REFERENCE",) if references else ()), *models):
        table.add_column(_cell(title), overflow="fold", ratio=1)
    for row in rows:
        cells = [_cell(row.prompt.asked)]
        cells += [_cell(row.prompt.reference or "")] if references else []
        cells += [_scored(side) if graded else _cell(side.words) for side in row.sides]
        table.add_row(*cells)
    return table


def _scored(side: Side) -> "Text":
    cell = _cell(side.words)
    return cell.append(f"\n\nscore {_figure(side.score) or '-'}", style="bold")


def _cell(text: str) -> "Text":
    from rich.text import Text

    return Text(safe(text))


def _figure(score: float | None) -> str:
    return "" if score is None else f"{score:.3g}"


SUMMARY: Columns = (
    ("MODEL", lambda row: row[0]),
    ("MEAN", lambda row: "" if row[1] is None else f"{row[1]:.3f}"),
    ("WINS", lambda row: f"{row[2]:,}"),
)
