"""The result file and the sentence of a step."""

from ftd.core.results import render, step_message


def test_columns_are_openais_then_ours_then_the_documented_copies() -> None:
    header = render([]).strip()
    assert header == (
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy,full_valid_loss,"
        "full_valid_mean_token_accuracy,train_token_accuracy,valid_token_accuracy"
    )


def test_numbers_have_five_decimals_and_what_was_not_measured_is_empty() -> None:
    steps = [
        {"step": 1, "train_loss": 1.523468, "train_mean_token_accuracy": 0.0},
        {"step": 2, "train_loss": 10.0, "train_mean_token_accuracy": 0.5, "valid_loss": 2.25,
         "valid_mean_token_accuracy": 1.0, "full_valid_loss": 3.0,
         "full_valid_mean_token_accuracy": 0.123456},
    ]  # fmt: skip
    assert render(steps).splitlines()[1:] == [
        "1,1.52347,0.0,,,,,0.0,",
        "2,10.0,0.5,2.25,1.0,3.0,0.12346,0.5,1.0",
    ]


def test_a_step_is_told_in_openais_words() -> None:
    data = {
        "step": 300,
        "total_steps": 300,
        "train_loss": 0.1499,
        "valid_loss": 0.2656,
        "full_valid_loss": 0.4032,
    }
    assert step_message(data) == (
        "Step 300/300: training loss=0.15, validation loss=0.27, full validation loss=0.40"
    )
    assert step_message({"step": 1, "total_steps": 9, "train_loss": 2.0}) == (
        "Step 1/9: training loss=2.00"
    )
