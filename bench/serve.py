"""Serving beside plain `generate`: tokens a second and time to first token, in one run.

    python -m bench.serve [--rounds 5] [--tokens 64] [--anyway]

A daemon of its own serves SmolLM2-135M-Instruct and three small tunings of it. Plain is what a
script would do: transformers and PEFT in one process, one request at a time. Every answer has
the same number of tokens: its end token is forbidden on both sides. Served requests are timed at
the client, over HTTP, streams included. The figures that must hold are named at the end.
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.machine import Spread, alternate, describe, require_quiet, say, seconds, table
from tests.running import Daemon, running, small_talk, until
from tests.starter import starter_model

STARTER = "smollm2-135m-instruct"
QUESTIONS = tuple(
    f"Write a paragraph about {thing}."
    for thing in ("rivers", "bread", "the moon", "clocks", "cats", "bridges", "rain", "chess")
)
EOS = 2  # <|im_end|>


class Plain:
    """transformers and PEFT, as a script uses them."""

    def __init__(self, home: Path, adapter: str, tokens: int) -> None:
        base = home / "models" / STARTER
        self._tokenizer = AutoTokenizer.from_pretrained(base)
        network = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        path = home / "adapters" / adapter.rsplit(":", 1)[1]
        self._network = PeftModel.from_pretrained(network, path).eval()
        self._tokens = tokens

    @torch.inference_mode()
    def ask(self, question: str, tokens: int | None = None) -> None:
        count = tokens or self._tokens
        prompt = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True, return_tensors="pt", return_dict=True,
        )  # fmt: skip
        self._network.generate(
            **prompt, max_new_tokens=count, min_new_tokens=count, do_sample=False
        )


class Served:
    """The daemon, as a client sees it."""

    def __init__(self, client: openai.OpenAI, tokens: int) -> None:
        self._client = client
        self._tokens = tokens

    def ask(self, model: str, question: str) -> float:
        """Ask and read to the end; returns the seconds to the first words."""
        started = time.perf_counter()
        first = 0.0
        stream = self._client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question}],
            temperature=0,
            max_tokens=self._tokens,
            logit_bias={str(EOS): -100},
            stream=True,
        )
        for chunk in stream:
            if not first and chunk.choices and chunk.choices[0].delta.content:
                first = time.perf_counter() - started
        return first

    def throughput(self, models: list[str], together: int) -> float:
        """Tokens a second of `together` requests at once, over the models in turn."""
        fresh = next(_NUMBERS)  # no prompt twice: nothing is known from before
        asked = [
            (models[n % len(models)], f"{QUESTIONS[n % len(QUESTIONS)]} Take {fresh}.")
            for n in range(max(together, 4))
        ]
        with ThreadPoolExecutor(together) as threads:
            spent = seconds(lambda: list(threads.map(lambda pair: self.ask(*pair), asked)))
        return len(asked) * self._tokens / spent


_NUMBERS = itertools.count()


def tune(daemon: Daemon, directory: Path, seed: int) -> str:
    """A model tuned on a few examples: what it says does not matter here, only that it differs."""
    path = small_talk(directory / f"talk-{seed}.jsonl", 10, start=10 * seed)
    client = daemon.client()
    with path.open("rb") as file:
        training = client.files.create(file=file, purpose="fine-tune").id
    job = client.fine_tuning.jobs.create(
        model=STARTER, training_file=training, seed=seed,
        hyperparameters={"n_epochs": 1, "batch_size": 10},
    )  # fmt: skip
    until(lambda: client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model, 300)
    return str(client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model)


def measure(daemon: Daemon, directory: Path, rounds: int, tokens: int) -> dict[str, Spread]:
    say("registering the model and tuning three times")
    daemon.ftctl("models", "add", STARTER, str(starter_model()), timeout_s=300)
    tuned = [tune(daemon, directory, seed) for seed in (1, 2, 3)]
    plain = Plain(daemon.home, tuned[0], tokens)
    served = Served(daemon.client(), tokens)
    for model in (*tuned, STARTER):
        served.ask(model, "Are you there?")  # loaded from here on
    plain.ask("Are you there?", 4)
    mixed = [*tuned, STARTER]
    question = _fresh_questions()
    subjects: dict[str, Callable[[], float]] = {
        "first token, plain [s]": lambda: seconds(lambda: plain.ask(question(), 1)),
        "first token, served [s]": lambda: served.ask(tuned[0], question()),
        "tokens/s, plain": lambda: tokens / seconds(lambda: plain.ask(question())),
        "tokens/s, 1 at a time": lambda: served.throughput(tuned[:1], 1),
        "tokens/s, 4 of one adapter": lambda: served.throughput(tuned[:1], 4),
        "tokens/s, 4 of three adapters and the base": lambda: served.throughput(mixed, 4),
        "tokens/s, 16 of one adapter": lambda: served.throughput(tuned[:1], 16),
        "tokens/s, 16 of three adapters and the base": lambda: served.throughput(mixed, 16),
    }
    return alternate(subjects, rounds)


def _fresh_questions() -> Callable[[], str]:
    return lambda: f"{QUESTIONS[next(_NUMBERS) % len(QUESTIONS)]} Take {next(_NUMBERS)}."


def verdicts(found: dict[str, Spread]) -> list[tuple[str, str, bool]]:
    """What must hold, each with its figure."""
    alone = found["tokens/s, 1 at a time"].median
    one = found["tokens/s, 4 of one adapter"].median / alone
    mixed = found["tokens/s, 4 of three adapters and the base"].median / alone
    first = found["first token, served [s]"].median / found["first token, plain [s]"].median
    return [
        ("4 at once against one at a time, one adapter: at least 1.8", f"{one:.2f}", one >= 1.8),
        ("4 at once against one at a time, mixed: at least 1.8", f"{mixed:.2f}", mixed >= 1.8),
        ("first token, served against plain: at most 1.2", f"{first:.2f}", first <= 1.2),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--anyway", action="store_true", help="measure on a busy machine too")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    options = parser.parse_args()
    require_quiet(anyway=options.anyway)
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    names = ("OMP_NUM_THREADS", "FTD_TRAINING__THREADS", "FTD_SERVING__THREADS")
    environment = dict.fromkeys(names, str(threads))
    with tempfile.TemporaryDirectory(prefix="ftd-bench-") as scratch:
        directory = Path(scratch)
        with running(directory / "home", environment=environment) as daemon:
            found = measure(daemon, directory, options.rounds, options.tokens)
    held = verdicts(found)
    if options.json:
        print(json.dumps({name: spread.values for name, spread in found.items()}))
        return 0 if all(holds for _, _, holds in held) else 1
    print(f"{describe()}, torch {torch.__version__}, {options.tokens} tokens an answer")
    print(f"median (least to most) of {options.rounds} rounds")
    table(list(found.items()))
    table([(name, f"{figure} {'holds' if ok else 'FAILS'}") for name, figure, ok in held])
    return 0 if all(holds for _, _, holds in held) else 1


if __name__ == "__main__":
    sys.exit(main())
