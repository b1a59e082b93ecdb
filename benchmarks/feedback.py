"""Layer-wise feedback against the same optimiser without it, over step lengths: ``python -m benchmarks.feedback``."""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import tempfile
import warnings
from typing import Any

import pytorch_lightning as pl
import torch

import odeframe

RATES = {"SGD": (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6), "RMSprop": (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02)}
ARCHITECTURE = {"name": "resnet", "width": 16, "blocks": 4}
DATA = {"name": "digits", "flat": True}
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def measure(optimizer: str, rate: float, gain: float, seed: int, epochs: int) -> tuple[float, float]:
    """Training loss of the last epoch and test accuracy of one fit at a constant step length.

    A loss that is no longer a number ends a fit: infinite then, and the accuracy 0.
    """
    pl.seed_everything(seed, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        run = odeframe.compose(
            ARCHITECTURE,
            data=DATA,
            trainer={"name": "ddp_feedback", "gain": gain},
            optimizer=optimizer,
            learning_rate=rate,
            schedule="constant",
            output=folder,
        )
        try:
            trainer = run.fit(max_epochs=epochs, enable_checkpointing=False, limit_val_batches=0, **QUIET)
        except odeframe.SolveFailed:
            return math.inf, 0.0
        loss = float(trainer.callback_metrics["train_loss_epoch"])
        return loss, run.test(**QUIET)["test_accuracy"]


def shown(loss: float) -> str:
    """A loss, or that there is none to speak of."""
    return f"{loss:.3f}" if loss < 1000 else "diverged"


def main() -> None:
    """Prints medians over the seeds, and how many fits diverged: a loss that is not finite, or above ln 10."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--optimizers", nargs="+", default=list(RATES), choices=list(RATES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    print("| optimiser | step length | loss | loss, feedback | accuracy | accuracy, feedback | diverged |")
    print("|---|---|---|---|---|---|---|")
    for optimizer in chosen.optimizers:
        for rate in RATES[optimizer]:
            fits = {
                gain: [measure(optimizer, rate, gain, seed, chosen.epochs) for seed in range(chosen.seeds)]
                for gain in (0.0, 1.0)
            }
            loss = {g: statistics.median(math.inf if math.isnan(f[0]) else f[0] for f in fits[g]) for g in fits}
            accuracy = {g: statistics.median(f[1] for f in fits[g]) for g in fits}
            lost = {g: sum(not f[0] < math.log(10) for f in fits[g]) for g in fits}
            print(
                f"| {optimizer} | {rate:g} | {shown(loss[0.0])} | {shown(loss[1.0])} | {accuracy[0.0]:.3f} | "
                f"{accuracy[1.0]:.3f} | {lost[0.0]} and {lost[1.0]} of {chosen.seeds} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
