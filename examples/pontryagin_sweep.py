"""Pontryagin's principle on a network: one sweep over its step maps gives every costate and every gradient.

Forward z_{k+1} = M_k(z_k, u_k); backward p_N = -dJ/dz_N, H_k = <p_{k+1}, M_k(z_k, u_k)>, p_k = dH_k/dz_k. The gradient
of H_k over u_k is minus the gradient of J, for stem, solver steps and head alike, a running cost included.
"""

import torch
from torch import nn

from odeframe import Flow, Network
from odeframe.quadrature import RunningCost


def sweep(steps, z, objective):
    """The costates p_0, ..., p_N and, for each step, dH_k/du_k by the names of its control."""
    states = [z]
    for step in steps:
        states.append(tuple(v.detach() for v in step.step(states[-1])))
    end = [v.requires_grad_() for v in states.pop()]
    costates, gradients = [[-g for g in torch.autograd.grad(objective(*end), end)]], []
    for step, z in zip(reversed(steps), reversed(states), strict=True):
        z, u = [v.detach().requires_grad_() for v in z], {n: v.requires_grad_() for n, v in step.read().items()}
        H = sum((p * v).sum() for p, v in zip(costates[0], step.step(tuple(z), u), strict=True))
        found = torch.autograd.grad(H, [*z, *u.values()], allow_unused=True, materialize_grads=True)
        costates.insert(0, list(found[: len(z)]))
        gradients.insert(0, dict(zip(u, found[len(z) :], strict=True)))
    return costates, gradients


def main():
    """Gradient ascent on the Hamiltonians, and its difference from autograd's gradient of J at every iteration."""
    torch.manual_seed(0)
    x, y = torch.randn(64, 2), torch.randint(2, (64,))
    cost = RunningCost(lambda t, x: x.square().sum(1), weight=0.01)
    flow = Flow(nn.Sequential(nn.Linear(8, 8), nn.Tanh()), "constant", {"name": "rk4", "steps": 4}, quadratures=[cost])
    network = Network({"stem": nn.Linear(2, 8), "flow": flow, "head": nn.Linear(8, 2)}).double()
    x = x.double()

    def objective(output, running):
        return nn.functional.cross_entropy(output, y) + running.mean()

    for iteration in range(4):
        steps, outcome = network.steps(), network.run(x)
        _, gradients = sweep(steps, (x,), objective)
        ascent = {parameter: torch.zeros_like(parameter) for parameter in network.parameters()}
        for step, gradient in zip(steps, gradients, strict=True):
            for name, parameter in step.named_parameters():  # a tied control: H is summed over the steps
                ascent[parameter] += gradient[name]
        J = objective(outcome.output, outcome.cost)
        exact = torch.autograd.grad(J, list(ascent))
        gap = max((h + g).abs().max().item() for h, g in zip(ascent.values(), exact, strict=True))
        print(f"iteration {iteration}: J = {J.item():.6f}, {len(steps)} step maps, max |dH/du + dJ/du| = {gap:.1e}")
        with torch.no_grad():
            for parameter, h in ascent.items():
                parameter += 0.5 * h


if __name__ == "__main__":
    main()
