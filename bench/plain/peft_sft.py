"""Fine-tuning as a plain script does it, up to its first step; run by bench.submit_to_first_step.

    python bench/plain/peft_sft.py MODEL_DIRECTORY BATCH.jsonl THREADS

transformers and PEFT, a padded batch, AdamW: what a tutorial shows, imports included. It takes the
one batch that the job's first step takes, so of all it would tokenise it tokenises least. Says
`step 1` when the weights have moved.
"""

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    directory, file, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    torch.manual_seed(42)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    base = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    lora = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear")
    model = get_peft_model(base, lora).train()
    optimizer = torch.optim.AdamW(
        (parameter for parameter in model.parameters() if parameter.requires_grad), lr=2e-4
    )
    chats = [json.loads(line)["messages"] for line in file.read_text().splitlines()]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    loss = model(**batch, labels=labels).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    print(f"step 1 loss {loss.item():.4f}", flush=True)


if __name__ == "__main__":
    main()
