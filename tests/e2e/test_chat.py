"""The tuned model answers: by its name, over the SDK, beside training, and as its weights say."""

import os
import signal
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.e2e.test_story import ended, upload
from tests.running import Daemon, processes_of, small_talk, until

QUESTIONS = ("What is 2 plus 2?", "What is 17 plus 17?", "Say something.")
TIE = 1e-3  # nats between the two likeliest tokens where rounding may decide


def tune(daemon: Daemon, directory: Path, *, seed: int, rows: int = 20) -> str:
    """The name of a model tuned from the tiny one."""
    client = daemon.client()
    training = upload(client, small_talk(directory / f"talk-{seed}.jsonl", rows, start=seed))
    job = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=training,
        seed=seed,
        hyperparameters={"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 20},
    )
    name = ended(client, job.id).fine_tuned_model
    assert name is not None
    return name


@pytest.fixture(scope="module")
def tuned(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three models tuned from the tiny one."""
    directory = tmp_path_factory.mktemp("talk")
    return [tune(daemon, directory, seed=seed) for seed in (1, 2, 3)]


def ask(client: openai.OpenAI, model: str, question: str, **options: Any) -> Any:
    options = {"temperature": 0, "max_tokens": 24} | options
    return client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], **options
    )


def answer(client: openai.OpenAI, model: str, question: str, **options: Any) -> str:
    return str(ask(client, model, question, **options).choices[0].message.content)


class Reference:
    """Plain transformers and PEFT on the bytes that the daemon serves."""

    def __init__(self, base: Path, adapters: dict[str, Path]) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        self.base = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
        self.models: dict[str, Any] = {}
        self.ties = 0
        for name, path in adapters.items():
            fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
            with warnings.catch_warnings():
                # PEFT asks transformers for an attribute by its old name.
                warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
                self.models[name] = PeftModel.from_pretrained(fresh, path).eval()

    @torch.inference_mode()
    def differs(self, model: str, question: str, text: str, tokens: int) -> str | None:
        """None if `text` is the greedy answer, or parts from it at a tie; else what is wrong."""
        network = self.models.get(model, self.base)
        prompt = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True, return_tensors="pt", return_dict=True,
        )  # fmt: skip
        out = network.generate(**prompt, max_new_tokens=tokens, do_sample=False)[0]
        start = prompt["input_ids"].shape[1]
        expected = self.tokenizer.decode(out[start:], skip_special_tokens=True)
        if text == expected:
            return None
        logits = network(out[None]).logits[0, start - 1 : -1].float()
        for index in range(len(out) - start):
            if not text.startswith(
                self.tokenizer.decode(out[start : start + index + 1], skip_special_tokens=True)
            ):
                best = logits[index].topk(2).values
                if best[0] - best[1] < TIE:
                    self.ties += 1
                    return None
                break
        return f"{model} on {question!r}: {text!r} instead of {expected!r}"


@pytest.fixture(scope="module")
def reference(daemon: Daemon, tuned: list[str]) -> Reference:
    adapters = {name: daemon.home / "adapters" / name.rsplit(":", 1)[1] for name in tuned}
    return Reference(daemon.home / "models" / "tiny", adapters)


def test_the_sdk_chats_by_the_name_that_the_job_returned(
    client: openai.OpenAI, tuned: list[str]
) -> None:
    whole = ask(client, tuned[0], QUESTIONS[0])
    assert whole.object == "chat.completion"
    assert whole.model == tuned[0]
    assert whole.choices[0].message.role == "assistant"
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage.completion_tokens > 0
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chunks = list(
        ask(client, tuned[0], QUESTIONS[0], stream=True, stream_options={"include_usage": True})
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert said == whole.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_the_documentations_chat_call(client: openai.OpenAI, tuned: list[str]) -> None:
    printed = """
completion = client.chat.completions.create(
  model="ft:gpt-4o-mini:custom_suffix:id",
  messages=[
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Hello!"}
  ]
)
message = completion.choices[0].message
"""
    scope: dict[str, Any] = {"client": client}
    exec(printed.replace("ft:gpt-4o-mini:custom_suffix:id", tuned[0]), scope)
    assert scope["message"].role == "assistant"
    assert isinstance(scope["message"].content, str)


def test_the_starter_knows_the_capital_of_france(
    daemon: Daemon, client: openai.OpenAI, starter: str
) -> None:
    said = answer(client, starter, "What is the capital of France?")
    assert "Paris" in said
    assert answer(client, "gpt-4o", "What is the capital of France?") == said, "by its alias too"
    text = client.completions.create(
        model=starter, prompt="The capital of France is", temperature=0, max_tokens=4
    )
    assert "Paris" in text.choices[0].text
    shown = daemon.ftctl("chat", starter, "What is the capital of France?", "--temperature", "0")
    assert "Paris" in shown.stdout


def test_greedy_answers_are_those_of_transformers_and_peft(
    client: openai.OpenAI, tuned: list[str], reference: Reference
) -> None:
    wrong = [
        reference.differs(model, question, answer(client, model, question), 24)
        for model in (*tuned, "tiny")
        for question in QUESTIONS
    ]
    assert not any(wrong), wrong


def test_eight_at_once_over_three_adapters_and_the_base_answer_as_one_by_one(
    client: openai.OpenAI,
    tuned: list[str],
    reference: Reference,
    record_property: Callable[[str, object], None],
) -> None:
    asked = [(model, question) for model in (*tuned, "tiny") for question in QUESTIONS[:2]]
    with ThreadPoolExecutor(8) as threads:
        said = list(threads.map(lambda pair: answer(client, *pair), asked))
    wrong = [
        reference.differs(model, question, text, 24)
        for (model, question), text in zip(asked, said, strict=True)
    ]
    assert not any(wrong), wrong
    record_property("answers that part at a tie", reference.ties)


def test_a_checkpoint_answers_by_its_name(client: openai.OpenAI, tuned: list[str]) -> None:
    names = [model.id for model in client.models.list() if model.id.startswith(f"{tuned[0]}:ckpt")]
    assert names
    said = {name: answer(client, name, QUESTIONS[0]) for name in names}
    assert said[max(names, key=lambda name: int(name.rsplit("-", 1)[1]))] == answer(
        client, tuned[0], QUESTIONS[0]
    )


def test_an_unknown_model_is_404(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, "ft:tiny::nobody00", "Hello?")
    assert caught.value.code == "model_not_found"
    assert "does not exist or you do not have access to it" in caught.value.message


def test_training_comes_out_the_same_beside_a_chat(own_daemon: Daemon, tmp_path: Path) -> None:
    def weights(name: str) -> bytes:
        adapter = own_daemon.home / "adapters" / name.rsplit(":", 1)[1]
        return (adapter / "adapter_model.safetensors").read_bytes()

    alone = weights(tune(own_daemon, tmp_path, seed=5, rows=60))
    client = own_daemon.client()
    over = threading.Event()

    def chatter() -> int:
        count = 0
        while not over.is_set():
            answer(client, "tiny", QUESTIONS[count % 3])
            count += 1
        return count

    with ThreadPoolExecutor(1) as thread:
        talk = thread.submit(chatter)
        beside = weights(tune(own_daemon, tmp_path, seed=5, rows=60))
        over.set()
        assert talk.result() > 0
    assert beside == alone


def servers_of(home: Path) -> list[int]:
    """The inference workers of a home, without their shims."""
    found = []
    for pid in processes_of(home):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"ftd.worker.infer" in words and b"-m" in words and not any(b"shim" in w for w in words):
            found.append(pid)
    return found


def test_a_killed_inference_worker_is_told_and_comes_back(own_daemon: Daemon) -> None:
    client = own_daemon.client()
    stream = ask(client, "tiny", QUESTIONS[0], stream=True, max_tokens=450, logit_bias={"2": -100})
    next(iter(stream))
    for pid in servers_of(own_daemon.home):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(openai.APIError, match="inference worker"):
        for _ in stream:
            pass
    assert answer(client, "tiny", QUESTIONS[0])
    own_daemon.kill()
    until(lambda: not processes_of(own_daemon.home))
    own_daemon.start()
    assert answer(own_daemon.client(), "tiny", QUESTIONS[0])


def test_the_daemon_ends_within_five_seconds_in_the_middle_of_an_answer(
    own_daemon: Daemon,
) -> None:
    stream = ask(own_daemon.client(), "tiny", QUESTIONS[0], stream=True, max_tokens=450)
    next(iter(stream))
    assert own_daemon.stop() < 5
    stream.close()
    until(lambda: not processes_of(own_daemon.home))
