"""An external trainer in PEFT, for `[finetune] trainer`: gets the job's folder, prints JSON lines, leaves an adapter."""
import json
import math
import random
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

folder = Path(sys.argv[1])
job = json.loads((folder / "job.json").read_text())
settings = job["settings"]
torch.manual_seed(settings["seed"])
random.seed(settings["seed"])
device = "cuda" if torch.cuda.is_available() else "cpu"


def read(name):
    return [json.loads(line) for line in (folder / job[name]).read_text().splitlines()]


def batch_of(samples):
    longest = max(len(sample["input_ids"]) for sample in samples)
    padded = lambda key, filler: torch.tensor(
        [sample[key] + [filler] * (longest - len(sample[key])) for sample in samples], device=device
    )
    ids, labels = padded("input_ids", 0), padded("labels", -100)
    mask = [[1] * len(s["input_ids"]) + [0] * (longest - len(s["input_ids"])) for s in samples]
    mask = torch.tensor(mask, device=device)
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


train, held_out = read("train"), read("held_out")
base = AutoModelForCausalLM.from_pretrained(folder / job["base"], dtype=torch.float32).to(device)
model = get_peft_model(
    base,
    LoraConfig(
        task_type="CAUSAL_LM", r=settings["rank"], lora_alpha=settings["alpha"], lora_dropout=settings["dropout"],
        target_modules=settings["target_modules"], use_rslora=settings["use_rslora"], use_dora=settings["use_dora"],
    ),
)
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=settings["learning_rate"], weight_decay=settings["weight_decay"])
size = settings["batch_size"]
steps = math.ceil(len(train) / size) * settings["epochs"]
step = tokens = 0
for epoch in range(settings["epochs"]):
    random.shuffle(train)
    for first in range(0, len(train), size):
        rate = settings["learning_rate"] * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = train[first : first + size]
        loss = model(**batch_of(batch)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, settings["max_grad_norm"])
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        tokens += sum(len(sample["input_ids"]) for sample in batch)
        said = {"step": step, "steps": steps, "loss": loss.item(), "learning_rate": rate, "tokens": tokens}
        if held_out and first + size >= len(train):
            with torch.no_grad():
                said["held_out_loss"] = model(**batch_of(held_out)).loss.item()
        print(json.dumps(said), flush=True)
model.save_pretrained(folder / job["adapter"])
