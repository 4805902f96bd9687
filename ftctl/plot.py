"""Loss curves, drawn in braille."""

from collections.abc import Sequence
from typing import NamedTuple

import plotille

from ftctl.objects import Object

WIDTH, HEIGHT = 56, 16  # in characters; with axes and labels it fits 80 columns


class Curve(NamedTuple):
    column: str
    name: str
    colour: str  # on a terminal
    marker: str | None  # elsewhere, where colours cannot tell the curves apart


CURVES = (
    Curve("train_loss", "training", "blue", None),
    Curve("valid_loss", "validation, one batch", "yellow", "."),
    Curve("full_valid_loss", "validation, whole file", "red", "o"),
)


def losses(rows: Sequence[Object], *, colour: bool) -> str:
    """The picture of every curve that has points: told apart by colours, else by markers."""
    figure = plotille.Figure()
    figure.width, figure.height = WIDTH, HEIGHT
    figure.with_colors = colour
    figure.x_label, figure.y_label = "step", "loss"
    figure.set_x_limits(min_=0)
    for kind in (int, float):
        figure.register_label_formatter(kind, _label)
    for curve in CURVES:
        points = [(row["step"], row[curve.column]) for row in rows if row[curve.column] is not None]
        if points:
            steps, values = zip(*points, strict=True)
            look = {"lc": curve.colour} if colour else {"marker": curve.marker}
            figure.plot(steps, values, label=curve.name, **look)
    picture: str = figure.show(legend=True)
    return picture


def _label(value: float, chars: int, delta: float, left: bool = False) -> str:
    """A number on an axis, four digits long."""
    del delta
    text = f"{value:.4g}"
    return text.ljust(chars) if left else text.rjust(chars)
