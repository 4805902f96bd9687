"""The picture of the loss: round numbers on its axes, letters that say which curve is which."""

import math
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftctl.plot import HEIGHT, TICKS_X, axis, losses, smooth

Row = dict[str, float | None]


def noisy(count: int) -> list[Row]:
    chance = random.Random(7)
    return [
        {
            "step": step,
            "train_loss": 1.2 + 2 * math.exp(-6 * step / count) + chance.gauss(0, 0.3),
            "valid_loss": 1.6 + 2 * math.exp(-5 * step / count) + chance.gauss(0, 0.3),
            "full_valid_loss": 1.6 if step % max(count // 3, 1) == 0 else None,
        }
        for step in range(1, count + 1)
    ]


@pytest.mark.parametrize(
    ("steps", "numbers"),
    [
        (1, "0 1 2 3 4 5 6"),
        (30, "0 5 10 15 20 25 30"),
        (234, "0 40 80 120 160 200 240"),
        (5000, "0 1000 2000 3000 4000 5000 6000"),
    ],
)
def test_the_steps_are_whole_numbers(steps: int, numbers: str) -> None:
    lines = losses(noisy(steps), colour=False).splitlines()
    assert lines[HEIGHT + 2].split() == numbers.split()


@pytest.mark.parametrize("steps", [1, 2, 30, 234, 25_000])
def test_it_fits_80_columns_and_says_what_the_letters_mean(steps: int) -> None:
    lines = losses(noisy(steps), colour=False).splitlines()
    assert max(map(len, lines)) <= 80
    picture = "".join(lines[1 : HEIGHT + 1])
    assert {"t", "v", "F"} <= set(picture)
    legend = [line.split()[:2] for line in lines[HEIGHT + 4 :]]
    assert [letter for letter, _ in legend] == ["t", "v", "F"]
    assert "\u2800" not in picture


def test_what_lies_on_the_edge_is_in_the_picture() -> None:
    picture = "".join(losses(noisy(30), colour=False).splitlines()[1 : HEIGHT + 1])
    assert picture.count("F") == 3, "the last of them at the last step"
    flat: list[Row] = [
        {"step": step, "train_loss": 2.0, "valid_loss": None, "full_valid_loss": 3.0}
        for step in range(1, 7)
    ]
    picture = "".join(losses(flat, colour=False).splitlines()[1 : HEIGHT + 1])
    assert picture.count("F") == 6
    assert "t" in picture


def test_noise_is_averaged_and_that_is_said() -> None:
    picture = losses(noisy(234), colour=False)
    assert "t  training, mean of 10 steps" in picture
    assert "F  validation, whole file\n" in picture + "\n"
    assert "mean" not in losses(noisy(20), colour=False)


def test_only_what_was_measured_is_drawn() -> None:
    row: Row = {"step": 1, "train_loss": None, "valid_loss": None, "full_valid_loss": None}
    assert losses([], colour=False) == losses([row], colour=False) == "There is nothing to draw."
    drawn = losses([{**row, "train_loss": 2.0}, {**row, "train_loss": math.nan}], colour=False)
    assert "training" in drawn
    assert "validation" not in drawn


def test_colours_are_beside_the_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured, plain = losses(noisy(60), colour=True), losses(noisy(60), colour=False)
    assert "\x1b[" in coloured
    assert "\x1b[" not in plain
    bare = re.sub(r"\x1b\[[\d;]*m", "", coloured)
    assert [line.rstrip() for line in bare.splitlines()] == plain.splitlines()


@given(st.floats(0, 100), st.floats(0, 100), st.booleans())
def test_an_axis_holds_its_values_and_wastes_little(one: float, other: float, whole: bool) -> None:
    low, high = (0.0, max(one, other, 1)) if whole else sorted((one, other))
    found = axis(low, high, TICKS_X, whole=whole)
    part = (found.high - found.low) / TICKS_X
    assert found.low <= low + 1e-6
    assert found.high >= high - 1e-6
    assert part <= max(4 * (high - low) / TICKS_X, 0.1 * high + 0.01, 1 if whole else 0)
    assert not whole or part == round(part)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=50), st.integers(1, 60))
def test_a_mean_lies_between_its_values(values: list[float], window: int) -> None:
    found = smooth(list(enumerate(values)), window)
    assert [step for step, _ in found] == list(range(len(values)))
    assert all(min(values) - 1e-9 <= value <= max(values) + 1e-9 for _, value in found)


def test_a_window_of_one_changes_nothing() -> None:
    points = [(1.0, 3.0), (2.0, 1.0)]
    assert smooth(points, 1) == points
