"""Memory, work and exactness of the gradients at growing depth, and errors of reversal, as tables in Markdown.

    python -m benchmarks.memory [--write docs/parts/memory.md]

One thread.  Bytes are what autograd was given to keep by the forward pass (``saved_tensors_hooks``), the same on every
machine.  Times are medians of interleaved repetitions in this run, as ratios; the bound of checkpointing is
``(2 forward + backward) / (forward + backward)`` with the times of ``backprop`` in the same run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import odeframe
from benchmarks.page import put
from odeframe import Flow, SeparableDynamics

DEPTHS = (8, 32, 128, 512)
BATCH, WIDTH, HIDDEN = 128, 64, 128
GRADIENTS: dict[str, Any] = {
    "backprop": "backprop",
    "checkpoint": "checkpoint",
    "checkpoint, slots = 4": {"name": "checkpoint", "slots": 4},
    "reversible": "reversible",
    "adjoint": "adjoint",
}
MARKS = ("<!-- table: python -m benchmarks.memory -->", "<!-- end of table -->")


class Antisymmetric(SeparableDynamics):
    """``y' = K^T tanh(K z + a)``, ``z' = -K^T tanh(K y + a)``: neutral, and for every reversible scheme."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(WIDTH // 2, HIDDEN)

    def first(self, t: Tensor, z: Tensor, u: Tensor | None = None) -> Tensor:
        """Upper half."""
        return torch.tanh(self.lift(z)) @ self.lift.weight

    def second(self, t: Tensor, y: Tensor, u: Tensor | None = None) -> Tensor:
        """Lower half."""
        return -torch.tanh(self.lift(y)) @ self.lift.weight


def saved_bytes(run: Callable[[], Tensor]) -> int:
    """What a forward pass gives autograd to keep."""
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda v: saved.append(v.nbytes) or v, lambda v: v):
        run()
    return sum(saved)


def median_times(flows: dict[str, Flow], x0: Tensor, repeats: int) -> dict[str, tuple[float, float]]:
    """Seconds forward and backward of each flow, interleaved so that a busy machine troubles all alike."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in flows}
    for _ in range(repeats):
        for name, flow in flows.items():
            start = time.perf_counter()
            loss = flow(x0).square().mean()
            middle = time.perf_counter()
            loss.backward()
            found[name].append((middle - start, time.perf_counter() - middle))
    return {
        name: (statistics.median(f for f, _ in rows), statistics.median(b for _, b in rows))
        for name, rows in found.items()
    }


def memory_table() -> list[str]:
    """Saved bytes by gradient and depth; time over backprop, and the gradient's error, at the middle depth."""
    x0 = torch.randn(BATCH, WIDTH)
    heads = " | ".join(f"N = {depth}" for depth in DEPTHS)
    lines = [
        f"| gradient | {heads} | time / backprop, N = 128 | its bound | error of dJ/dtheta |",
        "|---" * (len(DEPTHS) + 4) + "|",
    ]

    def build(gradient: Any, depth: int) -> Flow:
        torch.manual_seed(0)
        solver = {"name": "reversible_heun", "steps": depth}
        return Flow(Antisymmetric(), solver=solver, gradient=gradient, horizon=(0.0, 4.0))

    flows = {name: build(gradient, 128) for name, gradient in GRADIENTS.items()}
    times = median_times(flows, x0, 9)
    forward, backward = times["backprop"]
    exact = exact_gradient(x0)
    for name, gradient in GRADIENTS.items():
        sizes = [saved_bytes(lambda g=gradient, n=depth: build(g, n)(x0)) for depth in DEPTHS]
        ratio = sum(times[name]) / (forward + backward)
        bound = f"{(2 * forward + backward) / (forward + backward):.2f}" if name == "checkpoint" else ""
        flow = flows[name]
        flow.zero_grad()
        flow(x0).square().mean().backward()
        error = float((flow.dynamics.lift.weight.grad - exact).norm() / exact.norm())
        cells = [*(f"{size / 1e6:.3g} MB" for size in sizes), f"{ratio:.2f}", bound, f"{error:.0e}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def exact_gradient(x0: Tensor) -> Tensor:
    """``dJ/dtheta`` of the same 128 steps by backprop in float64."""
    torch.manual_seed(0)
    flow = Flow(Antisymmetric(), solver={"name": "reversible_heun", "steps": 128}, horizon=(0.0, 4.0)).double()
    flow(x0.double()).square().mean().backward()
    return flow.dynamics.lift.weight.grad.float()


def reversal_table() -> list[str]:
    """Error of the start after all steps of a scheme were undone, float32 and float64, h = 0.1; and on decay."""
    lines = ["| scheme | 100 steps | 1000 steps | x' = -x to t = 20 |", "|---|---|---|---|"]
    for name in ("symplectic_euler", "verlet", "yoshida4", "reversible_midpoint", "alf", "reversible_heun"):
        cells = []
        for steps in (100, 1000):
            errors = [
                drift(name, Antisymmetric(), steps, 0.1 * steps, dtype) for dtype in (torch.float32, torch.float64)
            ]
            cells.append("{:.0e} ({:.0e})".format(*errors))
        decay = nn.Linear(1, 1, bias=False)
        nn.init.constant_(decay.weight, -1.0)
        is_split = name in ("symplectic_euler", "verlet", "yoshida4")
        cells.append("needs two halves" if is_split else f"{drift(name, decay, 200, 20.0, torch.float64):.0e}")
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return lines


def drift(solver: str, dynamics: nn.Module, steps: int, end: float, dtype: torch.dtype) -> float:
    """``max |x_0 - x_0'|``, relative to the largest component of ``x_0``, after all steps and their inverses."""
    torch.manual_seed(0)
    flow = Flow(dynamics, solver={"name": solver, "steps": steps}, horizon=(0.0, end)).to(dtype)
    x0 = torch.randn(16, 1 if isinstance(dynamics, nn.Linear) else WIDTH, dtype=dtype)
    field, grid = flow.field(), flow.solver.grid(flow.field(), flow.times(None))
    laws = [field.on(grid.nodes[k], grid.nodes[k + 1], k) for k in range(steps)]
    with torch.no_grad():
        x, memory = x0, flow.solver.init(laws[0], grid.nodes[0], x0)
        for k in range(steps):
            x, memory = flow.solver.step(laws[k], grid.nodes[k], grid.spacing[k], x, memory)
        for k in reversed(range(steps)):
            x, memory = flow.solver.reverse_step(laws[k], grid.nodes[k], grid.spacing[k], x, memory)
    return float((x - x0).abs().max() / x0.abs().max())


def main() -> None:
    """Prints both tables, or puts them between the marks of a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="a Markdown file with the marks of the table")
    target = parser.parse_args().write
    torch.set_num_threads(1)
    torch.manual_seed(0)
    text = "\n".join([*memory_table(), "", *reversal_table()])
    print(f"odeframe {odeframe.__version__}, torch {torch.__version__}\n\n{text}")
    if target is not None:
        put(target, MARKS, text)


if __name__ == "__main__":
    main()
