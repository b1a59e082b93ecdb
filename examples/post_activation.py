"""The post-activation ResNet is not Euler's method for its block: the activation after the sum is a projection.

Errors against the flow of the block, which do not fall with the step, and against the system that is held in x >= 0.
"""

import torch

from odeframe import Flow


def block(x):
    """A turn, which leads out of x >= 0."""
    return torch.stack([-x[:, 1], x[:, 0]], dim=1)


class Turn(torch.nn.Module):
    """The same as a module."""

    def forward(self, x):
        return block(x)


def main():
    """Steps of 1/10, 1/100 and 1/1000."""
    x0 = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    turned = torch.tensor([[torch.cos(torch.tensor(2.0)), torch.sin(torch.tensor(2.0))]], dtype=torch.float64)
    held = torch.tensor([[0.0, 1.0]], dtype=torch.float64)  # x_1 falls to 0 and stays; then x_2' = x_1 = 0
    for steps in (20, 200, 2000):
        x = Flow(Turn(), solver={"name": "projected_euler", "steps": steps}, horizon=(0.0, 2.0))(x0)
        one, other = float((x - turned).norm()), float((x - held).norm())
        print(f"{steps:4} blocks: {one:.4f} from the flow of the block, {other:.4f} from the one held in x >= 0")


if __name__ == "__main__":
    main()
