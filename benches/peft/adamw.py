"""The values of `agent/engine/src/train/adamw.rs`'s parity test."""
import torch

p = torch.nn.Parameter(torch.tensor([0.5, -1.25, 3.0, 0.0]))
optimizer = torch.optim.AdamW([p], lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
for gradient in ([0.1, -0.2, 0.3, 1e-4], [0.05, 0.4, -0.3, 0.0], [-0.7, 0.0, 0.2, 2.0]):
    p.grad = torch.tensor(gradient)
    torch.nn.utils.clip_grad_norm_([p], 1.0)
    optimizer.step()
    print([f"{x:.7f}" for x in p.tolist()])
