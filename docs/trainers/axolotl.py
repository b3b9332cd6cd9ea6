"""An external trainer on axolotl, for `[finetune] trainer`: writes its configuration, and tells what it logs as JSON lines."""
import ast
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

# Before the folder, a JSON file with what else axolotl is to know: deepspeed, fsdp_config, load_in_4bit, attn_implementation.
*more, folder = map(Path, sys.argv[1:])
more = json.loads(more[0].read_text()) if more else {}
job = json.loads((folder / "job.json").read_text())
settings = job["settings"]
tokenizer = json.loads((folder / job["base"] / "tokenizer_config.json").read_text())

samples = [json.loads(line) for line in (folder / job["train"]).read_text().splitlines()]
masked = folder / "masked.jsonl"
masked.write_text(
    "".join(json.dumps({**one, "attention_mask": [1] * len(one["input_ids"])}) + "\n" for one in samples)
)
processes = int(os.environ.get("NPROC_PER_NODE", "1"))
config = {
    "base_model": str(folder / job["base"]),
    # Without a type, tokens are taken as they are.
    "datasets": [{"path": str(masked), "ds_type": "json", "type": None}],
    "output_dir": str(folder / "axolotl"),
    "dataset_prepared_path": str(folder / "prepared"),
    "adapter": "lora",
    "lora_r": settings["rank"],
    "lora_alpha": settings["alpha"],
    "lora_dropout": settings["dropout"],
    "lora_target_modules": settings["target_modules"],
    "peft_use_rslora": settings["use_rslora"],
    "peft_use_dora": settings["use_dora"],
    "lora_mlp_kernel": False,
    "lora_qkv_kernel": False,
    "lora_o_kernel": False,
    "sequence_len": settings["max_tokens"],
    "micro_batch_size": math.ceil(settings["batch_size"] / processes),
    "gradient_accumulation_steps": 1,
    "num_epochs": settings["epochs"],
    "learning_rate": settings["learning_rate"],
    "lr_scheduler": {"constant": "constant_with_warmup"}.get(settings["schedule"], settings["schedule"]),
    "warmup_ratio": settings["warmup_ratio"],
    "weight_decay": settings["weight_decay"],
    "max_grad_norm": settings["max_grad_norm"],
    "optimizer": "adamw_torch",
    "bf16": settings["bf16"],
    "fp16": False,
    "tf32": False,
    "attn_implementation": "sdpa",
    "logging_steps": 1,
    "save_strategy": "no",
    "special_tokens": {"pad_token": tokenizer.get("pad_token") or tokenizer["eos_token"]},
    "seed": settings["seed"],
    **more,
}
# JSON is YAML.
(folder / "axolotl.yaml").write_text(json.dumps(config))
command = ["axolotl", "train", str(folder / "axolotl.yaml"), "--launcher", "accelerate" if processes > 1 else "python"]
child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
steps = math.ceil(len(samples) / settings["batch_size"]) * settings["epochs"]
step = 0
# Progress bars end in carriage returns, which are line ends here.
for line in child.stdout:
    found = re.search(r"\{'loss'.*\}", line)
    if found:
        logged = ast.literal_eval(found.group())
        step += 1
        said = {"step": step, "steps": max(steps, step), "loss": float(logged["loss"])}
        said["learning_rate"], said["tokens"] = float(logged["learning_rate"]), int(logged["tokens/total"])
        print(json.dumps(said), flush=True)
    elif not re.search(r"\d+/\d+ \[", line):
        print(line.rstrip(), flush=True)
if child.wait() != 0:
    sys.exit(child.returncode)
(folder / "axolotl").rename(folder / job["adapter"])
