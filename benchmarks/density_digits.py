"""Bits per dimension of held-out digits: our flow, by maximum likelihood and by flow matching, beside flows of zuko.

    python -m benchmarks.density_digits [--seconds 12] [--seeds 2] [--write docs/parts/density.md]

Data, the same arrays for all: scikit-learn's 8 x 8 digits, 1257 + 180 + 360, with uniform noise (8 draws of each
training image, 1 of the others) and the logit of alpha = 0.05.  Each model is trained for the same seconds of one
processor, by Adam on batches of 128, with the step length falling to 0 over the time as a cosine; the weights that are
best on the validation images are kept.  Step lengths: the best of three on the validation images, with seed 0.
zuko 1.6.0: MAF with 5 transforms and NSF (8 bins) with 2, the library's own defaults else.  Ours is trained with three
steps of rk4, and evaluated with the exact trace by dopri5 at rtol = atol = 1e-5.  Time for validation is not counted.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import zuko
from torch import Tensor, nn

import odeframe
from benchmarks.page import put

ROOT = Path(__file__).resolve().parents[1]
DATA = {"name": "digits", "flat": True, "dequantise": 8}
TASK = {"name": "density", "logit": 0.05}
FLOW = {"name": "cnf", "hidden": 192, "depth": 3}
TRAINED, EVALUATED = {"name": "rk4", "steps": 3}, {"name": "dopri5", "rtol": 1e-5, "atol": 1e-5}
BATCH, VALIDATIONS, RATES = 128, 10, (5e-4, 2e-3, 8e-3)


@dataclass
class Model:
    """What is trained: a loss of a batch of data, an estimate for validation, and the exact ``log p``, ``(batch,)``."""

    network: nn.Module
    loss: Callable[[Tensor], Tensor]
    validate: Callable[[Tensor], Tensor]
    log_prob: Callable[[Tensor], Tensor]


def ours(trainer: str) -> Model:
    """Our flow."""
    module = odeframe.compose(FLOW, DATA, TASK, trainer=trainer, solver=TRAINED).module
    exact = odeframe.compose(FLOW, DATA, TASK, solver=EVALUATED).module.eval()

    def log_prob(x: Tensor) -> Tensor:
        exact.load_state_dict(module.state_dict())
        return exact.log_prob(x)

    return Model(
        module,
        lambda x: module.rule.training_step(module, (x,)),
        lambda x: module.objective((x,)).loss,
        log_prob,
    )


def zukos(kind: str) -> Model:
    """A flow of zuko on the same logits; the logarithm of their slope is added."""
    if kind == "MAF":
        flow: Any = zuko.flows.MAF(features=64, transforms=5, hidden_features=(96, 96))
    else:
        flow = zuko.flows.NSF(features=64, transforms=2, hidden_features=(48, 48), bins=8)
    task = odeframe.compose(FLOW, DATA, TASK).module.task

    def log_prob(x: Tensor) -> Tensor:
        y, slope = task.split((x,))
        return flow().log_prob(y) + slope

    return Model(flow, lambda x: -log_prob(x).mean(), lambda x: -log_prob(x).mean(), log_prob)


MODELS: dict[str, Callable[[], Model]] = {
    "cnf, maximum likelihood": lambda: ours("gradient"),
    "cnf, flow matching": lambda: ours("flow_matching"),
    "zuko MAF": lambda: zukos("MAF"),
    "zuko NSF": lambda: zukos("NSF"),
}


@dataclass
class Fit:
    """One training: bits per dimension on validation and test, steps taken, weights."""

    validation: float
    test: float
    steps: int
    size: int


def fit(name: str, rate: float, seed: int, seconds: float, sets: dict[str, Tensor], quantum: float) -> Fit:
    """Trains for so many seconds."""
    torch.manual_seed(seed)
    model = MODELS[name]()
    optimizer = torch.optim.Adam(model.network.parameters(), lr=rate)
    best, kept, spent, steps, train = math.inf, copy.deepcopy(model.network.state_dict()), 0.0, 0, sets["train"]
    due = seconds / VALIDATIONS
    while spent < seconds:
        start = time.process_time()
        model.network.train()
        for group in optimizer.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * spent / seconds))
        optimizer.zero_grad()
        loss = model.loss(train[torch.randint(len(train), (BATCH,))])
        loss.backward()
        nn.utils.clip_grad_norm_(model.network.parameters(), 10.0)
        optimizer.step()
        spent, steps = spent + time.process_time() - start, steps + 1
        if spent >= due or spent >= seconds:
            due += seconds / VALIDATIONS
            model.network.eval()
            with torch.no_grad():
                found = float(model.validate(sets["val"]))
            if found < best:
                best, kept = found, copy.deepcopy(model.network.state_dict())
    model.network.load_state_dict(kept)
    model.network.eval()
    size = sum(p.numel() for p in model.network.parameters())
    with torch.no_grad():
        nats = -float(model.log_prob(sets["test"]).mean())
    return Fit(bits(best, quantum), bits(nats, quantum), steps, size)


def bits(nats: float, quantum: float) -> float:
    """Bits a pixel of the grey levels themselves, from ``-log p`` of the inputs in nats."""
    return (nats / 64 - math.log(quantum)) / math.log(2)


def table(seconds: float, seeds: int, names: Sequence[str]) -> list[str]:
    """Markdown: a row a model."""
    data = odeframe.registry.word("data", DATA).build()
    sets = {split: data.dataset(split).tensors[0] for split in ("train", "val", "test")}
    quantum = data.spec.quantum
    lines = [
        f"| {seconds:g} s of one processor, {seeds} seeds | parameters | step length | steps | "
        "bits/dim, test (mean, range) |",
        "|---|---|---|---|---|",
    ]
    print(*lines, sep="\n", flush=True)
    for name in names:
        tried = {rate: fit(name, rate, 0, seconds, sets, quantum) for rate in RATES}
        rate = min(tried, key=lambda each: tried[each].validation)
        print({each: (round(f.validation, 3), round(f.test, 3)) for each, f in tried.items()}, flush=True)
        fits = [tried[rate], *(fit(name, rate, seed, seconds, sets, quantum) for seed in range(1, seeds))]
        found = [each.test for each in fits]
        mean = sum(found) / len(found)
        steps = sum(each.steps for each in fits) // len(fits)
        lines.append(
            f"| {name} | {fits[0].size:,} | {rate:g} | {steps:,} | {mean:.3f} ({min(found):.3f} to {max(found):.3f}) |"
        )
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Prints the table; ``--write`` puts it into the documentation too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--write", type=Path, help="the page whose table is replaced")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = table(arguments.seconds, arguments.seeds, arguments.models)
    if arguments.write:
        put(arguments.write, ("<!-- digits table -->", "<!-- end of digits table -->"), "\n".join(lines))


if __name__ == "__main__":
    main()
