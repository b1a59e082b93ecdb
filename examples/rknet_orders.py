"""RKNet: with textbook coefficients the blocks are a Runge-Kutta method, and training may move them.

Errors of 8 and 16 tied blocks against the flow of their block, whose ratio is 2^order; then the weights of the stages
after a short fit, which still add up to 1.
"""

import torch

from odeframe import Flow, build
from odeframe.specification import NetworkSpec

SPEC = NetworkSpec((6,), (3,))


def main():
    """Orders, then trained coefficients."""
    torch.manual_seed(0)
    block, x0 = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh()).double(), torch.randn(5, 4).double()
    exact = Flow(block, solver={"name": "rk4", "steps": 400})(x0)
    for order in (1, 2, 3, 4):
        errors = []
        for blocks in (8, 16):
            words = {"width": 4, "blocks": blocks, "step": 1 / blocks}
            words |= {"order": order} if order > 1 else {}
            recipe = build("architecture", "rknet" if order > 1 else "resnet", **words)
            network = recipe.build(SPEC, dynamics=block, control="constant").double()
            errors.append(float((network.flows[0](x0) - exact).detach().norm()))
        print(f"order {order}: errors {errors[0]:.1e}, {errors[1]:.1e}, ratio {errors[0] / errors[1]:.1f}")

    network = build("architecture", "rknet", order=4, width=8, blocks=2).build(SPEC)
    optimiser, x = torch.optim.Adam(network.parameters(), lr=1e-2), torch.randn(256, 6)
    target = torch.stack([x[:, 0] * x[:, 1], x[:, 2].sin(), x.square().sum(1) / 6], dim=1)
    for _ in range(100):
        loss = (network(x) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for piece in network.flows[0].control.blocks:
        weights = [float(b.detach()) for b in piece.solver.coefficients(x)[1]]
        print(
            f"b = {', '.join(f'{b:.3f}' for b in weights)}, sum {sum(weights):.6f}; the textbook's 1/6, 1/3, 1/3, 1/6"
        )


if __name__ == "__main__":
    main()
