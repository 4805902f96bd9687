"""Fine-tuning by TRL's SFTTrainer, as its documentation shows it; run by bench.train_speed.

    .venv-bench/bin/python bench/plain/trl_sft.py DIRECTORY

DIRECTORY holds model/, training.jsonl in the order of training, and settings.json. What settings
do not name is TRL's default. Of these one does not run on a processor by itself: `bf16` is on, and
refused unless `use_cpu` is set too. TRL trains on every token: `assistant_only_loss` refuses a chat
template without generation marks. On stdout each step is a JSON line, with the seconds since an
arbitrary moment; what the libraries print goes to stderr.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import TrainerCallback, TrainerState
from trl import SFTConfig, SFTTrainer


class Tell(TrainerCallback):
    """The end of each step, and the losses, as they come."""

    def __init__(self, facts: TextIO) -> None:
        self._facts = facts

    def on_step_end(self, _args: Any, state: TrainerState, _control: Any, **_: Any) -> None:
        line = {"step": state.global_step, "at_s": time.monotonic()}
        print(json.dumps(line), file=self._facts)

    def on_log(self, _args: Any, state: TrainerState, _control: Any, **given: Any) -> None:
        if "loss" in given["logs"]:
            line = {"logged": state.global_step, "loss": given["logs"]["loss"]}
            print(json.dumps(line), file=self._facts)


def main() -> None:
    facts = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    root = Path(sys.argv[1])
    settings = json.loads((root / "settings.json").read_text())
    torch.set_num_threads(settings["threads"])
    trainer = SFTTrainer(
        model=str(root / "model"),
        args=SFTConfig(
            output_dir=str(root / "out"),
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            logging_steps=1,
            save_strategy="no",
            train_sampling_strategy="sequential",
            **settings["config"],
        ),
        train_dataset=load_dataset("json", data_files=str(root / "training.jsonl"), split="train"),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **settings["lora"]),
        callbacks=[Tell(facts)],
    )
    rows = [
        {"tokens": len(row["input_ids"]), "examples": len(row.get("seq_lengths", [None]))}
        for row in trainer.train_dataset
    ]
    print(json.dumps({"rows": rows}), file=facts)
    trainer.train()


if __name__ == "__main__":
    main()
