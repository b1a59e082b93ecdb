"""One matrix, three blocks: how far a small perturbation of the input gets in T = 20."""

import torch

from odeframe import solve

generator = torch.Generator().manual_seed(0)
K = torch.randn(32, 32, generator=generator, dtype=torch.float64) / 32**0.5
x = torch.randn(8, 32, generator=generator, dtype=torch.float64)
y = x + 1e-6 * torch.randn(8, 32, generator=generator, dtype=torch.float64)
identity = torch.eye(32, dtype=torch.float64)

for name, A in (("K", K), ("K - K^T", K - K.t()), ("K - K^T - 0.1 I", K - K.t() - 0.1 * identity)):
    ends = [solve(lambda t, s, A=A: torch.tanh(s @ A.t()), v, (0.0, 20.0), "dopri5", rtol=1e-9).final for v in (x, y)]
    print(f"tanh({name:15} x): amplified by {float((ends[0] - ends[1]).norm() / (x - y).norm()):6.1f}")
