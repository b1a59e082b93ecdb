"""Four gradients of one deep network: the same numbers, at very different memory.

A reversible network of 8 and of 256 layers. backprop keeps every layer's activations, checkpoint those of a few layers,
reversible only the ends; the last column is the difference from backprop's gradient.
"""

import torch
from torch import nn

from odeframe import Flow, SeparableDynamics


class Coupling(SeparableDynamics):
    """y' = tanh(A z + a), z' = -tanh(B y + b): RevNet's two halves."""

    def __init__(self):
        super().__init__()
        self.upper, self.lower = nn.Linear(8, 8), nn.Linear(8, 8)

    def first(self, t, z, u=None):
        """y'."""
        return torch.tanh(self.upper(z))

    def second(self, t, y, u=None):
        """z'."""
        return -torch.tanh(self.lower(y))


def run(gradient, layers):
    """The gradient of a loss, and the bytes that the forward pass kept for it."""
    torch.manual_seed(0)
    solver = {"name": "verlet", "steps": layers}
    flow = Flow(Coupling(), "piecewise_constant", solver, gradient, horizon=(0.0, 5.0)).double()
    x0, kept = torch.randn(32, 16, dtype=torch.float64), []
    with torch.autograd.graph.saved_tensors_hooks(lambda v: kept.append(v.nbytes) or v, lambda v: v):
        loss = flow(x0).square().mean()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in flow.parameters()]), sum(kept)


def main():
    """A line for each gradient."""
    words = {"backprop": "backprop", "checkpoint": "checkpoint", "reversible": "reversible"}
    words["checkpoint, 4 slots"] = {"name": "checkpoint", "slots": 4}
    print(f"{'gradient':20} {'8 layers':>10} {'256 layers':>11}  difference")
    exact, _ = run("backprop", 256)
    for name, word in words.items():
        (_, shallow), (gradient, deep) = run(word, 8), run(word, 256)
        difference = (gradient - exact).abs().max() / exact.abs().max()
        print(f"{name:20} {shallow / 1e3:7.1f} kB {deep / 1e3:8.1f} kB  {difference:.0e}")


if __name__ == "__main__":
    main()
