"""Time of solves against torchdiffeq 0.2.5, as a table in Markdown: ratios of medians from interleaved repeats.

    python -m benchmarks.solvers [--write docs/parts/speed.md] [--repeats 15] [--compile] [--dimensions 2 64 512 4096]

The field is Linear(d, 2d), tanh, Linear(2d, d) on a batch of 128 in float32, one thread.  dopri5 crosses (0, 1) at
rtol = atol = 1e-5, rk4 takes 20 steps.  "Floor" is the number of evaluations times one evaluation.  The second table is
a forward and a backward pass of dopri5, loss = sum of squares at the end.  Times are of the processor, since other
processes may share the machine.  At d above 1024 an evaluation takes half a second: dopri5 goes forward alone there.

    python -O -m benchmarks.solvers --pole [--rtol 1e-3] [NAME ...]

says how every adaptive solver, and implicit ones of 200 steps, end on ``y' = y^2`` past its pole, and in what time.
Where diffrax is installed (``pip install diffrax``), ``--diffrax`` times its jitted dopri5 beside the compiled one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torchdiffeq
from torch import nn

import odeframe
from odeframe import Flow

BATCH, STEPS, TOLERANCE = 128, 20, 1e-5
LARGE = 1024  # state sizes above are timed by few repeats of dopri5


class Block(nn.Module):
    """``f(t, x) = W2 tanh(W1 x + b1) + b2``."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(d, 2 * d), nn.Tanh(), nn.Linear(2 * d, d))

    def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """``dx/dt``."""
        return self.net(x)


class Counted(nn.Module):
    """A block that counts its calls, for torchdiffeq."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block, self.calls = block, 0

    def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """``dx/dt``."""
        self.calls += 1
        return self.block(t, x)


def medians(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The median time of each run in milliseconds; one repeat of all after the other, so that load hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
        if repeats > 3:
            run()
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.process_time()
            run()
            times[name].append((time.process_time() - start) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def solvers(compiled: bool) -> dict[str, dict[str, object]]:
    """The solvers of ours that are timed."""
    words: dict[str, dict[str, object]] = {
        "dopri5": {"name": "dopri5", "rtol": TOLERANCE, "atol": TOLERANCE},
        "rk4": {"name": "rk4", "steps": STEPS},
    }
    if compiled:
        words |= {f"{name}, compiled": {**word, "compile": True} for name, word in tuple(words.items())}
    return words


def rows(d: int, repeats: int, compiled: bool) -> list[str]:
    """The lines of one state size."""
    torch.manual_seed(0)
    block, x0 = Block(d), torch.randn(BATCH, d)
    methods, repeats, evaluations = (
        (("dopri5", "rk4"), repeats, 20) if d <= LARGE else (("dopri5",), min(repeats, 3), 2)
    )
    words = {name: word for name, word in solvers(compiled).items() if word["name"] in methods}
    flows = {name: Flow(block, solver=word) for name, word in words.items()}
    times = torch.tensor([0.0, 1.0])
    counted = Counted(block)

    def theirs(method: str, **options: object) -> Callable[[], object]:
        return lambda: torchdiffeq.odeint(counted, x0, times, method=method, **options)

    runs: dict[str, Callable[[], object]] = {name: (lambda f=flow: f(x0)) for name, flow in flows.items()}
    runs["torchdiffeq dopri5"] = theirs("dopri5", rtol=TOLERANCE, atol=TOLERANCE)
    if "rk4" in methods:
        runs["torchdiffeq rk4"] = theirs("rk4", options={"step_size": 1 / STEPS})
    runs["evaluation"] = lambda: [block(times[0], x0) for _ in range(evaluations)]
    with torch.no_grad():
        found = medians(runs, repeats)
        counts = {}
        for method in methods:
            counted.calls = 0
            runs[f"torchdiffeq {method}"]()
            counts[f"torchdiffeq {method}"] = counted.calls
    counts |= {name: flow.stats.nfe for name, flow in flows.items()}
    one = found["evaluation"] / evaluations
    lines = []
    for name, count in counts.items():
        base = found["torchdiffeq dopri5" if "dopri5" in name else "torchdiffeq rk4"]
        ms = found[name]
        lines.append(f"| {d} | {name} | {count} | {ms:.2f} | {ms / base:.2f} | {ms / (count * one):.2f} |")
    return lines


GRADIENTS = ("backprop", "adjoint", "interpolated_adjoint", "checkpoint")


def gradient_rows(d: int, repeats: int) -> list[str]:
    """The lines of one state size, with a backward pass."""
    torch.manual_seed(0)
    block, start, times = Block(d), torch.randn(BATCH, d), torch.tensor([0.0, 1.0])
    word = {"name": "dopri5", "rtol": TOLERANCE, "atol": TOLERANCE}
    flows = {f"`{name}`": Flow(block, solver=word, gradient=name) for name in GRADIENTS}

    def passes(forward: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], object]:
        def run() -> None:
            block.zero_grad()
            forward(start.clone().requires_grad_(True)).square().sum().backward()

        return run

    def theirs(solve: Callable[..., torch.Tensor]) -> Callable[[], object]:
        options = {"rtol": TOLERANCE, "atol": TOLERANCE, "method": "dopri5"}
        return passes(lambda x0: solve(block, x0, times, **options)[-1])

    runs = {name: passes(flow) for name, flow in flows.items()}
    runs["torchdiffeq odeint_adjoint"] = theirs(torchdiffeq.odeint_adjoint)
    runs["torchdiffeq odeint"] = theirs(torchdiffeq.odeint)
    found = medians(runs, repeats)
    base = found["torchdiffeq odeint_adjoint"]
    counts = {name: f"{flow.stats.nfe} + {flow.stats.nfe_backward}" for name, flow in flows.items()}
    return [f"| {d} | {name} | {counts.get(name, '')} | {ms:.2f} | {ms / base:.2f} |" for name, ms in found.items()]


def diffrax_rows(d: int, repeats: int) -> list[str]:
    """The lines of one state size beside diffrax, both compiled."""
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    try:
        import diffrax
        import jax
    except ImportError as error:
        raise SystemExit(f"diffrax is not installed ({error}); write pip install diffrax") from error
    torch.manual_seed(0)
    block, x0 = Block(d), torch.randn(BATCH, d)
    first, _, last = block.net
    weights = [jax.numpy.asarray(v.detach().numpy()) for v in (first.weight, first.bias, last.weight, last.bias)]

    def field(t: object, x: jax.Array, args: list[jax.Array]) -> jax.Array:
        w1, b1, w2, b2 = args
        return jax.numpy.tanh(x @ w1.T + b1) @ w2.T + b2

    @jax.jit
    def solve(x: jax.Array, args: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
        found = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Dopri5(),
            0.0,
            1.0,
            None,
            x,
            args,
            stepsize_controller=diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE),
        )
        return found.ys[-1], found.stats["num_steps"]

    start = jax.numpy.asarray(x0.numpy())
    words = {name: word for name, word in solvers(True).items() if "dopri5" in name}
    flows = {name: Flow(block, solver=word) for name, word in words.items()}
    runs: dict[str, Callable[[], object]] = {name: (lambda f=flow: f(x0)) for name, flow in flows.items()}
    runs["diffrax Dopri5, jitted"] = lambda: jax.block_until_ready(solve(start, weights))
    with torch.no_grad():
        found = medians(runs, repeats)
        apart = float((torch.tensor(solve(start, weights)[0].tolist()) - flows["dopri5"](x0)).abs().max())
    counts = {name: str(flow.stats.nfe) for name, flow in flows.items()}
    counts["diffrax Dopri5, jitted"] = f"{int(solve(start, weights)[1])} steps, {apart:.0e} apart"
    base = found["diffrax Dopri5, jitted"]
    return [f"| {d} | {name} | {counts[name]} | {ms:.2f} | {ms / base:.2f} |" for name, ms in found.items()]


#: Words of adaptive solvers, and of implicit ones on a grid: those whose time at a pole is not plain.
AT_A_POLE: tuple[dict[str, object], ...] = (
    *({"name": name} for name in ("bosh3", "dopri5", "tsit5", "dopri8", "dop853", "sdirk4", "radau")),
    *({"name": name, "per_sample": True} for name in ("bosh3", "dopri5", "sdirk4", "radau")),
    *({"name": name, "steps": 200} for name in ("rk4", "implicit_euler", "trapezoid", "implicit_midpoint")),
    *({"name": "torchdiffeq", "method": name} for name in ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")),
    *({"name": "torchode", "method": name} for name in ("dopri5", "tsit5", "heun")),
    *({"name": "scipy", "method": name} for name in ("RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA")),
)


def pole(names: list[str], rtol: float | None) -> None:
    """Prints how solves end at a pole, in float64; seconds are of the processor, which the first line measures too."""
    start = time.process_time()
    sum(range(10_000_000))
    print(f"`sum(range(10_000_000))`: {time.process_time() - start:.2f} s\n")
    print("| solver | status | steps taken / rejected | evaluations | s |\n|---|---|---|---|---|")
    x0 = torch.tensor([[1.0], [0.25]], dtype=torch.float64)
    for word in AT_A_POLE:
        if names and word["name"] not in names:
            continue
        seconds, chosen = [], dict(word) if rtol is None or "steps" in word else {**word, "rtol": rtol}
        for _ in range(2):  # the first one imports
            start = time.process_time()
            found = odeframe.solve(lambda t, x: x * x, x0, (0.0, 2.0), chosen, on_failure="return")
            seconds.append(time.process_time() - start)
        stats, name = found.stats, ", ".join(str(v) if k != "per_sample" else k for k, v in word.items())
        counts = f"{stats.accepted} / {stats.rejected} | {stats.nfe}"
        print(f"| {name} | {found.status.name} | {counts} | {min(seconds):.2f} |", flush=True)


def main() -> None:
    """Prints the table, or writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="the page whose part from '## Measured' on is replaced")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--compile", action="store_true", help="also with compile=True")
    parser.add_argument("--dimensions", type=int, nargs="*", default=[2, 64, 512, 4096])
    parser.add_argument("--pole", nargs="*", metavar="NAME", help="how solves end at a pole, of these solvers or all")
    parser.add_argument("--rtol", type=float, help="of --pole, in place of the defaults")
    parser.add_argument("--diffrax", action="store_true", help="beside diffrax, and nothing else")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.pole is not None:
        return pole(arguments.pole, arguments.rtol)
    if arguments.diffrax:
        print("| d | solver | evaluations | ms | over diffrax |\n|---|---|---|---|---|")
        for d in arguments.dimensions:
            print("\n".join(diffrax_rows(d, arguments.repeats)), flush=True)
        return None
    warnings.filterwarnings("default", module="odeframe")
    lines = [line for d in arguments.dimensions for line in rows(d, arguments.repeats, arguments.compile)]
    small = [d for d in arguments.dimensions if d <= LARGE]
    gradients = [line for d in small for line in gradient_rows(d, arguments.repeats)]
    flag = " --compile" if arguments.compile else ""
    text = "\n".join(
        [
            "## Measured",
            "",
            f"`python -m benchmarks.solvers{flag} --repeats {arguments.repeats}`, torch "
            f"{torch.__version__.split('+')[0]}, one thread, processor time, medians of {arguments.repeats} "
            f"interleaved repeats (at most 3 at d above {LARGE}):",
            "",
            "| d | solver | evaluations | ms | over torchdiffeq | over the floor |",
            "|---|---|---|---|---|---|",
            *lines,
            "",
            "| d | forward and backward, dopri5 | evaluations | ms | over odeint_adjoint |",
            "|---|---|---|---|---|",
            *gradients,
            "",
        ]
    )
    if arguments.write is None:
        print(text)
        return None
    page = arguments.write.read_text("utf-8") if arguments.write.exists() else "# Speed\n\n"
    arguments.write.write_text(page.split("## Measured")[0] + text, "utf-8")
    return None


if __name__ == "__main__":
    main()
