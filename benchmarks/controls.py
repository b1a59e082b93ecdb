"""Forward and backward through many pieces, against a hand-written loop.

python -m benchmarks.controls [--repeats 20] [--write docs/parts/controls.md]
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.page import put
from odeframe import Flow

MARKS = ("<!-- controls: begin -->", "<!-- controls: end -->")
PIECES = 256
SIZES = (64, 128), (256, 128), (64, 8), (16, 16)
"""Width and batch; the first are those of every control."""
CONTROLS: tuple[tuple[str, Any], ...] = (
    ("piecewise_linear", "piecewise_linear"),
    ("galerkin, legendre, degree 3", {"name": "galerkin", "degree": 3}),
    ("galerkin, bspline, degree 3, 64 intervals", {"name": "galerkin", "basis": "bspline", "intervals": 64}),
    ("hypernetwork, rank 4", {"name": "hypernetwork", "rank": 4}),
    ("time_concat", "time_concat"),
    ("feedback of piecewise_constant", {"name": "feedback", "of": "piecewise_constant"}),
    ("binary of piecewise_constant", {"name": "binary", "of": "piecewise_constant"}),
    ("spectral_norm of constant", {"name": "spectral_norm"}),
)


class Block(nn.Module):
    """``W2 tanh(W1 x + b1) + b2``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lift, self.lower = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """The block's increment."""
        return self.lower(torch.tanh(self.lift(x)))


class Loop(nn.Module):
    """The same residual network by hand."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """``x + f_k(x) / K`` block by block."""
        h = 1 / len(self.blocks)
        for block in self.blocks:
            x = x + h * block(x)
        return x


def step_of(network: nn.Module, x: Tensor) -> Callable[[], None]:
    """Forward, backward, and no gradients left from before."""

    def step() -> None:
        network.zero_grad(set_to_none=True)
        network(x).square().sum().backward()

    return step


def compare(step: Callable[[], None], base: Callable[[], None], repeats: int) -> tuple[float, float, float]:
    """Medians of processor times in ms, turn by turn, and of their ratio: other work on the machine disturbs less."""
    pairs = []
    for turn in range(repeats + 2):
        times = []
        for run in (step, base):
            start = time.process_time()
            run()
            times.append(1e3 * (time.process_time() - start))
        if turn >= 2:
            pairs.append(times)
    ratios = [a / b for a, b in pairs]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs), statistics.median(ratios)


def row(name: str, word: Any, width: int, batch: int, repeats: int) -> str:
    """A row of the table: a flow against the loop of as many blocks."""
    torch.manual_seed(0)
    x = torch.randn(batch, width)
    loop = Loop([Block(width) for _ in range(PIECES)])
    flow = Flow(copy.deepcopy(loop.blocks[0]), word, {"name": "euler", "steps": PIECES})
    mine, theirs, ratio = compare(step_of(flow, x), step_of(loop, x), repeats)
    count = sum(p.numel() for p in flow.parameters())
    return f"| {name} | {width} | {batch} | {count:,} | {mine:.0f} | {theirs:.0f} | {ratio:.2f} |"


def main() -> None:
    """Prints the table, or puts it between the marks of a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--write", type=Path, help="a Markdown file with the marks of the table")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    lines = ["| control | width | batch | parameters | ms | loop, ms | ratio |", "|---|---|---|---|---|---|---|"]
    cases = [("piecewise_constant", "piecewise_constant", *size) for size in SIZES]
    cases += [(name, word, *SIZES[0]) for name, word in CONTROLS]
    for case in cases:
        lines.append(row(*case, chosen.repeats))
        print(lines[-1], flush=True)
    text = "\n".join([*lines, "", f"{PIECES} steps, one thread, torch {torch.__version__}, {platform.machine()}."])
    if chosen.write is not None:
        put(chosen.write, MARKS, text)


if __name__ == "__main__":
    main()
