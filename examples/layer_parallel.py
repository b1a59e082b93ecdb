"""The layers of a deep network at once: parareal forward and backward, and how its error falls by the iteration.

128 layers whose weights are a smooth function of depth, in 16 runs of 8; on one process no time is gained.
"""

import torch

from odeframe import Flow


def network(solver):
    """128 residual layers on a horizon of 1, the same weights for every solver."""
    torch.manual_seed(0)
    flow = Flow({"name": "mlp", "width": 8}, "piecewise_constant", {"steps": 128, **solver}).double()
    blocks = flow.control.blocks
    with torch.no_grad():
        first, last = (list(blocks[k].parameters()) for k in (0, -1))
        for k, block in enumerate(blocks):
            for weights, a, b in zip(block.parameters(), first, last, strict=True):
                weights.copy_(a + (b - a) * k / (len(blocks) - 1))
    return flow


def main():
    """The error of the state and of the gradient against the layers one after the other."""
    x = torch.randn(16, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    results = {}
    for corrections in (None, 0, 1, 2, 3):
        parallel = {"name": "layer_parallel", "coarsening": 8, "iterations": corrections, "tolerance": 0.0}
        flow = network({"name": "euler"} if corrections is None else parallel)
        end = flow(x)
        end.square().mean().backward()
        results[corrections] = end.detach(), torch.cat([p.grad.reshape(-1) for p in flow.parameters()])
    state, gradient = results.pop(None)
    for corrections, (x_end, slope) in results.items():
        errors = (x_end - state).norm() / state.norm(), (slope - gradient).norm() / gradient.norm()
        print(f"{corrections} corrections: state {errors[0]:.1e}, gradient {errors[1]:.1e}")


if __name__ == "__main__":
    main()
