"""``yopo`` against ``pgd``: robust accuracy in pairs of one seed, passes and seconds, as a table in Markdown.

    python -m benchmarks.adversarial [--data digits mnist_5k] [--seeds 5] [--write docs/parts/adversarial.md]

One thread, Adam, a residual network of ten steps on flat images.  The step length (the best of a sweep, the same for
both rules) and ``skip`` were chosen on part of the training set and other seeds; ``yopo`` has a tenth more epochs, so
that its full passes are half of those of ``pgd``.  A piece is one rule, data set and seed; ``--cache`` keeps those that
are done, so that a run that was stopped goes on, and ``--table`` prints what there is.  Accuracies are of the last
weights on the test set; the interval is Student's, of the differences in pairs of one seed.  Milliseconds are processor
time, which a busy machine stretches less than the clock: medians over interleaved epochs in one process.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

import odeframe
from benchmarks.page import put
from odeframe.robustness import RobustAccuracy

EPOCHS = {
    "digits": {"gradient": 30, "pgd": 30, "yopo": 33},
    "mnist_5k": {"gradient": 10, "pgd": 10, "yopo": 11},
}
LEARNING_RATE = 0.008
EPS = 0.5
RULES: dict[str, Any] = {
    "gradient": "gradient",
    "pgd": {"name": "pgd", "steps": 10, "eps": EPS},
    "yopo": {"name": "yopo", "m": 5, "n": 3, "skip": 3, "eps": EPS},
}
ARCHITECTURE = {"name": "resnet", "width": 64, "blocks": 10}
QUIET: dict[str, Any] = {
    **dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False),
    "accelerator": "cpu",
    "devices": 1,
}
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Quantiles 0.975 of Student's t by degrees of freedom."""
MARKS = ("<!-- table: python -m benchmarks.adversarial -->", "<!-- end of table -->")


def composed(data: str, rule: str) -> odeframe.Run:
    """Network, data and rule."""
    return odeframe.compose(
        ARCHITECTURE,
        data={"name": data, "batch_size": 64, "flat": True},
        trainer=RULES[rule],
        learning_rate=LEARNING_RATE,
    )


def piece(data: str, rule: str, seed: int) -> dict[str, float]:
    """One fit and its test: accuracies, passes over the whole fit, seconds of the fit."""
    torch.manual_seed(seed)
    run = composed(data, rule)
    torch.manual_seed(1000 + seed)  # the order of the batches, the same for each rule
    trainer = pl.Trainer(max_epochs=EPOCHS[data][rule], limit_val_batches=0, **QUIET)
    start, work = time.perf_counter(), time.process_time()
    trainer.fit(run.module, datamodule=run.data)
    seconds, work = time.perf_counter() - start, time.process_time() - work
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    tester = pl.Trainer(callbacks=[RobustAccuracy(EPS, ("pgd20", "fgsm"))], **QUIET)
    found = tester.test(run.module, datamodule=run.data, verbose=False)[0]
    return {
        "clean": found["test_accuracy"],
        "pgd20": found[f"test_accuracy_pgd20_{EPS:g}"],
        "fgsm": found[f"test_accuracy_fgsm_{EPS:g}"],
        "full": trainer.global_step * logged.get("train_full_passes", 1.0),
        "first": trainer.global_step * logged.get("train_first_layer_passes", 0.0),
        "seconds": seconds,
        "work": work,
    }


def milliseconds(data: str, repeats: int = 5) -> dict[str, float]:
    """Processor time of a batch by rule, the median over interleaved fits of an epoch."""
    found: dict[str, list[float]] = {rule: [] for rule in RULES}
    for repeat in range(repeats + 1):
        for rule, times in found.items():
            torch.manual_seed(repeat)
            run = composed(data, rule)
            run.data.setup()
            trainer = pl.Trainer(max_epochs=1, limit_val_batches=0, **QUIET)
            start = time.process_time()
            trainer.fit(run.module, datamodule=run.data)
            times.append(1000 * (time.process_time() - start) / trainer.global_step)
    return {rule: statistics.median(times[1:]) for rule, times in found.items()}  # the first warms up


def interval(differences: list[float]) -> tuple[float, float, float]:
    """Mean, and the 95 % interval of the mean by Student's t."""
    mean = statistics.mean(differences)
    half = STUDENT[len(differences) - 1] * statistics.stdev(differences) / len(differences) ** 0.5
    return mean, mean - half, mean + half


def table(results: dict[str, dict[str, float]], data: str) -> list[str]:
    """Rows of means and standard deviations over the seeds, and the comparison in pairs."""
    found: dict[str, dict[int, dict[str, float]]] = {rule: {} for rule in RULES}
    per_batch = results[f"{data}/milliseconds"]
    for key, values in results.items():
        name, rule, *seeds = key.split("/")
        for seed in seeds if name == data else ():
            found[rule][int(seed)] = values
    lines = [
        f"**{data}**, {EPOCHS[data]['pgd']} epochs, `yopo` {EPOCHS[data]['yopo']}:",
        "",
        "| rule | seeds | clean | PGD-20 | FGSM | full passes | of layer one | ms a batch |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for rule, rows in found.items():
        if len(rows) < 2:
            continue
        each = {name: [row[name] for row in rows.values()] for name in next(iter(rows.values()))}
        scores = [
            f"{statistics.mean(each[n]):.3f} ± {statistics.stdev(each[n]):.3f}" for n in ("clean", "pgd20", "fgsm")
        ]
        counts = [f"{statistics.mean(each[n]):,.0f}" for n in ("full", "first")]
        cells = [f"`{rule}`", str(len(rows)), *scores, *counts, f"{per_batch[rule]:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    pairs = [(found["yopo"][seed], found["pgd"][seed]) for seed in sorted(found["yopo"]) if seed in found["pgd"]]
    if len(pairs) < 2:
        return [*lines, "", "Fewer than two pairs: no interval."]
    mean, low, high = interval([yopo["pgd20"] - pgd["pgd20"] for yopo, pgd in pairs])
    passes = pairs[0][0]["full"] / pairs[0][1]["full"]
    ratios, work = (sorted(a[name] / b[name] for a, b in pairs) for name in ("seconds", "work"))
    return [
        *lines,
        "",
        f"PGD-20 accuracy of `yopo` less that of `pgd`, {len(pairs)} pairs: {mean:+.3f}, 95 % interval {low:+.3f} to "
        f"{high:+.3f}. Full passes: {passes:.3f} of `pgd`'s; processor time of a batch: "
        f"{per_batch['yopo'] / per_batch['pgd']:.2f}, of whole fits {statistics.median(work):.2f} in the median pair "
        f"({work[0]:.2f} to {work[-1]:.2f}); whole fits by the clock: {statistics.median(ratios):.2f} "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f}; other work ran beside them).",
    ]


def main() -> None:
    """Fits what is missing, prints the tables, or puts them between the marks of a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=list(EPOCHS), default=list(EPOCHS))
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0")
    parser.add_argument("--cache", type=Path, default=Path("runs/adversarial.json"), help="pieces that are done")
    parser.add_argument("--table", action="store_true", help="fit nothing")
    parser.add_argument("--write", type=Path, help="a Markdown file with the marks of the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    results = json.loads(options.cache.read_text("utf-8")) if options.cache.exists() else {}
    wanted = [f"{data}/milliseconds" for data in options.data]
    wanted += [f"{data}/{rule}/{seed}" for data in options.data for seed in range(options.seeds) for rule in RULES]
    for key in wanted:
        if options.table or key in results:
            continue
        data, rule, *seeds = key.split("/")
        results[key] = piece(data, rule, int(seeds[0])) if seeds else milliseconds(data)
        print(key, {name: round(value, 3) for name, value in results[key].items()}, flush=True)
        options.cache.parent.mkdir(parents=True, exist_ok=True)
        options.cache.write_text(json.dumps(results, indent=1), "utf-8")
    kept = {key: results[key] for key in wanted if key in results}
    text = "\n\n".join("\n".join(table(kept, data)) for data in options.data if f"{data}/milliseconds" in kept)
    print(f"odeframe {odeframe.__version__}, torch {torch.__version__}\n\n{text}")
    if options.write is not None:
        put(options.write, MARKS, text)


if __name__ == "__main__":
    main()
