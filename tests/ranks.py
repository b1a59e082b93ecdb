"""Forked ranks for tests: a function on several processes that speak by gloo, as torchrun would have started them."""

from __future__ import annotations

import os
import socket
import time
import warnings
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.multiprocessing as mp
from pytorch_lightning.strategies import DDPStrategy

from odeframe.testing.trainers import QUIET

TIME_OUT = timedelta(seconds=20)


def on_ranks(ranks: int, call: Callable[..., Any], *arguments: Any, limit: float = 90.0) -> list[int]:
    """Calls on forked ranks; the exit statuses. Ranks that take longer than the limit, in seconds, are ended."""
    torch.set_num_threads(1)  # a parent with a thread pool would hang its forked children
    port, context = free_port(), mp.get_context("fork")
    processes = [context.Process(target=_rank, args=(rank, ranks, port, call, arguments)) for rank in range(ranks)]
    for process in processes:
        process.start()
    end = time.monotonic() + limit
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def _rank(rank: int, ranks: int, port: int, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "GROUP_RANK": 0}
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "tests"}
    os.environ |= {name: str(value) for name, value in {**place, **where}.items()}
    call(*arguments)


def free_port() -> int:
    """A port that nobody listens on."""
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def quiet_trainer(ranks: int, folder: Path | str, timeout: timedelta = TIME_OUT, **options: Any) -> pl.Trainer:
    """A trainer for one process, or for each of several that have been started already."""
    strategy: Any = "auto" if ranks == 1 else DDPStrategy(process_group_backend="gloo", timeout=timeout)
    settings = {"max_epochs": 1, "num_sanity_val_steps": 0, "devices": ranks, "strategy": strategy}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pl.Trainer(default_root_dir=str(folder), **{**QUIET, **settings, **options})
