"""One hard sample among 32: with `per_sample=True` it alone pays for its steps."""

import torch

import odeframe

torch.set_default_dtype(torch.float64)
rates = torch.ones(32, 1)
rates[7] = 500.0  # this one relaxes 500 times faster than the others


def field(t, x):
    """x' = -rate (x - cos t), every sample with its own rate."""
    return -rates * (x - torch.cos(t).reshape(-1, 1))


x0 = torch.linspace(0, 1, 32)[:, None]
shared = odeframe.solve(field, x0, (0.0, 2.0), solver="dopri5")
own = odeframe.solve(field, x0, (0.0, 2.0), solver="dopri5", per_sample=True)
print(f"one step for the batch: {32 * shared.stats.accepted} sample steps")
print(f"steps of each sample:   {own.stats.accepted} sample steps")
print(f"largest difference:     {float((own.final - shared.final).abs().max()):.1e}")
print(f"stiffness hint:         {own.stats.stiff}")
