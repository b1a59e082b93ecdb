"""Write a control: weights as a function of depth, here linear between knots.

A control takes over an empty block and feeds it the weights of a time. It says where its kinks are, so that no step
straddles one and a solver keeps its order.
"""

import torch
from torch import nn

import odeframe
from odeframe.block import empty
from odeframe.control import FunctionalLaw
from odeframe.drive import equal_breakpoints, piece_index


class PiecewiseLinear(odeframe.Control):
    """theta(t) = (1 - s) theta_j + s theta_{j+1} on the j-th of ``pieces`` equal parts, with s from 0 to 1 on it."""

    def __init__(self, pieces=4):
        super().__init__()
        self.pieces = pieces

    def build(self, block, steps):
        """Empties the block and keeps its values once a knot."""
        self.template, values = block, empty(block)
        self.names = list(values)
        self.knots = nn.ModuleList(nn.ParameterList(v.clone() for v in values.values()) for _ in range(self.pieces + 1))

    @property
    def block(self):
        """The empty block."""
        return self.template

    def on(self, t, t_next):
        """The weights between two times of one piece."""
        j, (start, end) = piece_index(t, t_next, self.horizon, self.pieces), self.horizon

        def weights(time):
            s = (time - start) / (end - start) * self.pieces - j
            pairs = zip(self.knots[j], self.knots[j + 1], strict=True)
            return {name: (1 - s) * a + s * b for name, (a, b) in zip(self.names, pairs, strict=True)}

        return FunctionalLaw(self.template, weights, self, t)

    def breakpoints(self):
        """The times between pieces."""
        return equal_breakpoints(self.horizon, self.pieces)


def main():
    """x' = w(t) x has the closed form x(1) = exp(int w dt), and the trapezoidal rule on the knots is exact."""
    torch.manual_seed(0)
    flow = odeframe.Flow(nn.Linear(1, 1, bias=False).double(), PiecewiseLinear(4), {"name": "rk4", "steps": 40})
    knots = torch.randn(5, dtype=torch.float64)
    flow.control.load_state_dict({f"knots.{j}.0": w.reshape(1, 1) for j, w in enumerate(knots)})
    found, exact = flow(torch.ones(1, 1, dtype=torch.float64)).item(), torch.trapezoid(knots, dx=0.25).exp().item()
    print(f"x(1) = {found:.9f}, closed form {exact:.9f}, difference {abs(found - exact):.1e}")


if __name__ == "__main__":
    main()
