"""Training without a step length: successive approximations, basic and extended, on x' = u at a price for u.

J = g x(T)^2 / 2 + r int u^2 / 2 dt, x(0) = 1, T = 1. In each sweep the basic method multiplies the error of u by
-g T / r, the extended one by (rho - g T) / (rho + r): one diverges for g T > r, the other converges for every
rho > (g T - r) / 2.
"""

import torch
from torch import nn

import odeframe
from odeframe import Flow, Network
from odeframe.costs import KineticEnergy
from odeframe_plugins.trainers.successive import Problem


class Velocity(odeframe.Dynamics):
    """x' = u."""

    def __init__(self):
        super().__init__()
        self.u = nn.Parameter(torch.zeros(1))

    def forward(self, t, x, u=None):
        return self.u.expand_as(x)


def errors(trainer, g, r, sweeps=8):
    """|u - u*| / |u*| after each sweep, u* = -g / (r + g T)."""
    options = {key: value for key, value in trainer.items() if key != "name"}
    flow = Flow(Velocity(), solver={"name": "euler", "steps": 4}, quadratures=[KineticEnergy(r)])
    network, rule = Network({"flow": flow}).double(), odeframe.build("trainer", trainer["name"], **options)
    optimum = -g / (r + g)
    for _ in range(sweeps):
        x = torch.ones(1, 1, dtype=torch.float64)
        rule.improve(Problem(network.steps(), (x,), lambda z: (g * z[0].square().sum(1) / 2 + z[1]).mean()))
        yield abs(float(flow.dynamics.u.detach()) - optimum) / abs(optimum)


def main():
    """Prints errors by sweep for g = 2, r = 1, where the bounds are g T / r < 1 and rho > 1 / 2."""
    trainers = {"msa": {"name": "msa"}} | {
        f"emsa, rho = {rho}": {"name": "emsa", "rho": rho, "adaptive": False} for rho in (0.4, 0.6, 2.0)
    }
    for name, trainer in {**trainers, "emsa, adaptive from 0.01": {"name": "emsa", "rho": 0.01}}.items():
        print(f"{name:26}", *(f"{error:8.1e}" for error in errors(trainer, g=2.0, r=1.0)))


if __name__ == "__main__":
    main()
