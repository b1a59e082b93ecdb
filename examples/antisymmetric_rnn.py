"""Through 400 items of noise a gradient keeps its size in an antisymmetric network, and is lost in a plain one."""

import torch

from odeframe import Flow, build
from odeframe.drive import SequenceDrive


def ratio(cell, step):
    torch.manual_seed(0)
    flow = Flow(
        build("dynamics", cell, width=32, inputs=1).double(),
        solver={"name": "euler", "steps": 400},  # one Euler step an item: the recurrence
        horizon=(0.0, 400 * step),
    )
    h = torch.zeros(16, 32, dtype=torch.float64, requires_grad=True)
    sequence = torch.randn(16, 400, 1, dtype=torch.float64)
    p = torch.randn(16, 32, dtype=torch.float64)
    end = flow(h, drive=SequenceDrive(sequence, flow.horizon))
    (gradient,) = torch.autograd.grad((end * p).sum(), h)
    return float(gradient.norm() / p.norm())


print(f"|dJ/dh_0| / |dJ/dh_400|: antisymmetric {ratio('antisymmetric_cell', 0.05):.2f}")
print(f"                         plain         {ratio('elman_cell', 1.0):.0e}")
