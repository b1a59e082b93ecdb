"""RevNet: every block can be undone, so that training need not keep a state a block.

The error with which 200 blocks are taken back, and what a backward pass saves, with and without that.
"""

import torch

from odeframe import build
from odeframe.specification import NetworkSpec


def network(blocks, gradient="backprop"):
    """A RevNet on vectors of 6 features."""
    torch.manual_seed(0)
    recipe = build("architecture", "revnet", width=64, blocks=blocks, step=0.1)
    return recipe.build(NetworkSpec((6,), (3,)), gradient=gradient)


def saved(blocks, gradient):
    """Bytes that autograd keeps for the backward pass, and the gradient of the stem."""
    model, count = network(blocks, gradient), []
    own = {parameter.data_ptr() for parameter in model.parameters()}

    def pack(tensor):
        count.append(0 if tensor.data_ptr() in own else tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(torch.ones(32, 6)).square().sum()
    loss.backward()
    return sum(count), model.stages["stem"].weight.grad


def main():
    """Reversal, then memory."""
    flow = network(200).flows[0]
    x0 = torch.randn(32, 64)
    with torch.no_grad():
        x = flow(x0)
        for piece in reversed(flow.control.blocks):
            f = piece.slots[0]
            y, z = f.split(x)
            z = z - 0.1 * f.second(None, y)
            x = torch.cat([y - 0.1 * f.first(None, z), z], dim=1)
    print(
        f"200 blocks taken back: {float((x - x0).abs().max()):.1e} (states moved by {float((flow(x0) - x0).std()):.1f})"
    )
    for blocks in (10, 100):
        (plain, one), (undone, other) = saved(blocks, "backprop"), saved(blocks, "reversible")
        print(f"{blocks:3} blocks save {plain / 1e3:6.0f} kB, undone {undone / 1e3:4.0f} kB", end="; ")
        print(f"relative difference of gradients {float((one - other).norm() / one.norm()):.0e}")


if __name__ == "__main__":
    main()
