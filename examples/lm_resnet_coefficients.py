"""LM-ResNet: a trained two-step coefficient a block, which cannot leave zero-stability.

The coefficients before and after a fit on two moons, and after a learning rate that would throw any free one out.
"""

import torch
from sklearn.datasets import make_moons

from odeframe import build
from odeframe.specification import NetworkSpec


def fit(rate):
    """The coefficients before and after 150 full-batch steps, and the accuracy."""
    torch.manual_seed(0)
    network = build("architecture", "lm_resnet", width=8, blocks=6).build(NetworkSpec((2,), (2,)))
    points, labels = make_moons(500, noise=0.1, random_state=0)
    x, y = torch.tensor(points, dtype=torch.float32), torch.tensor(labels)
    solvers = [piece.solver for piece in network.flows[0].control.blocks]
    before = [float(solver.k.detach()) for solver in solvers]
    groups = [
        {"params": [p for name, p in network.named_parameters() if not name.endswith("raw")], "lr": 1e-2},
        {"params": [solver.raw for solver in solvers], "lr": rate},
    ]
    optimiser = torch.optim.Adam(groups)
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(network(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    accuracy = float((network(x).argmax(1) == y).float().mean())
    return before, [float(solver.k.detach()) for solver in solvers], accuracy


def main():
    """A usual rate, and a reckless one."""
    for rate in (1e-2, 10.0):
        before, after, accuracy = fit(rate)
        print(f"rate {rate:g}, accuracy {accuracy:.3f}")
        print("  k fresh: ", ", ".join(f"{k:+.3f}" for k in before))
        print("  k fitted:", ", ".join(f"{k:+.3f}" for k in after), f"(max |k| {max(map(abs, after)):.3f} <= 0.95)")


if __name__ == "__main__":
    main()
