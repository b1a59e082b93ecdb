"""Particle flows against filters without training, on sequences not trained on: ``python -m benchmarks.filtering``."""

from __future__ import annotations

import argparse
import csv
import math
import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_diabetes
from torch import Tensor

import odeframe
from odeframe.likelihoods import Likelihood, likelihood_of
from odeframe.particle_filters import Weighted, one_pass_smc, sis_resampling
from odeframe.registry import word

PARTICLES, SEQUENCES, HELD_OUT = 256, 200, 10**6
"""Particles of every filter; sequences that filters are judged on; the seed that these are drawn by."""
FIGURES: list[Path] = []
"""Where pictures of the first seed go, if anywhere."""
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@dataclass
class Setting:
    """What is trained: data with their options, the flow's options, and the budget."""

    data: dict[str, Any]
    epochs: int
    flow: dict[str, Any] = field(default_factory=dict)
    dynamics: str = "affine_particle_field"
    learning_rate: float = 5e-3
    solver: Any = None


GAUSSIAN = Setting({"name": "gaussian_stream"}, 14)
FOUR = {"name": "gaussian_stream", "n": 4800, "ahead": 4}
GENERAL = Setting(FOUR, 14, {"hidden": 32, "depth": 1}, "particle_field", 1e-2)
LINEAR = Setting({"name": "linear_dynamical_system"}, 14)
MIXTURE = Setting(
    {"name": "mixture_stream", "n": 560},
    30,
    {"stage": 5, "hidden": 32},
    "particle_field",
    solver={"name": "rk4", "steps": 1},
)
FILE = Setting(
    {"name": "csv_stream", "columns": ["bmi", "bp", "target"], "length": 10},
    30,
    {"stage": 5},
    learning_rate=1e-2,
    solver={"name": "rk4", "steps": 1},
)


def train(setting: Setting, seed: int, task: Any = None, **flow: Any) -> tuple[Any, float]:
    """The trained module in evaluation mode, and the seconds it took."""
    torch.manual_seed(seed)
    architecture = {"name": "particle_flow", **setting.flow, **flow}
    data = word("data", {**setting.data, "seed": seed}).build()
    began = time.perf_counter()
    words = {"dynamics": setting.dynamics, "solver": setting.solver, "task": task}
    run = odeframe.compose(architecture, data, learning_rate=setting.learning_rate, **words)
    run.fit(max_epochs=setting.epochs, **QUIET)
    return run.module.eval(), time.perf_counter() - began


def learned(
    module: Any, particles: Tensor, observations: Tensor, advance: Callable[[Tensor], Tensor] | None = None
) -> list[Weighted]:
    """The flow applied to one observation after the other: equally weighted sets."""
    found = []
    for observation in observations.unbind(1):
        particles = particles if advance is None else advance(particles)
        particles = module.assimilate(particles.float(), observation.float()).double()
        weights = particles.new_full(particles.shape[:2], -math.log(particles.shape[1]))
        found.append(Weighted(particles, weights))
    return found


def untrained(particles: Tensor, observations: Tensor, likelihood: Likelihood, seed: int, advance: Any = None) -> Any:
    """The two filters without training, by name."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "one-pass SMC": one_pass_smc(particles, observations, likelihood, advance),
        "SIS with resampling": sis_resampling(particles, observations, likelihood, advance, generator),
    }


def errors(found: list[Weighted], mean: Tensor, covariance: Tensor, step: int) -> tuple[float, float]:
    """Root mean squares, over sequences and components, of mean and covariance against the truth after ``step``."""
    one = (found[step - 1].mean - mean[:, step - 1]).square().mean().sqrt()
    two = (found[step - 1].covariance - covariance[:, step - 1]).square().mean().sqrt()
    return float(one), float(two)


def unique(found: Weighted) -> float:
    """The mean share of different particles, over sets."""
    return sum(len(torch.unique(each, dim=0)) for each in found.particles) / found.particles.shape[:2].numel()


def table(filters: dict[str, list[Weighted]], truth: Any, steps: tuple[int, ...], seed: int) -> None:
    """Errors against the truth, and what is left of the particles."""
    print("| filter | seed | observations | error of mean | of covariance | different | effective |")
    print("|---|---|---|---|---|---|---|")
    for name, found in filters.items():
        for step in steps:
            one, two = errors(found, truth.mean, truth.covariance, step)
            share = float(found[step - 1].effective_size.mean()) / PARTICLES
            print(f"| {name} | {seed} | {step} | {one:.3f} | {two:.3f} | {unique(found[step - 1]):.2f} | {share:.2f} |")
    print(flush=True)


def gaussian(seed: int, general: bool = False) -> None:
    """Against the closed form; without the summary too, or a field that is not affine."""
    data = word("data", GAUSSIAN.data).build()
    truth = data.sequences(SEQUENCES, HELD_OUT)
    start = drawn(seed, torch.eye(2, dtype=torch.float64))
    filters = untrained(start, truth.observations, likelihood_of(data.likelihood()), seed)
    affine = (("affine flow", GAUSSIAN, {}), ("affine flow without summary", GAUSSIAN, {"summary": 0}))
    for name, setting, options in (("flow, 4 observations a sample", GENERAL, {}),) if general else affine:
        module, seconds = train(setting, seed, **options)
        filters[f"{name} ({seconds:.0f} s)"] = learned(module, start, truth.observations)
    table(filters, truth, (1, 5, 10, 20), seed)
    if not general:
        picture("gaussian", filters, truth, unnormalised(likelihood_of(data.likelihood()), torch.eye(2).double()))


def linear(seed: int) -> None:
    """Root mean square distance to the true states, beside the Kalman filter's."""
    data = word("data", LINEAR.data).build()
    truth = data.sequences(SEQUENCES, HELD_OUT)
    start = drawn(seed, torch.eye(2, dtype=torch.float64))
    generator = torch.Generator().manual_seed(seed + 1)
    moved = [False]

    def advance(particles: Tensor) -> Tensor:
        """No step before the first observation."""
        first, moved[0] = not moved[0], True
        return particles if first else data.advance(particles, generator)

    filters = {}
    for name in ("one-pass SMC", "SIS with resampling"):
        moved[0] = False
        filters[name] = untrained(start, truth.observations, likelihood_of(data.likelihood()), seed, advance)[name]
    module, seconds = train(LINEAR, seed)
    moved[0] = False
    filters[f"affine flow ({seconds:.0f} s)"] = learned(module, start, truth.observations, advance)
    means = {"Kalman filter": truth.mean, **{k: torch.stack([w.mean for w in v], 1) for k, v in filters.items()}}
    best = rms(truth.mean - truth.states)
    print("| filter | seed | error of the state | over the Kalman filter's |")
    print("|---|---|---|---|")
    for name, mean in means.items():
        value = rms(mean - truth.states)
        print(f"| {name} | {seed} | {value:.4f} | {100 * (value / best - 1):+.1f} % |")
    print(flush=True)


def mixture(seed: int) -> None:
    """What is kept of two modes of probability 1/2, where they are far apart."""
    data = word("data", MIXTURE.data).build()
    truth = data.sequences(SEQUENCES, HELD_OUT)
    start = drawn(seed, data.prior()[1])
    filters = untrained(start, truth.observations, likelihood_of(data.likelihood()), seed)
    module, seconds = train(MIXTURE, seed)
    filters[f"flow ({seconds:.0f} s)"] = learned(module, start, truth.observations)
    table(filters, truth, (1, 5, 10), seed)
    apart = truth.states[:, 0, 1].abs() > data.separation
    log_posterior = unnormalised(likelihood_of(data.likelihood()), data.prior()[1])
    picture("mixture", filters, truth, log_posterior, int(apart.nonzero()[0]))
    print(f"{int(apart.sum())} sequences with |x_2| > {data.separation:g}, after 10 observations\n")
    print("| filter | seed | least share of a mode, mean | sequences with both (10 % or more) |\n|---|---|---|---|")
    for name, found in filters.items():
        last = found[-1]
        share = (last.log_weights.exp() * (last.particles[..., 1] > 0)).sum(1)[apart]
        least = torch.minimum(share, 1 - share)
        print(f"| {name} | {seed} | {float(least.mean()):.2f} | {float((least >= 0.1).double().mean()):.2f} |")
    print(flush=True)


def file(seed: int) -> None:
    """A regression on a stream of 442 real patients, with a likelihood of one's own, against importance sampling."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "diabetes.csv"
        frame = load_diabetes(as_frame=True).frame
        with path.open("w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["bmi", "bp", "target"])
            writer.writerows(frame[["bmi", "bp", "target"]].to_numpy().tolist())
        FILE.data.update(path=str(path), likelihood=Patients())
        data = word("data", FILE.data).build()
        truth = data.sequences("test")
        start = drawn(seed, torch.eye(3, dtype=torch.float64), len(truth.observations))
        filters = untrained(start, truth.observations, Patients(), seed)
        task = odeframe.build("task", "filtering", likelihood=Patients())
        module, seconds = train(FILE, seed, task)
        filters[f"affine flow ({seconds:.0f} s)"] = learned(module, start, truth.observations)
        table(filters, truth, (1, 5, 10), seed)


class Patients(Likelihood):
    """``target ~ N(x_1 bmi + x_2 bp + x_3, 0.7^2)``, all standardised."""

    name = "patients"

    def log_prob(self, observation: Tensor, x: Tensor) -> Tensor:
        """The normal density of the residual."""
        fitted = (observation[..., :2] * x[..., :2]).sum(-1) + x[..., 2]
        return -0.5 * ((observation[..., 2] - fitted) / 0.7).square()


def drawn(seed: int, covariance: Tensor, count: int = SEQUENCES) -> Tensor:
    """Starting particles ``(count, PARTICLES, state)`` of a centred normal prior."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, PARTICLES, len(covariance), generator=generator, dtype=torch.float64)
    return noise @ torch.linalg.cholesky(covariance).t()


def picture(name: str, filters: dict[str, list[Weighted]], truth: Any, log_posterior: Any, sequence: int = 0) -> None:
    """Particles of every filter after the last of 10 observations, on the contours of the true posterior."""
    from odeframe.plots import panel_grid, save

    if not FIGURES:
        return
    figure, panels = panel_grid(len(filters), 3.2)
    for (label, found), axes in zip(filters.items(), panels, strict=True):
        axis = torch.linspace(-6, 6, 241, dtype=torch.float64)
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
        density = log_posterior(truth.observations[sequence, :10], grid).exp()
        axes.contour(axis, axis, density / density.max(), levels=[0.01, 0.1, 0.4, 0.8], colors="C1", linewidths=0.8)
        sizes = 3 * PARTICLES * found[9].log_weights[sequence].exp()
        axes.scatter(*found[9].particles[sequence].t(), s=sizes, color="C0", alpha=0.6, linewidths=0)
        axes.set_title(label.partition(" (")[0])
        axes.set(xlim=(-4, 4), ylim=(-4.5, 4.5), xlabel="$x_1$")
    panels[0].set_ylabel("$x_2$")
    save(figure, FIGURES[0] / f"filtering_{name}.png")


def unnormalised(likelihood: Likelihood, covariance: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """``log p(x | o_1..o_m)`` on a grid, its greatest value 0, of a centred normal prior."""
    prior = torch.distributions.MultivariateNormal(torch.zeros(len(covariance), dtype=torch.float64), covariance)

    def log_posterior(observations: Tensor, x: Tensor) -> Tensor:
        value = prior.log_prob(x) + sum(likelihood.log_prob(o, x) for o in observations)
        return value - value.max()

    return log_posterior


def rms(value: Tensor) -> float:
    """The root of the mean square."""
    return float(value.square().mean().sqrt())


def general(seed: int) -> None:
    """The same with a field that need not be affine."""
    gaussian(seed, general=True)


PARTS = {"gaussian": gaussian, "general": general, "mixture": mixture, "linear": linear, "file": file}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, help="one table alone")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, help="of every training, in place of its own")
    parser.add_argument("--figures", type=Path, help="a folder for pictures of the particles")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for setting in (GAUSSIAN, GENERAL, LINEAR, MIXTURE, FILE):
        setting.epochs = arguments.epochs or setting.epochs
    print(
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread, {PARTICLES} particles\n"
    )
    for name in [arguments.part] if arguments.part else PARTS:
        for index, seed in enumerate(arguments.seeds):
            FIGURES[:] = [arguments.figures] if arguments.figures and index == 0 else []
            print(f"## {name}, seed {seed}\n")
            PARTS[name](seed)


if __name__ == "__main__":
    main()
