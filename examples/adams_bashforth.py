"""One evaluation a step: Adams-Bashforth methods against Runge-Kutta ones of the same order at equal cost.

A field whose weights jump twice: the multistep methods start anew at each jump, and keep their order.
"""

import math

import torch
from torch import nn

from odeframe import Flow

PAIRS = {"ab2": ("heun", 2), "ab4": ("rk4", 4)}


def flow(solver, steps):
    """x' = tanh(W_j x + b_j) on three pieces of (0, 3)."""
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    control = {"name": "piecewise_constant", "pieces": 3}
    return Flow(block, control, {"name": solver, "steps": steps}, horizon=(0.0, 3.0)).double()


def main():
    """Errors at N evaluations, and the order that they fall with."""
    torch.manual_seed(1)
    x0 = torch.randn(8, 4, dtype=torch.float64)
    with torch.no_grad():
        exact = flow("rk4", 3_000)(x0)
        for name, (rival, stages) in PAIRS.items():
            errors = {}
            for solver, cost in ((name, 1), (rival, stages)):
                for evaluations in (480, 960):
                    errors[solver, evaluations] = (flow(solver, evaluations // cost)(x0) - exact).abs().max()
            for solver in (name, rival):
                coarse, fine = errors[solver, 480], errors[solver, 960]
                print(f"{solver:5} error at 480 and 960: {coarse:.1e} {fine:.1e}, order {math.log2(coarse / fine):.2f}")
            print(f"      {name} is {errors[rival, 960] / errors[name, 960]:.1f} times as exact as {rival}")


if __name__ == "__main__":
    main()
