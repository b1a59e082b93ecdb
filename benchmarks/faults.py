"""Faults at random moments of a fit, one after another: what each costs, and whether the result is that of no fault.

    python -m benchmarks.faults --injections 20 --seed 0

A small network is trained on two forked ranks (gloo). Each injection begins such a fit in a folder of its own, breaks
it at a random batch of a random rank, holds what every rank said against what it should have said, goes on from the
last complete checkpoint (what ``odeframe fit --resume auto`` does), and compares the final weights with those of a fit
that nothing happened to, bit by bit. Exit status 1 where anything is lost.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import re
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.multiprocessing as mp
from pytorch_lightning.callbacks import Callback as LightningCallback
from pytorch_lightning.strategies import DDPStrategy

import odeframe
from odeframe import agreement
from odeframe.callbacks import InterruptCheckpoint, Interrupted
from odeframe.checkpoint_files import last_complete
from odeframe.run import Run, trainer_options

RANKS, EPOCHS, BATCHES = 2, 4, 5
TIME_OUT = 4.0
"""Seconds after which a rank that does not answer is given up."""

LIMIT = 60.0
"""Seconds after which an injection counts as hung."""


@dataclass
class Fault:
    """What happens when.

    Attributes:
        kind: a key of ``KINDS``.
        step: the batch, counted from the start of the fit.
        rank: on which rank.
        share: of a checkpoint file that is left, where it is truncated.
    """

    kind: str
    step: int
    rank: int
    share: float

    def __str__(self) -> str:
        return f"{self.kind:<20} batch {self.step:>2}, rank {self.rank}"


class Break(LightningCallback):
    """Does what a fault is, at its batch."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Before the batch."""
        fault = self.fault
        if trainer.global_step != fault.step:
            return
        if fault.kind in ("kill all", "truncated checkpoint", "foreign checkpoint"):
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.kind in ("full disk", "kill while writing") and trainer.global_rank == 0:
            fail_writes(fault.kind)
        if trainer.global_rank == fault.rank:
            HERE.get(fault.kind, lambda batch: None)(batch)


def fail_writes(kind: str) -> None:
    """From here on no file grows beyond 4 KiB, or the process is killed when a checkpoint is about to be renamed."""
    if kind == "full disk":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        return

    def killed(handle: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = killed


def _signal(signum: signal.Signals) -> Callable[[Any], None]:
    return lambda batch: os.kill(os.getpid(), signum)


HERE: dict[str, Callable[[Any], Any]] = {
    "kill one": _signal(signal.SIGKILL),
    "SIGTERM": _signal(signal.SIGTERM),
    "SIGINT": _signal(signal.SIGINT),
    "not a number": lambda batch: batch[0].fill_(torch.nan),
    "hang": lambda batch: time.sleep(10 * LIMIT),
}
"""What happens on the fault's rank alone."""

LOST = r"rank \d of 2 (does not answer|stopped)"
KINDS: dict[str, str | None] = {
    "kill one": LOST,
    "kill all": None,
    "SIGTERM": "Interrupted: SIGTERM",
    "SIGINT": "Interrupted: SIG(INT|TERM)",
    "full disk": "cannot be written: File too large|does not answer",
    "kill while writing": LOST,
    "truncated checkpoint": None,
    "foreign checkpoint": None,
    "not a number": r"rank \d of 2|non-finite",
    "hang": LOST,
}
"""What every rank that is left has to say; ``None`` where none is left."""


def fit(folder: Path, fault: Fault | None) -> None:
    """On one rank: a fit from the last complete checkpoint of a folder; what ended it goes to a file."""
    rank = os.environ["RANK"]
    agreement.GRACE = 2.0
    start = last_complete(folder / "checkpoints")
    torch.manual_seed(0 if start is None else 7)  # what goes on may not need the seed that it began with
    network = {"name": "resnet", "width": 8, "blocks": 3}
    data = {"name": "two_moons", "n": 100, "batch_size": 14 // RANKS}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run: Run = odeframe.compose(architecture=network, data=data, output=folder)
            strategy = DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=TIME_OUT))
            quiet = {"enable_progress_bar": False, "accelerator": "cpu", "devices": RANKS, "strategy": strategy}
            extra = [InterruptCheckpoint(folder / "checkpoints"), *([Break(fault)] if fault else [])]
            options = trainer_options(run.module, run.data, run.folder, {**quiet, "max_epochs": EPOCHS}, [])
            options["callbacks"] = [*extra, *options["callbacks"]]
            if start is not None:
                steps = torch.load(start, weights_only=True)["global_step"]
                (folder / f"from-{rank}").write_text(str(steps))
            run.fit_with(pl.Trainer(**options), start)
    except (Exception, Interrupted) as error:
        notes = "; ".join(getattr(error, "__notes__", []))
        (folder / f"said-{rank}").write_text(f"{type(error).__name__}: {error} {notes}")
        os._exit(1)  # as torchrun would end what is left
    torch.save(run.module.state_dict(), folder / f"weights-{rank}.pt")


def on_ranks(folder: Path, fault: Fault | None) -> list[int | None]:
    """The exit statuses of a fit's ranks, ``None`` for one that had to be ended."""
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    context = mp.get_context("fork")
    processes = [context.Process(target=_rank, args=(rank, port, folder, fault)) for rank in range(RANKS)]
    for process in processes:
        process.start()
    end, statuses = time.monotonic() + LIMIT, []
    while time.monotonic() < end and any(process.is_alive() for process in processes):
        time.sleep(0.02)
        alive = [rank for rank, process in enumerate(processes) if process.is_alive()]
        if fault is not None and fault.kind == "hang" and alive == [fault.rank]:
            break
    for process in processes:
        statuses.append(None if process.is_alive() else process.exitcode)
        if process.is_alive():
            process.kill()
        process.join()
    return statuses


def _rank(rank: int, port: int, folder: Path, fault: Fault | None) -> None:
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the C++ side's traces of lost connections
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": RANKS, "LOCAL_WORLD_SIZE": RANKS, "GROUP_RANK": 0}
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "faults"}
    os.environ |= {name: str(value) for name, value in {**place, **where}.items()}
    fit(folder, fault)


def inject(fault: Fault, whole: dict[str, Any], folder: Path) -> tuple[list[str], str]:
    """What is wrong with an injection, nothing where it lost nothing; and what it cost."""
    start = time.monotonic()
    folder.mkdir()
    statuses, wrong = on_ranks(folder, fault), []
    seconds = time.monotonic() - start
    expected = KINDS[fault.kind]
    for rank, status in enumerate(statuses):
        file = folder / f"said-{rank}"
        said = file.read_text() if file.is_file() else ""
        if status is None and not (fault.kind == "hang" and rank == fault.rank):
            wrong.append(f"rank {rank} hung")
        elif status == 0:
            wrong.append(f"rank {rank} noticed nothing")
        elif status == 1 and (expected is None or not re.search(expected, said)):
            wrong.append(f"rank {rank} said {said[:300]!r}")
    spoil(fault, folder / "checkpoints")
    again = on_ranks(folder, None)
    if again != [0] * RANKS:
        said = [(folder / f"said-{rank}").read_text() for rank in range(RANKS) if (folder / f"said-{rank}").is_file()]
        return [*wrong, f"the fit that goes on ended with {again}: {said}"], ""
    for rank in range(RANKS):
        weights = torch.load(folder / f"weights-{rank}.pt", weights_only=True)
        differ = [name for name in whole if not torch.equal(weights[name], whole[name])]
        if differ:
            wrong.append(f"rank {rank}: {len(differ)} of {len(whole)} weights differ, first {differ[0]}")
    place = folder / "from-0"
    first = int(place.read_text()) if place.is_file() else 0
    return wrong, f"noticed after {seconds:4.1f} s, went on from batch {first:>2}"


def spoil(fault: Fault, checkpoints: Path) -> None:
    """Truncates the newest checkpoint, or puts one there that is another program's."""
    files = sorted(checkpoints.glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    if fault.kind == "truncated checkpoint" and files:
        size = files[-1].stat().st_size
        os.truncate(files[-1], int(fault.share * size))
    if fault.kind == "foreign checkpoint":
        checkpoints.mkdir(exist_ok=True)
        torch.save({"state_dict": {}, "global_step": 10**6}, checkpoints / "foreign.ckpt")


def main() -> int:
    """Runs the injections and prints a line of each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--injections", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    draw, lost = random.Random(asked.seed), 0
    root = Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        (root / "whole").mkdir()
        if on_ranks(root / "whole", None) != [0] * RANKS:
            raise SystemExit("the fit without a fault failed")
        whole = torch.load(root / "whole" / "weights-0.pt", weights_only=True)
        kinds = [
            kind for _ in range(-(-asked.injections // len(KINDS))) for kind in draw.sample(list(KINDS), len(KINDS))
        ]
        for index, kind in enumerate(kinds[: asked.injections]):
            fault = Fault(kind, draw.randrange(1, EPOCHS * BATCHES - 1), draw.randrange(RANKS), draw.uniform(0, 0.99))
            wrong, cost = inject(fault, whole, root / str(index))
            lost += bool(wrong)
            print(f"{index + 1:>3}  {fault}  {cost or '-'}  {'; '.join(wrong) or 'nothing lost'}", flush=True)
    finally:
        shutil.rmtree(root)
    print(f"{asked.injections - lost} of {asked.injections} injections lost nothing (seed {asked.seed})")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
