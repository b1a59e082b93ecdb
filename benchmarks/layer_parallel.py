"""How many iterations depth in parallel takes, and what a model of its costs predicts, as tables in Markdown.

    python -m benchmarks.layer_parallel [--write docs/parts/layer_parallel.md]

Iterations are counts in float64, the same on every machine.  The predictions are no measurements of time.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import odeframe
from benchmarks.page import put
from odeframe import Flow
from odeframe_plugins.solvers.layer_parallel_model import Machine, crossing, data_parallel, layer_parallel

MARKS = ("<!-- table: python -m benchmarks.layer_parallel -->", "<!-- end of table -->")
WIDTH, BATCH = 8, 8


def network(layers: int, horizon: float, smooth: bool, **solver: Any) -> Flow:
    """Euler's layers; the weights go from one draw to another over depth, or are drawn anew in each."""
    torch.manual_seed(0)
    words = {"name": "layer_parallel", "steps": layers, **solver}
    flow = Flow({"name": "mlp", "width": WIDTH}, "piecewise_constant", words, horizon=(0.0, horizon)).double()
    if smooth:
        blocks: Any = flow.control.blocks
        first, last = ([p.detach().clone() for p in blocks[k].parameters()] for k in (0, -1))
        with torch.no_grad():
            for k, block in enumerate(blocks):
                for weights, a, b in zip(block.parameters(), first, last, strict=True):
                    weights.copy_(a + (b - a) * k / (layers - 1))
    return flow


def corrections(flow: Flow) -> str:
    """Corrections of states and of costates in one training step."""
    x: Tensor = torch.randn(BATCH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    flow(x).square().mean().backward()
    forward, backward = flow.solver.history.iterations
    return f"{forward}, {backward}"


def iterations_table() -> list[str]:
    """Corrections to 1e-6 by depth at fixed T, and at h = 1."""
    lines = ["| layers, coarsening | h | smooth, F | smooth, FCF | smooth, pick | independent, F | exact after (F) |"]
    lines.append("|---" * 7 + "|")
    rows = [(64, 8, 1.0), (256, 8, 1.0), (1024, 8, 1.0), (1024, 16, 1.0), (64, 4, 64.0), (64, 2, 64.0)]
    for layers, factor, horizon in rows:
        options = {"coarsening": factor, "tolerance": 1e-6}
        cells = [
            corrections(network(layers, horizon, True, **options)),
            corrections(network(layers, horizon, True, relaxation="FCF", **options)),
            corrections(network(layers, horizon, True, coarse="pick", **options)),
            corrections(network(layers, horizon, False, **options)),
        ]
        lines.append(f"| {layers}, {factor} | {horizon / layers:.3g} | {' | '.join(cells)} | {layers // factor - 1} |")
    return lines


def levels_table() -> list[str]:
    """Corrections to 1e-6 by the number of levels, and the coarse steps that a sweep takes one after the other."""
    lines = ["| layers, coarsening | h | levels | smooth, F | smooth, FCF | independent, F | coarse steps in a row |"]
    lines.append("|---" * 7 + "|")
    for layers, factor, horizon, depths in (
        (256, 4, 1.0, (2, 3, 4)),
        (1024, 4, 1.0, (2, 3, 4, 5)),
        (64, 2, 64.0, (2, 3, 4)),
    ):
        for levels in depths:
            options = {"coarsening": factor, "tolerance": 1e-6, "levels": levels}
            cells = [
                corrections(network(layers, horizon, True, **options)),
                corrections(network(layers, horizon, True, relaxation="FCF", **options)),
                corrections(network(layers, horizon, False, **options)),
            ]
            row = f"| {layers}, {factor} | {horizon / layers:.3g} | {levels} | {' | '.join(cells)} |"
            lines.append(f"{row} {math.ceil(layers / factor ** (levels - 1))} |")
    return lines


def best_levels(machine: Machine, layers: int, ranks: int, iterations: int) -> tuple[float, int, int]:
    """The largest predicted speed-up with three levels or more, its coarsening and its levels."""
    choices = [(2**k, levels) for k in range(1, 7) for levels in range(3, 9)]
    legal = [(c, levels) for c, levels in choices if layers // c ** (levels - 1) >= max(2, ranks)]
    found = [
        (layer_parallel(machine, layers, ranks, c, iterations, levels=levels).speed_up, c, levels)
        for c, levels in legal
    ]
    return max(found, default=(0.0, 0, 0))


def figure(folder: Path) -> None:
    """Predicted speed-up by the number of ranks: two levels, more, and sharing out the batch."""
    machine, layers, ranks = Machine(), 4096, [2**k for k in range(11)]
    canvas = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = canvas.subplots()
    two = [
        max(layer_parallel(machine, layers, r, 2**k, 1).speed_up for k in range(1, 7) if layers // 2**k >= r)
        for r in ranks
    ]
    more = [best_levels(machine, layers, r, 1) for r in ranks]
    axes.loglog(ranks, two, "o-", base=2, label="depth, two levels")
    pairs = [(r, each[0]) for r, each in zip(ranks, more, strict=True) if each[1]]
    axes.loglog(*zip(*pairs, strict=True), "s-", base=2, label="depth, three and more")
    data = [data_parallel(machine, layers, r, 32).speed_up for r in ranks]
    axes.loglog(ranks, data, "^--", base=2, label="data, batch 32")
    axes.set(xlabel="ranks", ylabel="speed-up over one process, one correction")
    axes.grid(alpha=0.3)
    axes.legend()
    canvas.savefig(folder / "layer_parallel.png", dpi=80)


def model_table() -> list[str]:
    """Predicted speed-up and memory of a rank by the number of ranks, 4,096 layers."""
    machine, layers = Machine(), 4096
    heads = [
        "ranks",
        "coarsening",
        "speed-up, 1 iteration",
        "3 iterations",
        "memory",
        "more levels, 1",
        "coarsening, levels",
    ]
    lines = [f"| {' | '.join([*heads, 'data parallel', 'its memory'])} |", "|---" * 9 + "|"]
    for ranks in (4, 16, 64, 256, 1024):
        factor = min(64, layers // ranks)
        one, three = (layer_parallel(machine, layers, ranks, factor, k) for k in (1, 3))
        data = data_parallel(machine, layers, ranks, 32)
        cells = [f"{one.speed_up:.2f}", f"{three.speed_up:.2f}", f"{one.memory / 1e9:.3g} GB"]
        speed_up, *best = best_levels(machine, layers, ranks, 1)
        cells += [f"{speed_up:.2f}", "{}, {}".format(*best)] if speed_up else ["none", ""]
        cells += [f"{data.speed_up:.1f}", f"{data.memory / 1e9:.3g} GB"]
        lines.append(f"| {ranks} | {factor} | {' | '.join(cells)} |")
    lines += ["", "| batch | parameters of a layer | depth is faster from |", "|---|---|---|"]
    for batch, size in ((1, 4e6), (4, 4e6), (32, 4e6), (1, 4e8), (4, 4e8), (32, 4e8)):
        ranks = crossing(Machine(parameter_bytes=size), layers, 64, 1, batch)
        lines.append(f"| {batch} | {size / 1e6:g} MB | {f'{ranks} ranks' if ranks else 'never'} |")
    return lines


def main() -> None:
    """Prints the tables, or puts them between the marks of a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="a Markdown file with the marks of the table")
    target = parser.parse_args().write
    torch.set_num_threads(1)
    text = "\n".join([*iterations_table(), "", *levels_table(), "", *model_table()])
    print(f"odeframe {odeframe.__version__}, torch {torch.__version__}\n\n{text}")
    if target is not None:
        figure(target.parent / "figures")
        put(target, MARKS, text)


if __name__ == "__main__":
    main()
