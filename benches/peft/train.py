"""The same training with PEFT and torch, beginning at the same adapter, on the same batches; prints JSON.

Also compares logits both ways: with the adapter that our side has trained, and with the one that is trained here.
"""
import json
import resource
import sys
import time

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

folder, threads = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(threads)
work = json.load(open(f"{folder}/work.json"))


def load(adapter, trainable):
    base = AutoModelForCausalLM.from_pretrained(f"{folder}/base", dtype=torch.float32, attn_implementation="sdpa")
    return PeftModel.from_pretrained(base, f"{folder}/{adapter}", is_trainable=trainable)


def logits(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0]


def apart(model, name):
    """The largest difference from our logits, as a share of the largest logit."""
    worst = 0.0
    for probe in work[name]:
        ours, theirs = torch.tensor(probe["logits"]), logits(model, probe["tokens"])
        worst = max(worst, ((ours - theirs).abs().max() / theirs.abs().max()).item())
    return worst


result = {"trained_by_us": apart(load("trained", False).eval(), "probes")}
model = load("first", True).train()
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(
    trained, lr=work["learning_rates"][0], betas=(0.9, 0.999), eps=1e-8, weight_decay=work["weight_decay"]
)
losses, took, tokens = [], 0.0, 0
for batch, rate in zip(work["batches"], work["learning_rates"]):
    # Sorted and padded to the longest, as trainers do that group by length.
    samples = [work["samples"][index] for index in batch]
    longest = max(len(sample["tokens"]) for sample in samples)
    ids = torch.zeros((len(samples), longest), dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, sample in enumerate(samples):
        length = len(sample["tokens"])
        ids[row, :length] = torch.tensor(sample["tokens"])
        mask[row, :length] = 1
        for place, weight in enumerate(sample["weights"]):
            if weight > 0:
                labels[row, place] = sample["tokens"][place]
    began = time.perf_counter()
    for group in optimizer.param_groups:
        group["lr"] = rate
    out = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(out.flatten(0, 1), labels[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, work["max_grad_norm"])
    optimizer.step()
    optimizer.zero_grad()
    took += time.perf_counter() - began
    losses.append(loss.item())
    tokens += sum(len(sample["tokens"]) for sample in samples)
model.eval()
model.save_pretrained(f"{folder}/theirs")
result |= {
    "losses": losses,
    "seconds": took,
    "tokens": tokens,
    "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "probes": [{"tokens": p["tokens"], "logits": logits(model, p["tokens"]).tolist()} for p in work["probes"]],
}
json.dump(result, sys.stdout)
