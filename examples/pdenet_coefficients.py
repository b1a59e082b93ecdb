"""The coefficients of u_t = 0.8 u_x - 0.6 u_y + 0.2 lap u, from noisy solutions at several times."""

import torch

from odeframe import build
from odeframe.specification import NetworkSpec

data = build("data", "convection_diffusion", n=30)
x, y = (each.double() for each in data.dataset("train").tensors)
dynamics = {"name": "pde_conv", "train_kernels": False}
spec = NetworkSpec(x.shape[1:], y.shape[1:], interval=data.interval)
network = build("architecture", "pdenet").build(spec, dynamics=dynamics).double()
optimizer = torch.optim.LBFGS(network.parameters(), max_iter=40, line_search_fn="strong_wolfe")


def closure():
    optimizer.zero_grad()
    loss = (network(x) - y).square().mean()
    loss.backward()
    return loss


optimizer.step(closure)
(operator,) = (module for module in network.modules() if hasattr(module, "named_coefficients"))
print("  ".join(f"c_{i}{j} = {c:.3f}" for (i, j), c in operator.named_coefficients().items()))
