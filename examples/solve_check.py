"""Is a network its differential equation? Two that classify alike, and what finer steps make of them.

A quarter turn of the plane is the solution of x' = A x: finer steps change nothing. A network of one Euler step that
flips the sign of a number is none: no equation on the line can cross zero, and finer steps undo what it does.
"""

import math

import torch
from torch import nn

from odeframe import DataSpec, FlowModule
from odeframe.solve_check import examine


class Linear(nn.Module):
    """f(x) = A x."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(torch.tensor(matrix))

    def forward(self, x):
        return x @ self.matrix.T


def network(matrix, solver):
    """Stem: the identity; flow of A on (0, 1); head: the sign of the first component."""
    size = len(matrix)
    spec = DataSpec("points", (size,), "class", 2, (), "classification")
    words = {"dynamics": Linear(matrix), "control": "constant", "solver": solver}
    module = FlowModule(spec.to_dict(), {"name": "neural_ode", "width": size}, **words)
    first = torch.eye(size)[:1]
    with torch.no_grad():
        for stage, weight in (("stem", torch.eye(size)), ("head", torch.cat([-first, first]))):
            layer = next(part for part in module.network.stages[stage].modules() if isinstance(part, nn.Linear))
            layer.weight.copy_(weight)
            layer.bias.zero_()
    return module


def main():
    """The verdict on both, with what their accuracy is under a solver that makes hardly an error."""
    torch.manual_seed(0)
    x = torch.randn(200, 2)
    turn = network([[0.0, -math.pi / 2], [math.pi / 2, 0.0]], {"name": "rk4", "steps": 16}), x, (x[:, 1] < 0).long()
    flip = network([[-2.0]], {"name": "euler", "steps": 1}), x[:, :1], (x[:, 0] < 0).long()
    for name, (module, inputs, labels) in (("turn", turn), ("flip", flip)):
        report = examine(module, [(inputs, labels)], ["dopri5"])
        exact = report.trials[-1]
        verdict = "a differential equation" if report.is_ode else "tied to its scheme"
        print(f"{name}: accuracy {report.trained.score:.2f}, under {exact.solver} {exact.score:.2f}: {verdict}")


if __name__ == "__main__":
    main()
