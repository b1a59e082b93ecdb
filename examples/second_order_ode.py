"""A second-order ODE learns a force from positions alone: an oscillator x'' = -x - 0.2 x', seen at twelve times.

A first-order flow on the line cannot: a path that turns would meet itself with another velocity.
"""

import math

import torch

from odeframe import Flow


def truth(t):
    """The position of the damped oscillator that starts at rest at 1."""
    omega = math.sqrt(1 - 0.1**2)
    return torch.exp(-0.1 * t) * (torch.cos(omega * t) + 0.1 / omega * torch.sin(omega * t))


def main():
    """The error of both kinds of path."""
    times = torch.linspace(0.0, 5.5, 12)
    wanted = truth(times)
    for name, dynamics, start in (
        ("first order", {"name": "mlp", "width": 1, "hidden": 16}, torch.tensor([[1.0]])),
        ("second order", {"name": "acceleration_mlp", "width": 2, "hidden": 16}, torch.tensor([[1.0, 0.0]])),
    ):
        torch.manual_seed(0)
        flow = Flow(dynamics, "constant", {"name": "rk4", "dt": 0.5}, horizon=(0.0, 5.5))
        optimiser = torch.optim.Adam(flow.parameters(), lr=3e-2)
        for _ in range(80):
            path = flow.solve(start, times).states[:, 0, 0]
            loss = (path - wanted).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        print(f"{name:12}: mean square error {float(loss.detach()):.4f}")


if __name__ == "__main__":
    main()
