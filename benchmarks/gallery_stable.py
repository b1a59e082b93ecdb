"""Pictures of docs/parts/architectures_stable.md: ``python -m benchmarks.gallery_stable docs/parts/figures``.

``--names`` draws some of them.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from odeframe import Flow, build, solve
from odeframe.drive import SequenceDrive
from odeframe.registry import word
from odeframe.specification import NetworkSpec

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def flow_of(choice: Any, width: int, **words: Any) -> Flow:
    """The flow of an architecture's network on vectors, in float64."""
    torch.manual_seed(0)
    return word("architecture", choice).build().build(NetworkSpec((width,), (2,)), **words).double().flows[0]


def path(flow: Flow, x0: Tensor, steps: int) -> Tensor:
    """The states after every step, ``(steps + 1, batch, *state)``."""
    times = torch.linspace(*flow.horizon, steps + 1, dtype=torch.float64)
    return flow.solve(x0, times).states.detach()


def antisymmetric(axes: Axes) -> None:
    """Distances of two states along depth, for one matrix and what is made of it."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(32, 32, generator=generator, dtype=torch.float64) / 32**0.5
    x = torch.randn(8, 32, generator=generator, dtype=torch.float64)
    y = x + 1e-6 * torch.randn(8, 32, generator=generator, dtype=torch.float64)
    times = torch.linspace(0, 20, 101, dtype=torch.float64)
    turned = weight - weight.t()
    identity = torch.eye(32, dtype=torch.float64)
    for label, matrix in (("$K$", weight), ("$K - K^T$", turned), ("$K - K^T - 0.1 I$", turned - 0.1 * identity)):
        found = [
            solve(lambda t, s, m=matrix: torch.tanh(s @ m.t()), v, times, "dopri5", rtol=1e-9).states for v in (x, y)
        ]
        axes.semilogy(times, (found[0] - found[1]).flatten(1).norm(dim=1) / (x - y).norm(), label=label)
    axes.set(title="antisymmetric: a distance along depth", xlabel="$t$", ylabel="amplification")


def hamiltonian(axes: Axes) -> None:
    """Phase portrait of one pair of halves: closed curves."""
    flow = flow_of({"name": "hamiltonian", "width": 2, "blocks": 400, "step": 0.1}, 2, control="constant")
    for radius in (0.5, 1.0, 1.5, 2.0):
        axes.plot(*path(flow, torch.tensor([[radius, 0.0]], dtype=torch.float64), 400)[:, 0].T, lw=1)
    axes.set(title="hamiltonian: nothing decays", xlabel="$y$", ylabel="$z$")


def midpoint(axes: Axes) -> None:
    """The start of a flow, found again from its end in single precision, by depth."""
    for name, label in (("midpoint", "midpoint"), ("hamiltonian", "hamiltonian"), ("leapfrog", "leapfrog")):
        depths, errors = [1, 3, 10, 30, 100, 300], []
        for depth in depths:
            flow = flow_of({"name": name, "width": 16, "blocks": depth, "step": 0.1}, 16).float()
            errors.append(float(taken_back(flow, torch.randn(8, 16, generator=torch.Generator().manual_seed(1)))))
        axes.loglog(depths, errors, ".-", label=label)
    axes.set(title="midpoint, hamiltonian, leapfrog: undone in float32", xlabel="blocks", ylabel="error of the start")


@torch.no_grad()
def taken_back(flow: Flow, x: Tensor) -> Tensor:
    """The largest error of the start after every step is undone."""
    field = flow.field()
    nodes = flow.solver.grid(field, flow.times(None)).nodes
    laws = [field.on(t, t_next, k) for k, (t, t_next) in enumerate(itertools.pairwise(nodes))]
    start, memory = x, laws[0].stepper(flow.solver).init(laws[0], nodes[0], x)
    steps = [(law, t, float(t_next - t)) for law, t, t_next in zip(laws, nodes, nodes[1:], strict=False)]
    for law, t, dt in steps:
        x, memory = law.stepper(flow.solver).step(law, t, dt, x, memory)
    for law, t, dt in reversed(steps):
        x, memory = law.stepper(flow.solver).reverse_step(law, t, dt, x, memory)
    return (x - start).abs().max()


def parabolic(axes: Axes) -> None:
    """Distance of two states along depth: heat contracts, waves do not."""
    x, y = torch.randn(2, 8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for name in ("parabolic", "hyperbolic"):
        flow = flow_of({"name": name, "width": 16, "blocks": 60, "step": 0.5}, 16)
        distance = (path(flow, x, 60) - path(flow, y, 60)).flatten(1).norm(dim=1)
        axes.plot(distance / distance[0], label=name)
    axes.set(title="parabolic and hyperbolic", xlabel="block", ylabel="distance of two states")


def hyperbolic(axes: Axes) -> None:
    """Phase portrait of one feature: closed curves, since ``|x'|^2 / 2 + log cosh(k x + b)`` is kept."""
    step = 0.1
    flow = flow_of({"name": "hyperbolic", "width": 1, "blocks": 400, "step": step}, 1, control="constant")
    with torch.no_grad():
        for parameter, value in zip(flow.parameters(), (1.0, 0.0), strict=True):
            parameter.fill_(value)
    for radius in (0.5, 1.0, 1.5, 2.0):
        x = path(flow, torch.tensor([[radius]], dtype=torch.float64), 400)[:, 0, 0]
        axes.plot(x[1:-1], (x[2:] - x[:-2]) / (2 * step), lw=1)
    axes.set(title="hyperbolic: energy is kept", xlabel="$x$", ylabel="$dx/dt$")


def leapfrog(axes: Axes) -> None:
    """The error of the end by the number of blocks, for this start from rest and for ``x_{-1} = x_0``."""
    torch.manual_seed(0)
    block = build("dynamics", "symmetric_mlp", width=8).double()
    x0, zero, length = torch.randn(4, 8, dtype=torch.float64), torch.zeros((), dtype=torch.float64), 2.0
    depths = [10, 30, 100, 300, 1000]
    flows = {n: Flow(block, solver={"name": "leapfrog", "steps": n}, horizon=(0.0, length)) for n in (*depths, 20000)}
    with torch.no_grad():
        exact = flows[20000](x0)
        ours, published = [float((flows[n](x0) - exact).norm()) for n in depths], []
        for n in depths:
            before = x = x0
            for _ in range(n):
                before, x = x, 2 * x - before + (length / n) ** 2 * block(zero, x)
            published.append(float((x - exact).norm()))
    axes.loglog(depths, published, ".-", label="from $x_{-1} = x_0$: order 1")
    axes.loglog(depths, ours, ".-", label="from rest: order 2")
    axes.set(title="leapfrog: a flow of length 2", xlabel="blocks", ylabel="error of the end")


def imexnet(axes: Axes) -> None:
    """What one pixel of the output sees of the input after one layer."""
    torch.manual_seed(0)
    block = build("dynamics", "imex_conv", width=1, compensate=True).double()
    flow = Flow(block, solver={"name": "imex_euler", "steps": 1})
    x = torch.randn(1, 1, 25, 25, dtype=torch.float64, requires_grad=True)
    (seen,) = torch.autograd.grad(flow(x)[0, 0, 12, 12], x)
    axes.imshow(seen[0, 0].abs().log10(), cmap="viridis")
    axes.set(title="imexnet: log10 of a pixel's gradient, one layer", xticks=[], yticks=[])


def opposed(width: int, steps: int) -> tuple[Tensor, float]:
    """The paths of -1 and 1 under a flow of ``width`` features trained on x -> -x, and its loss."""
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(width, 16), nn.Tanh(), nn.Linear(16, width)).double()
    flow = Flow(block, solver={"name": "rk4", "steps": steps})
    x0 = nn.functional.pad(torch.tensor([[-1.0], [1.0]], dtype=torch.float64), (0, width - 1))
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        loss = (flow(x0)[:, 0] + x0[:, 0]).square().mean()
        loss.backward()
        optimizer.step()
    return path(flow, x0, steps), loss.item()


def continuous(axes: Axes) -> None:
    """Two points that are to change places on the line: paths cannot cross, and meet at the mean."""
    states, loss = opposed(1, 40)
    for k in range(2):
        axes.plot(torch.linspace(0, 1, 41), states[:, k, 0], ".-")
    axes.set(title=f"neural_ode: x to -x, loss {loss:.2f}", xlabel="$t$", ylabel="$x$")


def augmented(axes: Axes) -> None:
    """Two points that change places on the line, by a way round in the plane."""
    states, loss = opposed(2, 20)
    for k, color in ((0, "C0"), (1, "C1")):
        axes.plot(*states[:, k].T, ".-", color=color)
        axes.plot(*states[-1, k], "o", color=color)
    axes.set(title=f"augmented_neural_ode: x to -x, loss {loss:.0e}", xlabel="$x$", ylabel="$a$")


def second_order(axes: Axes) -> None:
    """Positions that cross, since their velocities differ."""
    x0 = torch.tensor([[1.0, 0.0], [0.5, 0.0], [-0.5, 0.5]], dtype=torch.float64)
    times = torch.linspace(0, 6, 121, dtype=torch.float64)
    field = lambda t, s: torch.stack([s[:, 1], -s[:, 0] - 0.2 * s[:, 1]], dim=1)  # noqa: E731
    axes.plot(times, solve(field, x0, times, "dopri5").states[:, :, 0])
    axes.set(title="second_order_ode: positions cross", xlabel="$t$", ylabel="$x$")


def recurrent(axes: Axes) -> None:
    """Size of the gradient over the items of a sequence, from its end to its start."""
    for name, step in (("antisymmetric_cell", 0.05), ("elman_cell", 1.0)):
        torch.manual_seed(0)
        flow = Flow(
            build("dynamics", name, width=32, inputs=1).double(),
            solver={"name": "euler", "steps": 400},
            horizon=(0.0, 400 * step),
        )
        drive = SequenceDrive(torch.randn(16, 400, 1, dtype=torch.float64), flow.horizon)
        p, norms = torch.randn(16, 32, dtype=torch.float64), []
        states = path_driven(flow, drive)
        field = flow.field(drive)
        for k in range(399, -1, -1):
            t, t_next = (torch.tensor(i * step, dtype=torch.float64) for i in (k, k + 1))
            h = states[k].detach().requires_grad_(True)
            (p,) = torch.autograd.grad((h + step * field.on(t, t_next, k)(t, h)).mul(p).sum(), h)
            norms.append(float(p.norm()))
        axes.semilogy(range(399, -1, -1), norms, label=name)
    axes.set(title="antisymmetric_rnn: gradient through 400 items", xlabel="item", ylabel="$|dJ/dh_k|$")


@torch.no_grad()
def path_driven(flow: Flow, drive: SequenceDrive) -> Tensor:
    """The hidden states, ``(401, 16, 32)``."""
    times = torch.linspace(*flow.horizon, 401, dtype=torch.float64)
    return flow.solve(torch.zeros(16, 32, dtype=torch.float64), times, drive=drive).states


def pdenet(axes: Axes) -> None:
    """Coefficients found from noisy solutions, beside the true ones."""
    data = build("data", "convection_diffusion", n=60)
    x, y = (each.double() for each in data.dataset("train").tensors)
    network = build("architecture", "pdenet").build(NetworkSpec((1, 32, 32), (4, 1, 32, 32), interval=0.03)).double()
    optimizer = torch.optim.LBFGS(network.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (network(x) - y).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    (block,) = (m for m in network.modules() if hasattr(m, "named_coefficients"))
    found = block.named_coefficients()
    places = range(len(found))
    axes.bar([p - 0.2 for p in places], [0.0, 0.8, -0.6, 0.2, 0.0, 0.2], 0.4, label="true")
    axes.bar([p + 0.2 for p in places], list(found.values()), 0.4, label="found")
    axes.set(title="pdenet: coefficients", xticks=list(places), xticklabels=[f"$c_{{{i}{j}}}$" for i, j in found])


PICTURES: dict[str, Callable[[Axes], None]] = {
    "antisymmetric": antisymmetric,
    "hamiltonian": hamiltonian,
    "midpoint": midpoint,
    "parabolic": parabolic,
    "hyperbolic": hyperbolic,
    "leapfrog": leapfrog,
    "imexnet": imexnet,
    "neural_ode": continuous,
    "augmented_neural_ode": augmented,
    "second_order_ode": second_order,
    "antisymmetric_rnn": recurrent,
    "pdenet": pdenet,
}


def main() -> None:
    """Writes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--names", default=",".join(PICTURES))
    given = parser.parse_args()
    folder = given.folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in given.names.split(","):
        draw = PICTURES[name]
        figure, axes = plt.subplots(figsize=(4.5, 3.2), layout="constrained")
        draw(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
        figure.savefig(folder / f"stable_{name}.png", dpi=80)
        plt.close(figure)
        print(folder / f"stable_{name}.png")


if __name__ == "__main__":
    main()
