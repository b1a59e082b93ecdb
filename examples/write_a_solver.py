"""Write a solver: one step is enough, and it goes with every dynamics, control and gradient.

The scheme here is Ralston's: x + h/4 (k_1 + 3 k_2), k_2 = f(t + 2h/3, x + 2h/3 k_1), of order 2.
"""

import math

import torch
from torch import nn

import odeframe


class Ralston(odeframe.StepSolver):
    """The second-order Runge-Kutta method of the least error bound.

    Source: Ralston 1962, Runge-Kutta Methods with Minimum Error Bounds.
    """

    order = 2
    traits = ("step",)

    def step(self, field, t, dt, x, memory):
        """One step; ``field`` is the right-hand side on this step's interval, ``memory`` is not used."""
        first = field(t, x)
        second = field(t + 2 / 3 * dt, x + 2 / 3 * dt * first)
        return x + dt / 4 * (first + 3 * second), ()


def error(steps):
    """The distance to the closed form of x' = x cos t, x(t) = exp(sin t), at t = 2."""
    x0 = torch.ones(1, 1, dtype=torch.float64)
    solution = odeframe.solve(lambda t, x: x * torch.cos(t), x0, (0.0, 2.0), Ralston(steps))
    return abs(solution.final.item() - math.exp(math.sin(2.0)))


def main():
    """The order that is measured, and the same solver as the steps of a network."""
    previous = error(20)
    for steps in (40, 80, 160):
        current = error(steps)
        print(f"{steps:4d} steps: error {current:.2e}, order {math.log2(previous / current):.2f}")
        previous = current
    flow = odeframe.Flow(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), "piecewise_constant", Ralston(6))
    flow(torch.randn(8, 3)).square().mean().backward()
    pieces = sum(bool(parameter.grad.abs().sum() > 0) for parameter in flow.parameters())
    print(f"as a network: 6 steps with {pieces} weights and biases, each with a gradient; {flow.stats.nfe} evaluations")


if __name__ == "__main__":
    main()
