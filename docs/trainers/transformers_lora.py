"""An external trainer on transformers' Trainer, for `[finetune] trainer`: alone, or under torchrun or accelerate launch."""
import json
import math
import os
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

folder = Path(sys.argv[1])
job = json.loads((folder / "job.json").read_text())
settings = job["settings"]


def read(name):
    return [json.loads(line) for line in (folder / job[name]).read_text().splitlines()]


def batch_of(samples):
    longest = max(len(sample["input_ids"]) for sample in samples)
    pad = lambda key, filler: torch.tensor([s[key] + [filler] * (longest - len(s[key])) for s in samples])
    mask = [[1] * len(s["input_ids"]) + [0] * (longest - len(s["input_ids"])) for s in samples]
    return {"input_ids": pad("input_ids", 0), "labels": pad("labels", -100), "attention_mask": torch.tensor(mask)}


class Tell(TrainerCallback):
    """One JSON object a line, from one process."""

    said = {"loss": 0.0}

    def on_log(self, args, state, control, logs=None, **_):
        if not state.is_world_process_zero:
            return
        if "loss" in logs:
            self.said = {"loss": logs["loss"], "learning_rate": logs["learning_rate"]}
        if "loss" in logs or "eval_loss" in logs:
            said = {"step": state.global_step, "steps": state.max_steps, **self.said}
            said["tokens"] = int(state.num_input_tokens_seen)
            if "eval_loss" in logs:
                said["held_out_loss"] = logs["eval_loss"]
            print(json.dumps(said), flush=True)


processes = int(os.environ.get("WORLD_SIZE", "1"))
train, held_out = read("train"), read("held_out")
steps = math.ceil(len(train) / settings["batch_size"]) * settings["epochs"]
model = get_peft_model(
    AutoModelForCausalLM.from_pretrained(folder / job["base"]),
    LoraConfig(
        task_type="CAUSAL_LM", r=settings["rank"], lora_alpha=settings["alpha"], lora_dropout=settings["dropout"],
        target_modules=settings["target_modules"], use_rslora=settings["use_rslora"], use_dora=settings["use_dora"],
    ),
)
trainer = Trainer(
    model=model,
    train_dataset=train,
    eval_dataset=held_out or None,
    data_collator=batch_of,
    callbacks=[Tell()],
    args=TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        per_device_train_batch_size=math.ceil(settings["batch_size"] / processes),
        num_train_epochs=settings["epochs"],
        learning_rate=settings["learning_rate"],
        lr_scheduler_type=settings["schedule"],
        warmup_steps=math.ceil(settings["warmup_ratio"] * steps),
        weight_decay=settings["weight_decay"],
        max_grad_norm=settings["max_grad_norm"],
        seed=settings["seed"],
        eval_strategy="epoch" if held_out else "no",
        save_strategy="no",
        logging_steps=1,
        include_num_input_tokens_seen=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
    ),
)
trainer.remove_callback(PrinterCallback)
trainer.train()
if trainer.is_world_process_zero():
    model.save_pretrained(folder / job["adapter"])
