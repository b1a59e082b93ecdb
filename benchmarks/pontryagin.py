"""Successive approximations against gradient descent on sin(x), as tables in Markdown and a picture.

    python -m benchmarks.pontryagin [--part sine|flat] [--seeds 10] [--write docs/parts/pontryagin.md]

The problem of Li, Chen, Tai, E 2018, section 4.1: 32 equally spaced points of [-pi, pi], ``y = sin(x)``, 5 dimensions,
``x' = tanh(W(t) x + b(t))`` on (0, 5) in 10 Euler steps with a piece of control each, float64, all points in one batch.
Ends, not trained: ``x(0) = (x, x, x, x, x)``, output the mean of the components of ``x(T)``; ``Phi = (output - y)^2``.
Weights begin as ``nn.Linear`` draws them.  The flat start has a trained stem ``nn.Linear(1, 5)`` and head
``nn.Linear(5, 1)`` in place of these ends, and all weights drawn from N(0, 0.01^2).

One thread.  Seconds are of processor time.  Rates of gradient descent and of Adam are the best of a sweep, by the
median of what the column shows.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import odeframe
from benchmarks.page import put
from odeframe import Flow, Network
from odeframe.plots import MODELS, panel_grid, save
from odeframe.pontryagin import of_batch
from odeframe_plugins.trainers.successive import Problem

MARKS = ("<!-- {} table: python -m benchmarks.pontryagin -->", "<!-- end of {} table -->")
ITERATIONS, LONG, FLAT = 20, 200, 800
RATES = {"gradient descent": (0.3, 1.0, 3.0, 10.0), "Adam": (0.01, 0.03, 0.1, 0.3)}
FLAT_RATES = {"gradient descent": (0.1, 0.3, 1.0)}
OPTIMIZERS: dict[str, Any] = {"gradient descent": torch.optim.SGD, "Adam": torch.optim.Adam}
RULES = {
    "msa": {"name": "msa"},
    "emsa, rho = 10": {"name": "emsa", "rho": 10.0, "adaptive": False},
    "emsa, adaptive": {"name": "emsa"},
}
Curve = list[tuple[float, float]]
"""Loss and processor seconds, before the first iteration and after each."""


class Repeat(nn.Module):
    """``x -> (x, x, x, x, x)``."""

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 1)`` to ``(batch, 5)``."""
        return x.expand(-1, 5)


class Mean(nn.Module):
    """The mean of the components."""

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 5)`` to ``(batch, 1)``."""
        return x.mean(1, keepdim=True)


def network(seed: int, flat: bool = False) -> Network:
    """The network of a seed."""
    torch.manual_seed(seed)
    block = nn.Sequential(nn.Linear(5, 5), nn.Tanh())
    flow = Flow(block, "piecewise_constant", {"name": "euler", "steps": 10}, horizon=(0.0, 5.0))
    ends = (nn.Linear(1, 5), nn.Linear(5, 1)) if flat else (Repeat(), Mean())
    made = Network({"stem": ends[0], "flow": flow, "head": ends[1]}).double()
    if flat:
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=0.01)
    return made


def data() -> tuple[Tensor, Tensor]:
    """Points and values, ``(32, 1)`` each."""
    x = torch.linspace(-torch.pi, torch.pi, 32, dtype=torch.float64)[:, None]
    return x, x.sin()


def by_rule(rule_word: dict[str, Any], made: Network, iterations: int, until: float = 0.0) -> Curve:
    """The curve of a rule; it ends early where the loss is below ``until``, or no number."""
    options = {key: value for key, value in rule_word.items() if key != "name"}
    rule: Any = odeframe.build("trainer", rule_word["name"], **options)
    task = odeframe.build("task", "regression")
    curve, start = [], time.process_time()
    for _ in range(iterations):
        problem = Problem(*of_batch(made, task, data()))
        if not curve:
            curve.append((problem.objective(), 0.0))
        rule.improve(problem)
        curve.append((problem.objective(), time.process_time() - start))
        if not curve[-1][0] >= until:
            break
    return curve


def by_gradient(optimizer: str, rate: float, made: Network, iterations: int, until: float = 0.0) -> Curve:
    """The curve of an optimiser of torch."""
    (x, y), steps = data(), OPTIMIZERS[optimizer](made.parameters(), lr=rate)
    curve, start = [], time.process_time()
    for _ in range(iterations + 1):
        try:
            loss = (made(x) - y).square().mean()
        except odeframe.OdeframeError:  # states that are no numbers: this rate is too large
            curve.append((math.inf, time.process_time() - start))
            break
        curve.append((float(loss.detach()), time.process_time() - start))
        if not curve[-1][0] >= until:
            break
        steps.zero_grad()
        loss.backward()
        steps.step()
    return curve


def spread(values: Sequence[float]) -> str:
    """Median and quartiles."""
    if len(values) < 2:
        return f"{values[0]:.3g}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.2g} ({low:.2g} to {high:.2g})"


def at_second(curve: Curve, seconds: float) -> float:
    """The last loss that was had by then."""
    return next(loss for loss, when in reversed(curve) if when <= seconds)


def at_iteration(curve: Curve, iteration: int) -> float:
    """The loss after an iteration."""
    return curve[min(iteration, len(curve) - 1)][0]


def increases(curve: Curve) -> int:
    """How often the loss rose."""
    return sum(after[0] > before[0] for before, after in itertools.pairwise(curve))


def best(curves: dict[float, list[Curve]], value: Callable[[Curve], float]) -> float:
    """The rate whose median of a value is least."""
    medians = {rate: statistics.median(value(c) for c in found) for rate, found in curves.items()}
    return min(medians, key=lambda rate: (medians[rate] != medians[rate], medians[rate]))


Measured = dict[str, dict[float, list[Curve]]]
"""By method, then by rate (0 for a rule, which has none), a curve a seed."""


def sine(seeds: Iterable[int]) -> Measured:
    """Curves on the sin(x) problem."""
    found = {name: {0.0: [by_rule(word, network(s), ITERATIONS) for s in seeds]} for name, word in RULES.items()}
    for name, rates in RATES.items():
        found[name] = {rate: [by_gradient(name, rate, network(s), LONG) for s in seeds] for rate in rates}
    return found


def sine_table(found: Measured) -> list[str]:
    """Losses by iteration and by second, each at the rate that is best for it."""
    seconds = statistics.median(curve[-1][1] for curve in found["emsa, adaptive"][0.0])
    kinds: list[Callable[[Curve], float]] = [
        lambda c: at_iteration(c, 5),
        lambda c: at_iteration(c, ITERATIONS),
        lambda c: at_second(c, seconds),
        lambda c: increases(c[: ITERATIONS + 1]),
    ]
    lines = [
        f"| method | loss after 5 | loss after {ITERATIONS} | loss after {seconds:.1f} s | iterations that raised it |",
        "|---|---|---|---|---|",
    ]
    for name, curves in found.items():
        rates = [best(curves, value) for value in kinds[:3]]
        cells = [spread([value(c) for c in curves[r]]) for value, r in zip(kinds, [*rates, rates[1]], strict=True)]
        named = [f"{cell} at {rate:g}" if rate else cell for cell, rate in zip(cells, [*rates, 0], strict=True)]
        lines.append(f"| {name} | {' | '.join(named)} |")
    return lines


UNTIL = float(data()[1].square().mean()) / 2
"""Half the loss of the output zero."""


def flat(seeds: Iterable[int]) -> Measured:
    """Curves from the flat start until the loss has halved."""
    word = RULES["emsa, adaptive"]
    found = {"emsa, adaptive": {0.0: [by_rule(word, network(s, True), 100, UNTIL) for s in seeds]}}
    for name, rates in FLAT_RATES.items():
        found[name] = {r: [by_gradient(name, r, network(s, True), FLAT, UNTIL) for s in seeds] for r in rates}
    return found


def flat_table(found: Measured) -> list[str]:
    """Iterations and seconds until then, at the best rate."""
    lines = [f"| method | iterations until the loss is below {UNTIL:.2f} | seconds |", "|---|---|---|"]
    for name, curves in found.items():
        rate = best(curves, lambda c: len(c) - 1 if c[-1][0] < UNTIL else math.inf)
        left = [c for c in curves[rate] if c[-1][0] < UNTIL]
        counts = spread([len(c) - 1 for c in left]) if left else "none"
        never = len(curves[rate]) - len(left)
        missing = f", {never} of {len(curves[rate])} not in {len(max(curves[rate], key=len)) - 1}" if never else ""
        cells = [f"{name} at {rate:g}" if rate else name, counts + missing]
        lines.append(f"| {' | '.join(cells)} | {spread([c[-1][1] for c in left or curves[rate]])} |")
    return lines


def picture(found: Measured) -> Figure:
    """Median losses by iteration and by second, at the rate that is best after the last iteration of the rules."""
    figure, (left, right) = panel_grid(2, height=3.4)
    for index, (name, by_rate) in enumerate(found.items()):
        curves = by_rate[best(by_rate, lambda c: at_iteration(c, ITERATIONS))]
        dash = "--" if name in OPTIMIZERS else "-"
        style: dict[str, Any] = {"color": MODELS[index % len(MODELS)], "linestyle": dash, "label": name}
        middle = [statistics.median(at_iteration(c, n) for c in curves) for n in range(ITERATIONS + 1)]
        left.plot(range(ITERATIONS + 1), middle, **style)
        length = min(map(len, curves))
        when = [statistics.median(c[n][1] for c in curves) for n in range(length)]
        right.plot(when, [statistics.median(c[n][0] for c in curves) for n in range(length)], **style)
    left.set(title="median loss by iteration", xlabel="iteration", ylabel="loss", yscale="log")
    right.set(title="median loss by time", xlabel="processor seconds", ylabel="loss", yscale="log", xlim=(0, None))
    left.legend(fontsize=7, frameon=False)
    return figure


PARTS: dict[str, tuple[Callable[[Iterable[int]], Measured], Callable[[Measured], list[str]]]] = {
    "sine": (sine, sine_table),
    "flat": (flat, flat_table),
}


def main() -> None:
    """Prints the tables, or puts them between the marks of a file, and the picture into the folder beside it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=tuple(PARTS), help="one table alone")
    parser.add_argument("--seeds", type=int, default=10, help="how many seeds, from 0")
    parser.add_argument("--write", type=Path, help="a Markdown file with the marks of the tables")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"odeframe {odeframe.__version__}, torch {torch.__version__}")
    for part in PARTS if arguments.part is None else (arguments.part,):
        measure, table = PARTS[part]
        found = measure(range(arguments.seeds))
        lines = table(found)
        print("", *lines, sep="\n", flush=True)
        if arguments.write is not None:
            begin, end = MARKS
            put(arguments.write, (begin.format(part), end.format(part)), "\n".join(lines))
            if part == "sine":
                save(picture(found), arguments.write.parent / "figures" / "pontryagin.png")


if __name__ == "__main__":
    main()
