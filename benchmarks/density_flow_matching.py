"""Seconds to a likelihood on eight_gaussians: flow matching beside maximum likelihood, the same flow and data.

    python -m benchmarks.density_flow_matching [--seconds 25] [--write docs/parts/density.md]

``cnf`` with its own words; 7000 points; Adam on batches of 256 with a constant step length, seed 0; step lengths as in
``tests/test_density.py``.  Twenty-five times the mean of -log p of 500 held-out points is taken, by the exact trace and
not counted: the table has the seconds of one processor after which it is first within 0.5, 0.3, 0.2 and 0.15 nats of
the entropy.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch

import odeframe
from benchmarks.page import put

GAPS = (0.5, 0.3, 0.2, 0.15)
ENTROPY = math.log(8) + 1 + math.log(2 * math.pi * 0.2**2)
RATES = {"gradient": 0.01, "flow_matching": 0.005}


def reached(trainer: str, rate: float, seconds: float) -> dict[float, float]:
    """Seconds of training after which each gap was first met, infinite where none was."""
    torch.manual_seed(0)
    run = odeframe.compose("cnf", {"name": "eight_gaussians", "n": 10000}, trainer=trainer)
    (train,), (held,) = (run.data.dataset(split).tensors for split in ("train", "val"))
    module = run.module.train()
    optimizer = torch.optim.Adam(module.parameters(), lr=rate)
    found, spent, due = dict.fromkeys(GAPS, math.inf), 0.0, 0.0
    while spent < seconds and math.isinf(found[GAPS[-1]]):
        start = time.process_time()
        optimizer.zero_grad()
        module.rule.training_step(module, (train[torch.randint(len(train), (256,))],)).backward()
        optimizer.step()
        spent += time.process_time() - start
        if spent >= due:
            due = spent + seconds / 25
            with torch.no_grad():
                gap = -float(module.log_prob(held[:500]).mean()) - ENTROPY
            found = {each: min(value, spent) if gap <= each else value for each, value in found.items()}
    return found


def table(seconds: float) -> list[str]:
    """Markdown: a row a trainer, and their ratio."""
    lines = [
        "| trainer | step length | " + " | ".join(f"within {gap} nats" for gap in GAPS) + " |",
        "|---|---|" + "---|" * len(GAPS),
    ]
    best = {}
    for trainer, rate in RATES.items():
        best[trainer] = reached(trainer, rate, seconds)
        cells = [f"{best[trainer][gap]:.1f} s" if best[trainer][gap] < math.inf else "not reached" for gap in GAPS]
        lines.append(f"| `{trainer}` | {rate:g} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    pairs = [(best["flow_matching"][gap], best["gradient"][gap]) for gap in GAPS]
    cells = [f"{a / b:.2f}" if a < math.inf and b < math.inf else "-" for a, b in pairs]
    return [*lines, "| ratio | | " + " | ".join(cells) + " |"]


def main() -> None:
    """Prints the table; ``--write`` puts it into the documentation too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=25.0)
    parser.add_argument("--write", type=Path, help="the page whose table is replaced")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = table(arguments.seconds)
    print(*lines, sep="\n", flush=True)
    if arguments.write:
        put(arguments.write, ("<!-- matching table -->", "<!-- end of matching table -->"), "\n".join(lines))


if __name__ == "__main__":
    main()
