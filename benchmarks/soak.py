"""Small fits one after another in one process: whether memory grows.

    python -m benchmarks.soak --minutes 20        (make soak)
    python -m benchmarks.soak --fits 500

Each fit composes a model, trains, validates, writes checkpoints, tests, and is dropped; trainers, solvers and gradients
take turns. Memory is the process's resident set, read after a collection, as the median of ten fits: after a warm-up,
and at the end. Exit status 1 where it has grown by more than the limit.
"""

from __future__ import annotations

import argparse
import gc
import logging
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytorch_lightning  # noqa: F401  (its import sets the level of its log, which is set again below)
import torch

import odeframe

WORDS: tuple[dict[str, Any], ...] = (
    {"trainer": "gradient"},
    {"architecture": {"name": "neural_ode", "width": 8}, "gradient": "adjoint"},
    {"architecture": {"name": "neural_ode", "width": 8}, "solver": {"name": "dopri5", "rtol": 1e-3}},
    {"gradient": "checkpoint"},
    {"trainer": {"name": "emsa", "iterations": 2}},
    {"trainer": "discrete_msa"},
    {"trainer": {"name": "yopo", "m": 2, "n": 1}},
    {"trainer": "ddp_feedback"},
)
"""What takes turns, over a small ResNet on two_moons."""

QUIET = {"enable_progress_bar": False, "accelerator": "cpu", "devices": 1, "max_epochs": 1, "num_sanity_val_steps": 0}


def fit(index: int, folder: Path) -> None:
    """One fit with its test, and what it has written removed."""
    torch.manual_seed(index)
    words = {"architecture": {"name": "resnet", "width": 8, "blocks": 2}, **WORDS[index % len(WORDS)]}
    data = {"name": "two_moons", "n": 60, "batch_size": 21}
    run = odeframe.compose(data=data, output=folder / "fit", **words)
    run.fit(**QUIET)
    run.test(**QUIET)
    shutil.rmtree(folder / "fit")


def resident() -> float:
    """The resident set in MiB."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def kinds() -> Counter[str]:
    """How many objects of each type there are."""
    return Counter(type(each).__name__ for each in gc.get_objects())


def main() -> int:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, help="for so long")
    parser.add_argument("--fits", type=int, help="so many")
    parser.add_argument("--warm-up", type=int, default=100, help="fits before the first reading")
    parser.add_argument("--limit", type=float, default=1.0, help="percent that memory may grow")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    folder, start, readings, before = Path(tempfile.mkdtemp(prefix="soak-")), time.monotonic(), [], Counter[str]()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            while True:
                count = len(readings)
                over = asked.minutes is not None and time.monotonic() - start > 60 * asked.minutes
                if over or (asked.fits is not None and count >= asked.fits + asked.warm_up):
                    break
                fit(count, folder)
                readings.append(resident())
                if count + 1 == asked.warm_up:
                    before = kinds()
                if (count + 1) % 50 == 0:
                    print(
                        f"{count + 1:>6} fits  {time.monotonic() - start:7.1f} s  {readings[-1]:8.1f} MiB", flush=True
                    )
    finally:
        shutil.rmtree(folder)
    if len(readings) < asked.warm_up + 20:
        print(f"{len(readings)} fits are too few: a warm-up of {asked.warm_up} and 20 more")
        return 1
    first = statistics.median(readings[asked.warm_up : asked.warm_up + 10])
    last = statistics.median(readings[-10:])
    growth = 100 * (last / first - 1)
    print(f"{len(readings)} fits in {time.monotonic() - start:.0f} s, the first {asked.warm_up} of them to warm up")
    print(f"resident memory {first:.1f} MiB after the warm-up, {last:.1f} MiB at the end: {growth:+.2f} %")
    print("objects that became more:", dict((kinds() - before).most_common(6)))
    return 1 if growth > asked.limit else 0


if __name__ == "__main__":
    sys.exit(main())
