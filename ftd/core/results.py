"""The result file: one CSV row a step, under OpenAI's column names."""

import csv
import io
from collections.abc import Iterable, Mapping

FILENAME = "step_metrics.csv"

# Column -> the key of a metrics event's data. The last two are copies under the names that the
# documented plotting snippet reads.
COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_accuracy": "train_mean_token_accuracy",
    "valid_loss": "valid_loss",
    "valid_mean_token_accuracy": "valid_mean_token_accuracy",
    "full_valid_loss": "full_valid_loss",
    "full_valid_mean_token_accuracy": "full_valid_mean_token_accuracy",
    "train_token_accuracy": "train_mean_token_accuracy",
    "valid_token_accuracy": "valid_mean_token_accuracy",
}

# The metrics that a checkpoint shows.
CHECKPOINT_METRICS = (
    "step",
    "train_loss",
    "train_mean_token_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
)


def render(steps: Iterable[Mapping[str, float | None]]) -> str:
    """Numbers with five decimals, empty where nothing was measured."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for step in steps:
        writer.writerow([_cell(column, step.get(key)) for column, key in COLUMNS.items()])
    return out.getvalue()


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return ""
    if column == "step":
        return str(int(value))
    shortened = f"{value:.5f}".rstrip("0")
    return f"{shortened}0" if shortened.endswith(".") else shortened


def step_message(data: Mapping[str, float | int | None]) -> str:
    """OpenAI's sentence for a step: `Step 3/9: training loss=0.15, validation loss=0.27`."""
    parts = [
        f"{words}={data[key]:.2f}"
        for key, words in (
            ("train_loss", "training loss"),
            ("valid_loss", "validation loss"),
            ("full_valid_loss", "full validation loss"),
        )
        if data.get(key) is not None
    ]
    return f"Step {data['step']}/{data['total_steps']}: {', '.join(parts)}"
