"""An external trainer with nothing but the standard library: it learns nothing, and says so in the right form.

With seed 1 it never ends and does not listen to SIGTERM; with seed 2 it fails. Both have a worker that never ends, in a session of its
own as launchers have theirs. With seed 3 it takes 300 MiB of memory and does not end, with seed 4 it only does not end.
"""
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

folder = Path(sys.argv[1])
job = json.loads((folder / "job.json").read_text())
settings = job["settings"]
config = json.loads((folder / job["base"] / "config.json").read_text())
train = [json.loads(line) for line in (folder / job["train"]).read_text().splitlines()]
assert len(train[0]["input_ids"]) == len(train[0]["labels"]) and -100 in train[0]["labels"]

print("a trainer's banner", "x" * 10_000)
print("\rloading: 50 %\rloading: 100 %")
print("sees GPUs", os.environ.get("CUDA_VISIBLE_DEVICES"), "and", len(os.sched_getaffinity(0)), "cores")
for step in range(1, 4):
    print(json.dumps({"step": step, "steps": 3, "loss": 3.0 / step, "tokens": 10 * step}), flush=True)
if settings["seed"] in (1, 2):
    endless = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1e6)"
    subprocess.Popen([sys.executable, "-c", endless, str(folder)], start_new_session=True)
if settings["seed"] == 1:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1)
if settings["seed"] in (3, 4):
    taken = bytearray(os.urandom(1 << 20)) * (300 if settings["seed"] == 3 else 1)
    time.sleep(1e6)
if settings["seed"] == 2:
    sys.exit("out of memory, it would say")

width, rank = config["hidden_size"], settings["rank"]
queries = config["num_attention_heads"] * config["head_dim"]
header, data = {}, b""
for layer in range(config["num_hidden_layers"]):
    module = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
    for name, shape in (("lora_A", [rank, width]), ("lora_B", [queries, rank])):
        size = shape[0] * shape[1] * 4
        header[f"{module}.{name}.weight"] = {
            "dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + size]
        }
        data += bytes(size)
text = json.dumps(header).encode()
adapter = folder / job["adapter"]
adapter.mkdir()
(adapter / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
(adapter / "adapter_config.json").write_text(
    json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": settings["alpha"], "target_modules": ["q_proj"]})
)
