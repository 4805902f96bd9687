"""Loss curves for a terminal: smoothed lines in braille, with letters that need no colour."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import plotille

from ftctl.objects import Object

TICKS_X, TICKS_Y = 6, 8
WIDTH, HEIGHT = 10 * TICKS_X, 2 * TICKS_Y  # in characters; with axes and labels it fits 80 columns
SMOOTHED = 24  # a noisy curve is the moving average of one part in SMOOTHED of its points
EMPTY = "\u2800"  # braille without a dot, which some fonts draw as rings
STRIDE = 12  # characters between the letters on a line

Points = Sequence[tuple[float, float]]


class Curve(NamedTuple):
    column: str
    name: str
    letter: str
    colour: str  # on a terminal, beside the letter
    noisy: bool = True  # measured on a batch, in contrast to a whole file


CURVES = (
    Curve("train_loss", "training", "t", "blue"),
    Curve("valid_loss", "validation, one batch", "v", "yellow"),
    Curve("full_valid_loss", "validation, whole file", "F", "red", noisy=False),
)


class Axis(NamedTuple):
    """From `low` to `high` in `ticks` equal parts, with round numbers between them."""

    low: float
    high: float
    ticks: int

    def label(self, tick: int) -> str:
        return f"{self.low + (self.high - self.low) * tick / self.ticks:.4g}"


def losses(rows: Sequence[Object], *, colour: bool) -> str:
    """The picture of every curve that has points, and what its letters mean."""
    curves = [(curve, points) for curve in CURVES if (points := _points(rows, curve))]
    if not curves:
        return "There is nothing to draw."
    steps, values = zip(*(point for _, points in curves for point in points), strict=True)
    x = axis(0, max(steps), TICKS_X, whole=True)
    y = axis(min(values), max(values), TICKS_Y)
    canvas = plotille.Canvas(WIDTH, HEIGHT, xmin=x.low, xmax=x.high, ymin=y.low, ymax=y.high)
    for number, (curve, points) in enumerate(curves):
        first = STRIDE * number // len(curves)  # so that one curve's letters do not hide another's
        _draw(canvas, curve, points, first / WIDTH * x.high, colour=colour)
    return "\n".join([*_framed(canvas, x, y), "", *_legend([c for c, _ in curves], rows, colour)])


def axis(low: float, high: float, ticks: int, *, whole: bool = False) -> Axis:
    """The tightest Axis around `low` and `high` whose parts are round; `whole`: integers."""
    least = max((high - low) / ticks, 0.01 * abs(high), 0.001)
    power = 0 if whole else math.floor(math.log10(least)) - 1
    while True:
        for digits in (1, 2, 2.5, 3, 4, 5, 6, 8) if power else (1, 2, 3, 4, 5, 6, 8):
            part = digits * 10.0**power
            start = math.floor(low / part + 1e-9) * part
            if start + ticks * part >= high * (1 - 1e-9):
                return Axis(start, start + ticks * part, ticks)
        power += 1


def smooth(points: Points, window: int) -> Points:
    """Each value as the mean of the `window` values around it, of fewer at the ends."""
    before, after = (window - 1) // 2, window // 2
    found = []
    for place, (step, _) in enumerate(points):
        near = [value for _, value in points[max(0, place - before) : place + after + 1]]
        found.append((step, math.fsum(near) / len(near)))
    return found


def _points(rows: Sequence[Object], curve: Curve) -> Points:
    """What was measured, smoothed where it is noisy."""
    found = [
        (float(row["step"]), float(row[curve.column]))
        for row in rows
        if row[curve.column] is not None and math.isfinite(row[curve.column])
    ]
    return smooth(found, _window(len(found))) if curve.noisy else found


def _window(count: int) -> int:
    return max(1, math.ceil(count / SMOOTHED))


def _draw(
    canvas: plotille.Canvas, curve: Curve, points: Points, first: float, *, colour: bool
) -> None:
    """A noisy curve as a line with a letter now and then, another as a letter at each point."""
    ink = curve.colour if colour else None
    right = canvas.xmax - (canvas.xmax - canvas.xmin) / (2 * WIDTH)  # the last dot, of two by four
    top = canvas.ymax - (canvas.ymax - canvas.ymin) / (4 * HEIGHT)  # in a character of braille
    points = [(min(x, right), min(y, top)) for x, y in points]
    if curve.noisy:
        for (x0, y0), (x1, y1) in pairwise(points):
            canvas.line(x0, y0, x1, y1, color=ink)
    stride = STRIDE / WIDTH * canvas.xmax if curve.noisy else 0.0
    due = min(first, points[-1][0])
    for x, y in points:
        if x >= due or not curve.noisy:
            canvas.text(x, y, curve.letter, color=ink)
            due = x + stride


def _framed(canvas: plotille.Canvas, x: Axis, y: Axis) -> list[str]:
    """The canvas with a number at every tick of its axes; "loss" is above, "step" at the end."""
    labels = [y.label(tick) for tick in range(y.ticks, -1, -1)]
    margin = max(map(len, [*labels, "loss"]))
    picture = canvas.plot().replace(EMPTY, " ").splitlines()
    every = HEIGHT // y.ticks
    lines = [f"{'loss':>{margin}}"]
    for number, line in enumerate(picture):
        label = labels[number // every] if number % every == 0 else ""
        lines.append(f"{label:>{margin}} |{line}".rstrip())
    lines.append(f"{labels[-1]:>{margin}} +{('-' * (WIDTH // x.ticks - 1) + '+') * x.ticks} step")
    numbers = "".join(f"{x.label(tick):>{WIDTH // x.ticks}}" for tick in range(1, x.ticks + 1))
    return [*lines, f"{x.label(0):>{margin + 2}}{numbers}"]


def _legend(curves: Sequence[Curve], rows: Sequence[Object], colour: bool) -> list[str]:
    window = _window(len(rows))
    lines = []
    for curve in curves:
        letter = plotille.color(curve.letter, fg=curve.colour) if colour else curve.letter
        mean = f", mean of {window} steps" if curve.noisy and window > 1 else ""
        lines.append(f"  {letter}  {curve.name}{mean}")
    return lines
