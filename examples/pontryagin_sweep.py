"""Pontryagin's principle on a network: one sweep over its step maps gives every costate and every gradient.

Forward z_{k+1} = M_k(z_k, u_k); backward p_N = -dJ/dz_N, H_k = <p_{k+1}, M_k(z_k, u_k)>, p_k = dH_k/dz_k. The gradient
of H_k over u_k is minus the gradient of J, for stem, solver steps and head alike, a running cost included.
"""

import torch
from torch import nn

from odeframe import Flow, Network
from odeframe.costs import RunningCost
from odeframe.pontryagin import costate_norms, sweep


def main():
    """Gradient ascent on the Hamiltonians, and its difference from autograd's gradient of J at every iteration."""
    torch.manual_seed(0)
    x, y = torch.randn(64, 2, dtype=torch.float64), torch.randint(2, (64,))
    cost = RunningCost(lambda t, x: x.square().sum(1), weight=0.01)
    flow = Flow(nn.Sequential(nn.Linear(8, 8), nn.Tanh()), "constant", {"name": "rk4", "steps": 4}, quadratures=[cost])
    network = Network({"stem": nn.Linear(2, 8), "flow": flow, "head": nn.Linear(8, 2)}).double()

    def objective(z):
        output, running = z
        return (nn.functional.cross_entropy(output, y, reduction="none") + running).mean()

    for iteration in range(4):
        swept = sweep(network.steps(), (x,), objective)
        ascent = swept.ascent()  # a tied control: H is summed over the steps
        outcome = network.run(x)
        exact = torch.autograd.grad(objective((outcome.output, outcome.cost)), list(ascent))
        gap = max(float((h + g).abs().max()) for h, g in zip(ascent.values(), exact, strict=True))
        first, last = (float(costate_norms(swept)[k]) for k in (0, -1))
        print(f"iteration {iteration}: J = {float(swept.objective):.6f}, {len(swept.steps)} step maps", end=", ")
        print(f"max |dH/du + dJ/du| = {gap:.1e}, |p| from {first:.3f} at the input to {last:.3f} at the output")
        with torch.no_grad():
            for parameter, h in ascent.items():
                parameter += 0.5 * h


if __name__ == "__main__":
    main()
