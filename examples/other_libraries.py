"""One problem, five libraries: the solver is a word, whoever wrote it.

A pendulum from three angles to t = 10, at the tolerance 1e-6.
"""

import torch

import odeframe


def pendulum(t, x):
    """x = (angle, velocity), ``(batch, 2)``."""
    return torch.stack([x[:, 1], -torch.sin(x[:, 0])], dim=1)


def main():
    """Error and evaluations of each; a library that is not installed says how to install it."""
    x0 = torch.tensor([[0.5, 0.0], [1.5, 0.0], [3.0, 0.0]], dtype=torch.float64)
    exact = odeframe.solve(pendulum, x0, (0.0, 10.0), "dopri5", rtol=1e-12, max_steps=100_000).final
    for name, method in (
        ("dopri5", ""),
        ("torchdiffeq", "dopri5"),
        ("torchode", "tsit5"),
        ("scipy", "DOP853"),
        ("scipy", "LSODA"),
    ):
        missing = odeframe.describe("solver", name)["missing"]
        if missing:
            print(f"{name} {missing}")
            continue
        options = {"method": method} if method else {}
        solution = odeframe.solve(pendulum, x0, (0.0, 10.0), name, rtol=1e-6, atol=1e-8, **options)
        error = float((solution.final - exact).abs().max())
        print(f"{name:11} {method:7} error {error:.1e}, {solution.stats.nfe:4} evaluations")


if __name__ == "__main__":
    main()
