"""Waves and heat from one matrix: how far apart two signals are with depth, in hyperbolic and parabolic networks."""

import torch

from odeframe import Flow

torch.manual_seed(0)
x = torch.randn(16, 8, dtype=torch.float64)
y = x + 1e-3 * torch.randn_like(x)

for name, solver in (("parabolic", "euler"), ("hyperbolic", "leapfrog")):
    for depth in (20, 200, 2000):
        torch.manual_seed(1)
        steps, horizon = {"name": solver, "steps": depth}, (0.0, depth / 5)
        flow = Flow({"name": "symmetric_mlp", "width": 8}, "constant", steps, horizon=horizon).double()
        apart = flow(torch.cat([x, y])).detach().chunk(2)
        ratio = float((apart[0] - apart[1]).norm() / (x - y).norm())
        print(f"{name:10} {depth:4} layers: |x(T) - y(T)| / |x(0) - y(0)| = {ratio:.3f}")
