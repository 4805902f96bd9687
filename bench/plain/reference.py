"""The reference: one example a pass, by transformers and PEFT alone; run by bench.train_speed.

    python bench/plain/reference.py RUN_DIRECTORY STEPS

It takes the same examples in the same order, with the same weights, initialisation, optimizer and
rates as ftd's trainer, and nothing of how that computes: no packing, no trees, no kernels of its
own. Of ftd it uses what says what to compute: the tokens and their weights (ftd.worker.train.data)
and the plan (ftd.worker.train.schedule). It prints a loss a line.
"""

import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftd.core.spec import TrainSpec
from ftd.worker.train.data import Row, Source, tokenize
from ftd.worker.train.schedule import Plan


def nll(model: torch.nn.Module, row: Row) -> torch.Tensor:
    """The weighted sum of a row's losses, from the logits of every position."""
    ids = torch.from_numpy(row.ids.copy()).long()
    weights = torch.from_numpy(row.weights.copy())
    logits = model(input_ids=ids[None]).logits[0, :-1]
    return (functional.cross_entropy(logits, ids[1:], reduction="none") * weights[1:]).sum()


def main() -> None:
    root, steps = Path(sys.argv[1]), int(sys.argv[2])
    spec = TrainSpec.model_validate_json((root / "spec.json").read_bytes())
    torch.set_num_threads(spec.threads)
    torch.manual_seed(spec.seed)
    tokenizer = AutoTokenizer.from_pretrained(root / spec.model)
    base = AutoModelForCausalLM.from_pretrained(root / spec.model, dtype=torch.float32)
    assert spec.lora is not None
    config = LoraConfig(
        task_type="CAUSAL_LM", r=spec.lora.rank, lora_alpha=spec.lora.alpha,
        lora_dropout=0.0, target_modules=spec.lora.targets,
    )  # fmt: skip
    model = get_peft_model(base, config).train()
    source = Source(
        path=root / spec.training_file, tokenizer=tokenizer, context_tokens=spec.context_tokens
    )
    file = tokenize(source, root / "reference-tokens").file
    plan = Plan(
        examples=len(file), batch_size=spec.batch_size, n_epochs=spec.n_epochs, seed=spec.seed,
        warmup_ratio=spec.optimizer.warmup_ratio,
    )  # fmt: skip
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=spec.optimizer.learning_rate, weight_decay=spec.optimizer.weight_decay,
        betas=(spec.optimizer.beta1, spec.optimizer.beta2),
    )  # fmt: skip
    for step in range(1, min(steps, plan.total_steps) + 1):
        rows = [row for example in plan.batch(step) for row in file[example]]
        divisor = sum(float(row.weights[1:].sum()) for row in rows)
        total = 0.0
        for row in rows:
            loss = nll(model, row) / divisor
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(trained, spec.optimizer.clip_norm)
        optimizer.param_groups[0]["lr"] = spec.optimizer.learning_rate * plan.rate(step)
        optimizer.step()
        optimizer.zero_grad()
        print(total, flush=True)


if __name__ == "__main__":
    main()
