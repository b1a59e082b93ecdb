"""Two ranks of data parallel against two processes that know nothing of each other: what the messages cost.

    python -m benchmarks.throughput [--epochs 2] [--turns 3] [--data digits,mnist_5k]

Each of two processes with one thread trains on its own batches: alone; alone, but waiting for the other behind every
batch, without a message; and as ranks of one fit (gloo), in turns on the same machine. Samples a second are those of
both together, an epoch at a time, without the first. The target is 0.85 of the processes alone. Whoever waits takes the
slower core's time in every batch: what the processes in step reach is what any data parallel training can reach on that
machine in that run, and the rest is what the messages cost.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import statistics
import tempfile
import time
import warnings
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.multiprocessing as mp
from pytorch_lightning.strategies import DDPStrategy

import odeframe
from odeframe.replica_guard import ReplicaGuard

MODELS: dict[str, dict[str, Any]] = {
    "ResNet": {"architecture": {"name": "resnet", "width": 32, "blocks": 6}},
    "Neural ODE": {"architecture": {"name": "neural_ode", "width": 32}, "solver": {"name": "rk4", "steps": 4}},
}
BATCH_SIZE, BATCHES = 64, 10
WAYS: tuple[dict[str, Any], ...] = ({"ranks": 1}, {"ranks": 1, "in_step": True}, {"ranks": 2})


class Clock(pl.Callback):
    """The seconds of each epoch's batches, and how many batches."""

    def __init__(self) -> None:
        self.epochs: list[tuple[int, float]] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begins."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ends."""
        self.epochs.append((int(trainer.num_training_batches), time.perf_counter() - self._start))


class InStep(pl.Callback):
    """Waits for the other process behind each batch.

    Args:
        barrier: of both.
    """

    def __init__(self, barrier: Any) -> None:
        self.barrier = barrier

    def on_train_batch_end(self, *_: Any) -> None:
        """Waits."""
        self.barrier.wait()


def train(
    rank: int, ranks: int, port: int, words: dict[str, Any], epochs: int, file: str, barrier: Any, in_step: bool
) -> None:
    """On one process: a fit, as one of ``ranks``; the samples a second of each epoch go to a file."""
    logging.disable(logging.WARNING)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    torch.manual_seed(0)
    strategy: Any = "auto"
    if ranks > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "GROUP_RANK": 0}
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "throughput"}
        os.environ |= {name: str(value) for name, value in {**place, **where}.items()}
        strategy = DDPStrategy(process_group_backend="gloo")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = odeframe.compose(**words)
        clock = Clock()
        trainer = pl.Trainer(
            max_epochs=epochs + 1,
            limit_train_batches=BATCHES,  # as many for a process alone as for a rank
            limit_val_batches=0,
            devices=ranks,
            strategy=strategy,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[ReplicaGuard(), clock, *([InStep(barrier)] if in_step else [])],
        )
        barrier.wait()
        trainer.fit(run.module, datamodule=run.data)
    rates = [BATCH_SIZE * batches / seconds for batches, seconds in clock.epochs[1:]]
    Path(f"{file}-{rank}").write_text(json.dumps(rates))


def both(ranks: int, words: dict[str, Any], epochs: int, in_step: bool = False) -> list[float]:
    """Samples a second of two processes together, by epoch."""
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    context = mp.get_context("fork")
    barrier = context.Barrier(2)
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/rate"
        given = [(rank, ranks, port, words, epochs, file, barrier, in_step) for rank in range(2)]
        processes = [context.Process(target=train, args=each) for each in given]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        first, second = (json.loads(Path(f"{file}-{rank}").read_text()) for rank in range(2))
        return [sum(each) for each in zip(first, second, strict=True)]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--data", default="digits", help="names, with commas")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("| data | model | alone, samples/s: median, fastest | in step | two ranks | of alone | of in step |")
    print("|---|---|---|---|---|---|---|")
    for data, (name, model) in product(asked.data.split(","), MODELS.items()):
        words = {"data": {"name": data, "batch_size": BATCH_SIZE}, **model}
        rates: list[list[float]] = [[], [], []]
        for _, (rate, ways) in product(range(asked.turns), zip(rates, WAYS, strict=True)):
            rate += both(words=words, epochs=asked.epochs, **ways)
        alone, in_step, two = [(statistics.median(rate), max(rate)) for rate in rates]
        figures = [f"{middle:.0f}, {top:.0f}" for middle, top in (alone, in_step, two)]
        ratios = [", ".join(f"{a / b:.2f}" for a, b in zip(two, other, strict=True)) for other in (alone, in_step)]
        print("|", " | ".join([data, name, *figures, *ratios]), "|", flush=True)


if __name__ == "__main__":
    main()
