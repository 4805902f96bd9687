import hashlib
import json
import math
from collections.abc import Callable, Container
from itertools import count, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import LlamaForCausalLM

from ftd.core.errors import FtdError
from ftd.core.spec import Lora, Optimizer
from ftd.core.wire import (
    Done,
    Notice,
    Phase,
    Prepared,
    Resumed,
    Saved,
    Step,
    Stop,
    Stopped,
)
from ftd.worker.train.loop import train
from ftd.worker.train.prepare import Run
from tests.tiny import chats

NewJob = Callable[..., Any]
PLAIN = Lora(rank=4, alpha=8)  # without dropout


def adapter_sha(job: Any, step: int) -> str:
    weights = job.file(f"checkpoints/step-{step}/adapter/adapter_model.safetensors")
    return hashlib.sha256(weights).hexdigest()


def test_the_whole_story_in_order(new_job: NewJob) -> None:
    job = new_job(validation=3)
    job.run()
    kinds = [fact.kind for fact in job.facts]
    assert kinds == [
        *["phase", "phase", "prepared", "notice", "phase"],
        *["step"] * 3,
        *["phase", "saved", "phase"],
        *["step"] * 3,
        *["phase", "saved"],
        "done",
    ]
    phases = [fact.name for fact in job.told(Phase)]
    assert phases == ["loading", "tokenizing", "training", "saving", "training", "saving"]
    prepared = job.told(Prepared)[0]
    assert (prepared.examples, prepared.validation_examples) == (10, 3)
    assert (prepared.steps_per_epoch, prepared.total_steps) == (3, 6)
    steps = job.told(Step)
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6]
    assert sum(step.tokens for step in steps) == 2 * prepared.epoch_tokens
    assert job.facts[-1] == Done(step=6, trained_tokens=2 * prepared.epoch_tokens)
    assert [(saved.step, saved.epoch, saved.path) for saved in job.told(Saved)] == [
        (3, 1, "checkpoints/step-3"),
        (6, 2, "checkpoints/step-6"),
    ]
    assert all(saved.epoch_end and saved.contents == "adapter" for saved in job.told(Saved))


def test_the_model_learns(new_job: NewJob) -> None:
    job = new_job(validation=4, n_epochs=8, optimizer=Optimizer(learning_rate=2e-2))
    job.run()
    steps = job.told(Step)
    assert steps[-1].train_loss < 0.8 * steps[0].train_loss
    before = job.told(Notice)[0].data["full_valid_loss"]
    assert steps[-1].full_valid_loss < 0.8 * before


def test_validation_fields_come_when_they_are_promised(new_job: NewJob) -> None:
    job = new_job(validation=5)
    job.run()
    before = job.told(Notice)[0]
    loss = before.data["full_valid_loss"]
    assert before.message == f"Validation before training: full validation loss={loss:.2f}"
    assert before.data["step"] == 0
    assert 0 <= before.data["full_valid_mean_token_accuracy"] <= 1
    for step in job.told(Step):
        assert step.valid_loss is not None
        assert 0 <= step.valid_mean_token_accuracy <= 1
        assert (step.full_valid_loss is not None) == (step.step in {3, 6})
        assert (step.full_valid_mean_token_accuracy is not None) == (step.step in {3, 6})


def test_validation_does_not_change_what_is_learnt(new_job: NewJob) -> None:
    bare, watched = new_job("bare"), new_job("watched", validation=5)
    bare.run()
    watched.run()
    assert adapter_sha(bare, 6) == adapter_sha(watched, 6)


def test_the_same_seed_gives_the_same_bits(new_job: NewJob) -> None:
    first, second, other = new_job("first"), new_job("second"), new_job("other", seed=43)
    for job in (first, second, other):
        job.run()
    assert adapter_sha(first, 6) == adapter_sha(second, 6)
    assert adapter_sha(first, 6) != adapter_sha(other, 6)
    manifest = "checkpoints/step-6/MANIFEST.json"
    assert first.file(manifest) == second.file(manifest)


@pytest.mark.parametrize("lora", [Lora(rank=4, alpha=8, dropout=0.1), None])
@pytest.mark.parametrize("stop", [2, 3])
def test_resuming_equals_never_having_stopped(
    new_job: NewJob, lora: Lora | None, stop: int
) -> None:
    weights = "adapter/adapter_model.safetensors" if lora else "model/model.safetensors"
    straight = new_job("straight", lora=lora)
    straight.run()
    halted = new_job("halted", lora=lora)
    halted.stop_after = (stop, True)
    halted.run()
    assert halted.facts[-1] == Stopped(step=stop)
    assert halted.told(Saved)[-1].epoch_end == (stop == 3)
    checkpoint = halted.root / "out" / "checkpoints" / f"step-{stop}"
    resumed = new_job("resumed", lora=lora, resume=str(checkpoint), attempt=2)
    resumed.run()
    assert resumed.told(Resumed) == [Resumed(step=stop)]
    assert [step.step for step in resumed.told(Step)] == list(range(stop + 1, 7))
    path = f"checkpoints/step-6/{weights}"
    assert resumed.file(path) == straight.file(path)
    losses = {step.step: step.train_loss for step in straight.told(Step)}
    assert all(losses[step.step] == step.train_loss for step in resumed.told(Step))
    assert resumed.facts[-1] == straight.facts[-1]


def test_a_stop_without_saving_leaves_no_checkpoint(new_job: NewJob) -> None:
    job = new_job()
    job.stop_after = (2, False)
    job.run()
    assert job.facts[-1] == Stopped(step=2)
    assert job.told(Saved) == []
    assert not (job.root / "out" / "checkpoints").exists()


def test_a_stop_at_an_epochs_end_saves_once(new_job: NewJob) -> None:
    job = new_job()
    job.stop_after = (3, True)
    job.run()
    assert [saved.step for saved in job.told(Saved)] == [3]
    assert job.facts[-1] == Stopped(step=3)


def test_a_stop_at_the_last_step_is_too_late(new_job: NewJob) -> None:
    job = new_job()
    job.stop_after = (6, False)
    job.run()
    assert isinstance(job.facts[-1], Done)


def test_a_checkpoint_of_another_plan_is_refused(new_job: NewJob) -> None:
    halted = new_job("halted")
    halted.stop_after = (3, True)
    halted.run()
    checkpoint = str(halted.root / "out" / "checkpoints" / "step-3")
    with pytest.raises(FtdError, match="another plan") as caught:
        new_job("resumed", resume=checkpoint, batch_size=2).run()
    assert caught.value.code == "invalid_checkpoint"


def test_a_tuned_adapter_can_be_tuned_further(new_job: NewJob) -> None:
    first = new_job("first")
    first.run()
    adapter = str(first.root / "out" / "checkpoints" / "step-6" / "adapter")
    second = new_job("second", adapter=adapter)
    second.run()
    assert second.told(Step)[0].train_loss < first.told(Step)[0].train_loss
    assert second.told(Resumed) == []
    with pytest.raises(FtdError, match="rank 4"):
        new_job("third", adapter=adapter, lora=Lora(rank=8)).run()


def test_full_fine_tuning_trains_every_weight(new_job: NewJob) -> None:
    job = new_job(lora=None, n_epochs=1, optimizer=Optimizer(learning_rate=1e-3))
    job.run()
    run = new_job("look", lora=None).prepared()
    total = sum(weights.numel() for weights in run.model.network.parameters())
    assert job.told(Prepared)[0].trainable_parameters == total
    assert job.told(Saved)[0].contents == "model"
    assert (job.root / "out/checkpoints/step-3/model/config.json").exists()


def test_loss_and_accuracy_are_those_of_the_plain_formula(new_job: NewJob) -> None:
    """Against a forward pass of each row alone, over every position and in float64."""
    data = b"".join(
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": "hi"},
                    {"role": "assistant", "content": "abc" * n, "weight": n % 2},
                    {"role": "user", "content": "and"},
                    {"role": "assistant", "content": "de"},
                ]
            }
        ).encode()
        + b"\n"
        for n in range(1, 11)
    )
    job = new_job(data=data, batch_size=10, n_epochs=1, context_tokens=256, lora=PLAIN)
    run = job.prepared()
    network = LlamaForCausalLM.from_pretrained(job.root / "in" / "model")  # a new adapter is zero
    nll = hits = weight = 0.0
    with torch.no_grad():
        for example in range(10):
            for row in run.training[example]:
                logits = network(torch.tensor(row.ids[None].astype(np.int64))).logits
                scores = functional.log_softmax(logits[0, :-1].double(), dim=-1)
                target = torch.tensor(row.ids[1:].astype(np.int64))
                weights = torch.tensor(row.weights[1:]).double()
                nll -= float((scores.gather(1, target[:, None])[:, 0] * weights).sum())
                hits += float(((scores.argmax(-1) == target) * weights).sum())
                weight += float(weights.sum())
    train(run)
    step = job.told(Step)[0]
    assert step.train_loss == pytest.approx(nll / weight, rel=1e-5)
    assert step.train_mean_token_accuracy == pytest.approx(hits / weight)
    assert step.loss_tokens == weight


def test_the_split_into_passes_does_not_change_the_step(new_job: NewJob) -> None:
    whole = new_job("whole", micro_batch_tokens=100_000, lora=PLAIN)
    single = new_job("single", micro_batch_tokens=8, lora=PLAIN)
    whole.run()
    single.run()
    for one, other in zip(whole.told(Step), single.told(Step), strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-4)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-3)


def test_the_rate_follows_the_schedule(new_job: NewJob) -> None:
    job = new_job(optimizer=Optimizer(learning_rate=1e-3, warmup_ratio=0.3))
    job.run()
    rates = [step.learning_rate for step in job.told(Step)]
    assert rates[:3] == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3])
    assert all(later < earlier for earlier, later in pairwise(rates[2:]))


def test_what_was_cut_or_skipped_is_told(new_job: NewJob) -> None:
    job = new_job(context_tokens=24)
    job.run()
    prepared = job.told(Prepared)[0]
    assert prepared.truncated > 0
    (notice,) = [notice for notice in job.told(Notice) if notice.level == "warn"]
    assert notice.message.startswith("Training file: ")
    assert notice.data == {"truncated": prepared.truncated, "skipped": prepared.skipped}


@pytest.mark.parametrize("use", ["training", "validation"])
def test_a_file_with_nothing_to_train_on_fails_the_job(new_job: NewJob, use: str) -> None:
    job = new_job(validation=3)
    (job.root / "in" / f"{use}.jsonl").write_bytes(
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": "far too long a question " * 10},
                    {"role": "assistant", "content": "yes"},
                ]
            }
        ).encode()
    )
    with pytest.raises(FtdError, match=f"No example of the {use} file has anything") as caught:
        job.run()
    assert caught.value.code == f"invalid_{use}_file"
    assert caught.value.param == f"{use}_file"


def out_of_memory_above(run: Run, tokens: int) -> None:
    """Give the run's network a device that holds so many tokens at a time."""
    decoder = run.model.network.get_base_model().model
    forward = decoder.forward

    def limited(*, input_ids: torch.Tensor, **inputs: Any) -> Any:
        if input_ids.numel() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
        return forward(input_ids=input_ids, **inputs)

    decoder.forward = limited


def not_a_number_in(run: Run, passes: Container[int]) -> None:
    """Spoil what some forward passes give, counted from 1."""
    decoder = run.model.network.get_base_model().model
    forward = decoder.forward
    counter = count(1)

    def spoilt(**inputs: Any) -> Any:
        outputs = forward(**inputs)
        if next(counter) in passes:
            outputs.last_hidden_state = outputs.last_hidden_state * math.nan
        return outputs

    decoder.forward = spoilt


def test_running_out_of_memory_makes_the_passes_smaller(new_job: NewJob) -> None:
    job, roomy = new_job("job", lora=PLAIN), new_job("roomy", lora=PLAIN)
    run = job.prepared()
    out_of_memory_above(run, 80)
    assert isinstance(train(run), Done)
    assert len(job.warnings()) == 1
    assert "ran out of memory" in job.warnings()[0]
    assert run.budget.tokens <= 80
    roomy.run()
    for one, other in zip(job.told(Step), roomy.told(Step), strict=True):
        assert (one.tokens, one.loss_tokens) == (other.tokens, other.loss_tokens)
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-4)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-3)


def test_what_fits_is_remembered_by_a_checkpoint(new_job: NewJob) -> None:
    halted = new_job("halted")
    halted.stop_after = (2, True)
    run = halted.prepared()
    out_of_memory_above(run, 80)
    train(run)
    checkpoint = str(halted.root / "out" / "checkpoints" / "step-2")
    assert new_job("resumed", resume=checkpoint).prepared().budget.tokens == run.budget.tokens


def test_validation_runs_out_of_memory_as_gently(new_job: NewJob) -> None:
    job = new_job(validation=6)
    run = job.prepared()
    out_of_memory_above(run, 80)
    assert isinstance(train(run), Done)


def test_validation_that_does_not_fit_leaves_training_s_passes_as_they_are(
    new_job: NewJob,
) -> None:
    job = new_job(validation=60, micro_batch_tokens=300)
    run = job.prepared()
    out_of_memory_above(run, 400)
    assert isinstance(train(run), Done)
    assert run.budget.tokens == 300
    assert not [warning for warning in job.warnings() if "memory" in warning]


def test_a_row_that_does_not_fit_alone_fails_the_job(new_job: NewJob) -> None:
    run = new_job().prepared()
    out_of_memory_above(run, 20)
    with pytest.raises(FtdError, match="even alone") as caught:
        train(run)
    assert caught.value.code == "out_of_memory"


def test_activations_are_computed_again_before_a_job_is_given_up(
    new_job: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device that holds 20 tokens of a pass that keeps them, and any number otherwise."""
    job, roomy = new_job("job", lora=PLAIN), new_job("roomy", lora=PLAIN)
    run = job.prepared()
    network = run.model.network
    decoder = network.get_base_model().model
    forward = decoder.forward

    def limited(*, input_ids: torch.Tensor, **inputs: Any) -> Any:
        if input_ids.numel() > 20 and not network.is_activation_checkpointing:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
        return forward(input_ids=input_ids, **inputs)

    monkeypatch.setattr(decoder, "forward", limited)
    assert isinstance(train(run), Done)
    assert any("computed again on the way back" in warning for warning in job.warnings())
    roomy.run()
    for one, other in zip(job.told(Step), roomy.told(Step), strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-4)


def test_memory_that_is_short_by_estimate_is_said_and_changes_no_bit(new_job: NewJob) -> None:
    short = new_job("short", memory_bytes=0)
    longest = short.prepared().training.longest
    plenty = new_job("plenty", memory_bytes=2**40, micro_batch_tokens=longest)
    for job, recomputes in ((short, True), (plenty, False)):
        run = job.prepared()
        assert run.model.network.is_activation_checkpointing == recomputes
        assert run.budget.tokens == longest
        job.facts.clear()
        job.run()
        told = [note.message for note in job.told(Notice) if note.message.startswith("Memory")]
        assert len(told) == recomputes
    assert adapter_sha(short, 6) == adapter_sha(plenty, 6)


def test_one_step_that_is_no_number_is_passed_over(new_job: NewJob) -> None:
    job = new_job(batch_size=1, n_epochs=1)
    run = job.prepared()
    not_a_number_in(run, {2, 4, 5})
    assert isinstance(train(run), Done)
    lost = [step.step for step in job.told(Step) if step.train_loss is None]
    assert lost == [2, 4, 5]
    assert [step.grad_norm for step in job.told(Step) if step.step in lost] == [None] * 3
    assert len(job.warnings()) == 3
    assert all(bool(weights.isfinite().all()) for weights in run.model.trainable().values())


def test_three_in_a_row_are_a_divergence(new_job: NewJob) -> None:
    job = new_job(batch_size=1, n_epochs=1)
    run = job.prepared()
    not_a_number_in(run, {4, 5, 6})
    with pytest.raises(FtdError, match="has diverged") as caught:
        train(run)
    assert caught.value.code == "diverged"
    assert [step.step for step in job.told(Step)] == [1, 2, 3, 4, 5]
    assert job.told(Saved) == []


def test_weights_that_are_no_numbers_are_never_saved(new_job: NewJob) -> None:
    job = new_job(n_epochs=1)
    run = job.prepared()
    with torch.no_grad():
        next(iter(run.model.trainable().values())).fill_(math.inf)
    run.bad_steps = -10  # let the divergence through to the end of the epoch
    with pytest.raises(FtdError, match="not numbers"):
        train(run)
    assert not (job.root / "out" / "checkpoints").exists()


def test_a_stop_before_the_first_step_is_a_resume_point(new_job: NewJob) -> None:
    halted, straight = new_job("halted", validation=3), new_job("straight", validation=3)
    run = halted.prepared()
    halted.asked.ask(Stop(save=True))
    assert train(run) == Stopped(step=0)
    (saved,) = halted.told(Saved)
    assert (saved.step, saved.epoch, saved.epoch_end) == (0, 0, False)
    resumed = new_job("resumed", validation=3, resume=str(run.out / saved.path))
    resumed.run()
    straight.run()
    assert adapter_sha(resumed, 6) == adapter_sha(straight, 6)


def test_a_stop_ends_the_tokenising_too(new_job: NewJob) -> None:
    job = new_job()
    job.asked.ask(Stop(save=True))
    job.run()
    assert job.facts[-1] == Stopped(step=0)
    assert job.told(Prepared) == []


def test_an_overlap_of_the_files_is_told_once(new_job: NewJob) -> None:
    job = new_job(validation=3, data=chats(10) + chats(2, first=100))
    job.run()
    (warning,) = [text for text in job.warnings() if "validation examples" in text]
    assert warning.startswith("2 of 3 validation examples are in the training file too")
