"""Forward and backward through many pieces, against a hand-written loop: ``python -m benchmarks.controls``."""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from odeframe import Flow

PIECES = 256
CONTROLS: tuple[tuple[str, Any], ...] = (
    ("piecewise_constant", "piecewise_constant"),
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


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=20)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(chosen.batch, chosen.width)
    loop = Loop([Block(chosen.width) for _ in range(PIECES)])
    print(
        f"{PIECES} Euler steps, width {chosen.width}, batch {chosen.batch}, one thread, torch {torch.__version__}, "
        f"{platform.machine()}\n"
    )
    print("| control | parameters | ms | loop, ms | ratio |\n|---|---|---|---|---|")
    for name, word in CONTROLS:
        flow = Flow(copy.deepcopy(loop.blocks[0]), word, {"name": "euler", "steps": PIECES})
        mine, theirs, ratio = compare(step_of(flow, x), step_of(loop, x), chosen.repeats)
        count = sum(p.numel() for p in flow.parameters())
        print(f"| {name} | {count:,} | {mine:.0f} | {theirs:.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
