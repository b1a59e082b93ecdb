"""Stochastic depth as a scheme: its mean, its variance, and what is left of its noise in a deep network.

Blocks that are dropped with probability 1/2.  As they come, the noise of the whole network dies out with depth; scaled
as the scheme of a stochastic differential equation, it stays.
"""

import torch

from odeframe import Dynamics, Flow, Noise


class Growth(Dynamics):
    """f(x) = x, so that E x(1) = exp(1/2) and, for the equation, Var x(1) = exp(1) (exp(1/4) - 1)."""

    def forward(self, t, x, u=None):
        return x


def main():
    """Mean and standard deviation of x(1) over 20,000 networks of 4 to 256 blocks."""
    x0 = torch.ones(20_000, 1, dtype=torch.float64)
    for scaling in ("depth", "sde"):
        for steps in (4, 32, 256):
            solver = {
                "name": "bernoulli_euler",
                "survival": 0.5,
                "schedule": "constant",
                "scaling": scaling,
                "steps": steps,
            }
            x = Flow(Growth(), solver=solver)(x0, noise=Noise(0))
            print(f"{scaling:5} {steps:3} blocks: mean {x.mean():.3f}, standard deviation {x.std():.3f}")
    e = torch.tensor(1.0).exp()
    print(
        f"the equation     : mean {e.sqrt():.3f}, standard deviation {(e * (torch.tensor(0.25).exp() - 1)).sqrt():.3f}"
    )


if __name__ == "__main__":
    main()
