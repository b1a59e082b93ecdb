"""Train a shallow network, then make it deeper without changing what it computes.

A control is a function of depth, so it can be refined like a grid: twice the pieces, the same function. Training goes
on from there. The steps stay, and are fine enough for the most pieces; `flow.refine(2)` would double them too.
"""

import torch
from torch import nn

from odeframe import Flow

RK4 = {"name": "rk4", "steps": 8}
torch.manual_seed(0)
x = torch.randn(256, 2)
target = torch.stack([x[:, 0] * x[:, 1], torch.sin(2 * x[:, 0])], dim=1)
block = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
flow = Flow(block, {"name": "piecewise_linear", "pieces": 1, "init": "copy"}, RK4)


def train(steps=60):
    """Adam from where the flow is; a refined control has new parameters, so the optimiser is new too."""
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    for _ in range(steps):
        loss = (flow(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


print(f"pieces {flow.control.pieces}: loss {train():.4f}")
while flow.control.pieces < 8:
    before = flow(x).detach()
    flow.control.refine(2)
    change = (flow(x).detach() - before).abs().max()
    print(f"pieces {flow.control.pieces}: refining moved outputs by {change:.1e}; then loss {train():.4f}")
