"""Test accuracy, share of nonzero weights and file size of discrete weights: ``python -m benchmarks.discrete``."""

from __future__ import annotations

import argparse
import csv
import logging
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

import odeframe
from odeframe import packing

IMAGES = ({"name": "resnet", "width": 32, "blocks": 1}, ["flow1", "transition1", "flow2"])
ROWS = ({"name": "resnet", "width": 512, "blocks": 2}, ["stem", "flow1"])
CASES: dict[str, tuple[Any, tuple[Any, list[str]], int]] = {
    "digits": ({"name": "digits"}, IMAGES, 20),
    "mnist_5k": ({"name": "mnist_5k", "flat": True}, ROWS, 15),
}
RULES: dict[str, Any] = {
    "gradient": "gradient",
    "binary": {"name": "discrete_msa", "levels": "binary"},
    "ternary": {"name": "discrete_msa", "levels": "ternary"},
}
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def measure(data: str, rule: str, seed: int) -> dict[str, Any]:
    """One fit: its accuracy, nonzero share, size of the exported file, and whether it predicts the same."""
    word, (architecture, stages), epochs = CASES[data]
    trainer = RULES[rule] if rule == "gradient" else {**RULES[rule], "stages": stages}
    pl.seed_everything(seed, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        run = odeframe.compose(architecture, data=word, trainer=trainer, output=folder)
        start = time.perf_counter()
        run.fit(max_epochs=epochs, enable_checkpointing=False, **QUIET)
        seconds = time.perf_counter() - start
        found = run.test(**QUIET)
        row = {
            "data": data,
            "rule": rule,
            "seed": seed,
            "accuracy": round(found["test_accuracy"], 4),
            "nonzero": round(found.get("test_nonzero", 1.0), 3),
            "seconds": round(seconds),
            "float32": 4 * sum(p.numel() for p in run.module.parameters()),
            "file": "",
            "same": "",
        }
        if rule != "gradient":
            path = packing.export(run.module, Path(folder) / "packed.pt")
            x = next(iter(run.data.test_dataloader()))[0]
            with torch.no_grad():
                row["same"] = torch.equal(packing.load(path)(x), run.module.eval()(x))
            row["file"] = path.stat().st_size
    return row


def main() -> None:
    """Prints a row a fit, and adds it to a file; what is in the file already is not run again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/discrete.csv"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    done = set()
    if chosen.output.exists():
        with chosen.output.open(newline="") as file:
            done = {(row["data"], row["rule"], int(row["seed"])) for row in csv.DictReader(file)}
    for data in chosen.data:
        for rule in chosen.rules:
            for seed in chosen.seeds:
                if (data, rule, seed) in done:
                    continue
                row = measure(data, rule, seed)
                new = not chosen.output.exists()
                with chosen.output.open("a", newline="") as file:
                    table = csv.DictWriter(file, list(row))
                    if new:
                        table.writeheader()
                    table.writerow(row)
                print(" | ".join(map(str, row.values())), flush=True)


if __name__ == "__main__":
    main()
