"""Open loop against feedback on the linear-quadratic problem, under disturbed starts and noise; and weights over depth.

    python -m benchmarks.optimal_control [FOLDER]

prints the table of docs/parts/optimal_control.md and writes its two figures.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import odeframe
from odeframe import Flow, Noise
from odeframe.drive import Drive, SequenceDrive
from odeframe.plots import save
from odeframe.plots_control import controlled_paths, paths_over_time, weights_over_depth

STEPS = 12
SPREAD, PUSH = 0.3, 0.2
"""Standard deviation of each component of a start, and of the noise in the state over a unit of time."""
CONTROLS: dict[str, Any] = {
    "open loop": {"name": "piecewise_linear", "pieces": 12},
    "feedback": {"name": "feedback", "hidden": 0, "gains": {"name": "piecewise_linear", "pieces": 6}},
}
SMOOTH = (0.0, 1e-2)


def trained(control: Any) -> Flow:
    """The flow of a control after L-BFGS on disturbed starts without noise."""
    torch.manual_seed(0)
    data = {"name": "linear_quadratic", "spread": SPREAD, "n": 100}
    run = odeframe.compose({"name": "controlled_system", "steps": STEPS}, data, control=control)
    module, x0 = run.module.double(), run.data.dataset("train")[:][0].double()  # type: ignore[attr-defined]
    optimizer = torch.optim.LBFGS(module.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = module.objective((x0,)).loss
        loss.backward()
        return loss

    optimizer.step(closure)
    return module.network.flows[0]


def situations(horizon: tuple[float, float], size: int = 1000) -> dict[str, tuple[Tensor, Drive | None]]:
    """Starts, and pushes constant on each step, by the name of the situation."""
    like = torch.ones(size, 1, dtype=torch.float64)
    start = torch.tensor([1.0, 0.0], dtype=torch.float64).repeat(size, 1)
    spread = start + SPREAD * Noise(1).on(0).normal(like, (2,))
    scale = PUSH * math.sqrt(STEPS / (horizon[1] - horizon[0]))
    pushes = SequenceDrive(scale * Noise(2).on(0).normal(like, (STEPS, 2)), horizon)
    return {"one start": (start, None), "disturbed starts": (spread, None), "and noise": (spread, pushes)}


def cost(flow: Flow, x0: Tensor, drive: Drive | None) -> Tensor:
    """``J`` of each sample."""
    with torch.no_grad():
        solution = flow.solve(x0, drive=drive)
        return flow.dynamics.terminal_cost(solution.final) + flow.running_cost(solution)  # type: ignore[operator]


def smoothed(weight: float) -> Flow:
    """The flow of a ResNet of 12 blocks on the two moons, trained with a cost of the jumps between its blocks."""
    torch.manual_seed(0)
    architecture = {"name": "resnet", "width": 8, "blocks": 12}
    module = odeframe.compose(architecture, "two_moons", costs={"control_smoothness": weight}).module
    x, y = odeframe.build("data", "two_moons").dataset("train")[:]
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        module.objective((x, y)).loss.backward()
        optimizer.step()
    print(f"control_smoothness {weight:g}: accuracy {float((module(x).argmax(1) == y).float().mean()):.3f}", flush=True)
    return module.network.flows[0]


def main(folder: Path) -> None:
    """The table and the figures."""
    flows = {name: trained(control) for name, control in CONTROLS.items()}
    cases = situations(next(iter(flows.values())).horizon)
    print(f"{'':<12}" + "".join(f"{case:>18}" for case in cases))
    for name, flow in flows.items():
        print(f"{name:<12}" + "".join(f"{float(cost(flow, *case).mean()):18.3f}" for case in cases.values()))
    x0, pushes = situations(next(iter(flows.values())).horizon, 24)["and noise"]
    every = [controlled_paths(name, flow, x0, pushes) for name, flow in flows.items()]
    save(paths_over_time(every), folder / "optimal_control_paths.png", dpi=100)
    nets = {f"control_smoothness {weight:g}": smoothed(weight) for weight in SMOOTH}
    save(weights_over_depth(nets), folder / "optimal_control_weights.png", dpi=100)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/parts/figures"))
