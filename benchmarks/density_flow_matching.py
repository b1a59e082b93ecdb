"""Seconds to a likelihood on eight_gaussians: flow matching beside maximum likelihood, the same flow and data.

    python -m benchmarks.density_flow_matching [--choose] [--write docs/parts/density.md]

``cnf`` with its own words; 7000 points; Adam, its step length rising and falling over the fit as a cosine.  A fit of
every budget (steps) is one of its own, since the step length must be 0 at its end; the gap is the mean of -log p of
1000 validation points, by the exact trace, less the entropy.  Gaps and seconds of one processor (of the steps alone)
are means over seeds 0 and 1; the seconds to a gap are had between two budgets by a straight line in log seconds.
Batch and step length of each trainer are the best of those that ``--choose`` prints, by another seed (11).
"""

from __future__ import annotations

import argparse
import math
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

import odeframe
from benchmarks.page import put
from odeframe.schedule import warm_cosine

GAPS = (0.5, 0.3, 0.2, 0.15, 0.1)
ENTROPY = math.log(8) + 1 + math.log(2 * math.pi * 0.2**2)
SEEDS, OTHERS = (0, 1), (11,)
BUDGETS = {"gradient": (60, 120, 240, 480), "flow_matching": (75, 150, 300, 600, 1200)}
BEST = {"gradient": (256, 0.02), "flow_matching": (1024, 0.02)}
"""Batch and step length."""
TRIED = {
    "gradient": (((128, 160), (256, 120), (512, 80)), (0.01, 0.02, 0.04)),
    "flow_matching": (((256, 480), (1024, 300), (2048, 200)), (0.01, 0.02, 0.04)),
}
"""For ``--choose``: batches, each with steps that take about the same time; and step lengths."""


def fit(trainer: str, batch: int, rate: float, steps: int, seed: int) -> tuple[float, float]:
    """Seconds of the steps, and the gap behind them."""
    torch.manual_seed(seed)
    run = odeframe.compose("cnf", {"name": "eight_gaussians", "n": 10000, "seed": seed}, trainer=trainer)
    (train,), (held,) = (run.data.dataset(split).tensors for split in ("train", "val"))
    module = run.module.train()
    optimizer = torch.optim.Adam(module.parameters(), lr=rate)
    start = time.process_time()
    for number in range(steps):
        optimizer.param_groups[0]["lr"] = rate * warm_cosine(number, steps)
        optimizer.zero_grad()
        module.rule.training_step(module, (train[torch.randint(len(train), (batch,))],)).backward()
        optimizer.step()
    spent = time.process_time() - start
    with torch.no_grad():
        return spent, -float(module.eval().log_prob(held[:1000]).mean()) - ENTROPY


def choose() -> None:
    """Prints what each batch and step length gives."""
    for trainer, (batches, rates) in TRIED.items():
        for batch, steps in batches:
            for rate in rates:
                seconds, gap = np.mean([fit(trainer, batch, rate, steps, seed) for seed in OTHERS], axis=0)
                print(
                    f"{trainer}, {steps} steps of {batch}, step length {rate:g}: {seconds:.1f} s, {gap:.3f} nats",
                    flush=True,
                )


def ladder(trainer: str) -> np.ndarray:
    """Mean seconds and gap of each budget, ``(budgets, 2)``."""
    rows = []
    for steps in BUDGETS[trainer]:
        rows.append(np.mean([fit(trainer, *BEST[trainer], steps, seed) for seed in SEEDS], axis=0))
        print(f"{trainer}, {steps} steps: {rows[-1][0]:.2f} s, {rows[-1][1]:.3f} nats", flush=True)
    return np.array(rows)


def reached(rows: np.ndarray, gap: float) -> float:
    """Seconds to a gap: that of the first budget where it meets it already, infinite where none does."""
    if rows[0, 1] <= gap:
        return float(rows[0, 0])
    for (before, above), (after, below) in pairwise(rows):
        if below <= gap:
            share = (above - gap) / (above - below)
            return float(before * (after / before) ** share)
    return math.inf


def table() -> list[str]:
    """Markdown: a row a trainer, and their ratio."""
    lines = [
        "| trainer | batch | step length | " + " | ".join(f"within {gap} nats" for gap in GAPS) + " |",
        "|---|---|---|" + "---|" * len(GAPS),
    ]
    found = {}
    for trainer, (batch, rate) in BEST.items():
        rows = ladder(trainer)
        found[trainer] = [reached(rows, gap) for gap in GAPS]
        cells = [f"{value:.1f} s" if value < math.inf else "not reached" for value in found[trainer]]
        lines.append(f"| `{trainer}` | {batch} | {rate:g} | " + " | ".join(cells) + " |")
    pairs = zip(found["flow_matching"], found["gradient"], strict=True)
    cells = [f"{a / b:.2f}" if max(a, b) < math.inf else "-" for a, b in pairs]
    return [*lines, "| ratio | | | " + " | ".join(cells) + " |"]


def main() -> None:
    """Prints the table; ``--write`` puts it into the documentation too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choose", action="store_true", help="what settings give, by another seed, and no table")
    parser.add_argument("--write", type=Path, help="the page whose table is replaced")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.choose:
        choose()
        return
    lines = table()
    print(*lines, sep="\n", flush=True)
    if arguments.write:
        put(arguments.write, ("<!-- matching table -->", "<!-- end of matching table -->"), "\n".join(lines))


if __name__ == "__main__":
    main()
