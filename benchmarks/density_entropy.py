"""Likelihood of held-out points beside the true entropy, by the examples in the plane as they are.

    python -m benchmarks.density_entropy [--write docs/parts/density.md]

Each ``examples/density_<data>.yaml`` is fitted whole (seed 0) and tested on its 2000 test points.  The entropy of
two_moons has no closed form: its density, half circles convolved with normal noise, is summed over a grid, to 1e-4.
``gap``: the mean over the test points of log p - log q, the divergence of the model from the truth, in nats.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import yaml

import odeframe
from benchmarks.page import put

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NOISE = {"eight_gaussians": 0.2, "two_moons": 0.1}
"""Standard deviations of the data's normal noise, their defaults."""


def curve(data: str, size: int = 800) -> np.ndarray:
    """Points that the noise is added to, of equal weight, ``(n, 2)``."""
    if data == "eight_gaussians":
        angles = np.arange(8) * math.pi / 4
        return 2 * np.stack([np.cos(angles), np.sin(angles)], 1)
    angles = (np.arange(size) + 0.5) * math.pi / size
    upper, lower = (np.cos(angles), np.sin(angles)), (1 - np.cos(angles), 0.5 - np.sin(angles))
    return np.concatenate([np.stack(upper, 1), np.stack(lower, 1)])


def log_density(data: str, x: np.ndarray) -> np.ndarray:
    """The true ``log p(x)``: the mean of normal densities about the curve; ``(n, 2)`` to ``(n,)``."""
    centres, variance = curve(data), NOISE[data] ** 2
    found = []
    for part in np.array_split(x, max(1, len(x) // 1000)):
        exponents = -0.5 * ((part[:, None] - centres) ** 2).sum(2) / variance
        greatest = exponents.max(1)
        found.append(greatest + np.log(np.exp(exponents - greatest[:, None]).mean(1)))
    return np.concatenate(found) - math.log(2 * math.pi * variance)


def entropy(data: str, side: int = 300) -> float:
    """``-int p log p`` in nats, on a grid that reaches six standard deviations beyond the curve."""
    centres, reach = curve(data), 6 * NOISE[data]
    axes = [np.linspace(centres[:, k].min() - reach, centres[:, k].max() + reach, side) for k in (0, 1)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    values = log_density(data, grid)
    return float(-(np.exp(values) * values).sum() * math.prod(axis[1] - axis[0] for axis in axes))


def row(data: str) -> str:
    """An example's line of the table."""
    words = yaml.safe_load((EXAMPLES / f"density_{data}.yaml").read_text("utf-8"))
    torch.manual_seed(0)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run = odeframe.compose(data=words["data"], output=folder, **words["model"])
        run.fit(**words["trainer"], accelerator="cpu", enable_progress_bar=False, enable_checkpointing=False)
    spent = time.process_time() - start
    points = run.data.dataset("test").tensors[0]
    with torch.no_grad():
        ours = run.module.eval().log_prob(points).double().numpy()
    theirs = log_density(data, points.double().numpy())
    truth = entropy(data)
    return (
        f"| `{data}` | {truth:.3f} | {-ours.mean():.3f} | {-ours.mean() - truth:.3f} | {(theirs - ours).mean():.3f} "
        f"| {spent / 60:.1f} min |"
    )


def main() -> None:
    """Prints the table; ``--write`` puts it into the documentation too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="the page whose table is replaced")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "| data | entropy | -log q, test | above the entropy | gap | one processor |",
        "|---|---|---|---|---|---|",
        *(row(data) for data in NOISE),
    ]
    print(*lines, sep="\n", flush=True)
    if arguments.write:
        put(arguments.write, ("<!-- entropy table -->", "<!-- end of entropy table -->"), "\n".join(lines))


if __name__ == "__main__":
    main()
