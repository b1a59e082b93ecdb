"""A stiff field: an explicit solver is held to steps of its fastest rate, an implicit one follows the slow solution.

x' = -k (x - cos t) with k = 1e4; the gradient of the end in k comes from the implicit function theorem.
"""

import torch

import odeframe

RATE, END = 1e4, 2.0


def exact(k):
    """x(END) from x(0) = 1, the transient having died out."""
    return (k * k * torch.cos(torch.tensor(END)) + k * torch.sin(torch.tensor(END))) / (1 + k * k)


def main():
    """Evaluations, errors, and the derivative in k against the closed form's."""
    k = torch.tensor(RATE, dtype=torch.float64, requires_grad=True)
    x0 = torch.ones(1, 1, dtype=torch.float64)

    def field(t, x):
        return -k * (x - torch.cos(t))

    for name in ("dopri5", "sdirk4", "radau"):
        with torch.no_grad():
            solution = odeframe.solve(field, x0, (0.0, END), {"name": name, "rtol": 1e-6, "max_steps": 100_000})
        error = abs(float(solution.final) - float(exact(k.detach())))
        print(f"{name:6}: {solution.stats.nfe:6} evaluations, error {error:.1e}")
    found = odeframe.solve(field, x0, (0.0, END), {"name": "radau", "rtol": 1e-9}).final
    (mine,) = torch.autograd.grad(found.sum(), k)
    (theirs,) = torch.autograd.grad(exact(k), k)
    print(f"d x(T) / dk: {float(mine):.4e} by radau, {float(theirs):.4e} in closed form")


if __name__ == "__main__":
    main()
