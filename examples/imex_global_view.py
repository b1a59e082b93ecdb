"""A semi-implicit layer sees the whole image, and stays stable where forward Euler blows up.

One step of x' = -L x + F(x) on a 16 x 16 image, L a circular convolution inverted by FFT: how many pixels does the
middle of the image influence?  Then the same field with L made 400 times stiffer, to T = 10 in 20 steps.
"""

import torch

import odeframe
from odeframe import Flow


def flow(solver, steps, horizon, stiffness=1.0):
    """The same weights every time."""
    torch.manual_seed(0)
    built = Flow(
        {"name": "imex_conv", "width": 2, "norm": "none"}, solver={"name": solver, "steps": steps}, horizon=horizon
    )
    built.dynamics.filter.data.mul_(stiffness**0.5)
    return built.double()


def influence(solver):
    """How many pixels of the output depend on the middle pixel of the input, after one step."""
    x = torch.randn(1, 2, 16, 16, dtype=torch.float64)
    moved = x.clone()
    moved[0, 0, 8, 8] += 1e-3
    with torch.no_grad():
        difference = flow(solver, 1, (0.0, 1.0))(moved) - flow(solver, 1, (0.0, 1.0))(x)
    return int((difference[0, 0].abs() > 1e-15).sum())


def main():
    """Counts of pixels, and sizes of the end state."""
    torch.manual_seed(1)
    print(f"pixels of 256 that one layer couples: euler {influence('euler')}, imex_euler {influence('imex_euler')}")
    x0 = torch.randn(4, 2, 16, 16, dtype=torch.float64)
    for solver in ("imex_euler", "ars222", "euler"):
        try:
            with torch.no_grad():
                size = flow(solver, 20, (0.0, 10.0), stiffness=400.0)(x0).norm() / x0.norm()
            print(f"{solver:10}: |x(10)| / |x(0)| = {size:.3g}")
        except odeframe.SolveFailed as error:
            print(f"{solver:10}: {error.status.message} at t = {error.t:.3g}")


if __name__ == "__main__":
    main()
