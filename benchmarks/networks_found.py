"""Accuracy on digits of networks, each with its defaults; those that were found to be schemes, unless others are named.

python -m benchmarks.networks_found --epochs 10 --seeds 0,1,2 --write docs/parts/architectures_found.md
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch

import odeframe
from benchmarks.page import put_rows

MARKS = ("<!-- networks on digits: begin -->", "<!-- networks on digits: end -->")
NAMES = ("resnet", "projected_resnet", "polynet", "fractalnet", "revnet", "lm_resnet", "rknet")
NAMES += ("stochastic_depth", "shake_shake", "momentum")


def measure(name: str, epochs: int, seed: int) -> tuple[float, float, int]:
    """Test accuracy, seconds of the fit, number of parameters."""
    pl.seed_everything(seed, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        run = odeframe.compose(architecture=name, data="digits", output=folder)
        start = time.perf_counter()
        run.fit(max_epochs=epochs, enable_progress_bar=False, enable_checkpointing=False, logger=False)
        seconds = time.perf_counter() - start
        accuracy = run.test(enable_progress_bar=False, logger=False)["test_accuracy"]
    return accuracy, seconds, sum(parameter.numel() for parameter in run.module.parameters())


def main() -> None:
    """A row a network, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--names", default=",".join(NAMES))
    parser.add_argument("--write", type=Path, help="the page whose table gets the rows")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    print(
        "| architecture | parameters | test accuracy, a seed each | seconds of a fit, at most |\n|---|---|---|---|",
        flush=True,
    )
    for name in given.names.split(","):
        found = [measure(name, given.epochs, int(seed)) for seed in given.seeds.split(",")]
        accuracies = ", ".join(f"{accuracy:.3f}" for accuracy, *_ in found)
        seconds = max(seconds for _, seconds, _ in found)
        row = f"| `{name}` | {found[0][2]:,} | {accuracies} | {seconds:.0f} |"
        print(row, flush=True)
        if given.write:
            put_rows(given.write, MARKS, [row])


if __name__ == "__main__":
    main()
