"""What PolyNet's compositions approximate: backward Euler, for linear blocks; and what biases do to them.

The distance of one step to (I - h A)^{-1} x falls by 4 when h halves for Euler, by 8 for poly2, by 16 for poly3.
"""

import torch

import odeframe


def main():
    """Distances, their ratios, and errors on a block with biases."""
    torch.manual_seed(0)
    A, x0 = torch.randn(4, 4, dtype=torch.float64) / 2, torch.randn(6, 4, dtype=torch.float64)

    def one_step(solver, h):
        x = odeframe.solve(lambda t, x: x @ A.T, x0, (0.0, h), solver, steps=1).final
        return float((x - torch.linalg.solve(torch.eye(4, dtype=torch.float64) - h * A, x0.T).T).norm())

    for solver in ("euler", "poly2", "poly3"):
        errors = [one_step(solver, h) for h in (0.04, 0.02, 0.01)]
        print(
            f"{solver:6} h = 0.04 ... 0.01: {', '.join(f'{e:.1e}' for e in errors)}, ratio {errors[1] / errors[2]:.1f}"
        )

    bias = torch.tensor([0.3, -0.2, 0.1, 0.4], dtype=torch.float64)

    def block(t, x):
        return torch.tanh(x @ A.T + bias)

    exact = odeframe.solve(block, x0, (0.0, 2.0), "rk4", steps=400).final
    for solver in ("euler", "truncated_backward_euler", "poly2"):
        errors = [(odeframe.solve(block, x0, (0.0, 2.0), solver, steps=n).final - exact).norm() for n in (80, 160)]
        print(f"tanh(A x + b), 80 and 160 steps: {solver:24} {errors[0]:.1e} {errors[1]:.1e}")


if __name__ == "__main__":
    main()
