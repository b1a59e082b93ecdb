"""Momentum networks are not flows of a field: their paths may cross, so that x -> -x is within reach.

A ResNet of many short steps approximates a flow on a line, which keeps the order of points; the same blocks with a
velocity of their own do not.
"""

import torch

from odeframe import Flow


def main():
    """The error of both on x -> -x, with steps of 1/20."""
    x = torch.linspace(-1, 1, 41)[:, None]
    for solver in ({"name": "euler"}, {"name": "momentum", "gamma": 0.95}):
        torch.manual_seed(0)
        block = torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
        flow = Flow(block, "constant", {**solver, "steps": 40}, horizon=(0.0, 2.0))
        optimiser = torch.optim.Adam(flow.parameters(), lr=1e-2)
        for _ in range(150):
            loss = (flow(x) + x).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        end = flow(x).detach()
        ordered = bool((end[1:] >= end[:-1]).all())
        print(f"{solver['name']:8}: mean square error {float((end + x).square().mean()):.4f}, order kept: {ordered}")


if __name__ == "__main__":
    main()
