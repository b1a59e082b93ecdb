"""Pictures of docs/parts/architectures_found.md: ``python -m benchmarks.gallery_found docs/parts/figures``."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

import odeframe
from odeframe import Flow, Noise
from odeframe.registry import word
from odeframe.specification import NetworkSpec
from odeframe_plugins.architectures.fractalnet import column

matplotlib.use("Agg")
from matplotlib import pyplot as plt

PLANE = NetworkSpec((2,), (2,))


def flow_of(choice: Any, seed: int = 0, **words: Any) -> Flow:
    """The first flow of an architecture's network on vectors of two features, in float64."""
    torch.manual_seed(seed)
    return word("architecture", choice).build().build(PLANE, **words).double().eval().flows[0]


def swirl() -> nn.Module:
    """``x' = A tanh(x)``, a turn with a little decay."""
    turn = nn.Linear(2, 2, bias=False)
    turn.weight.data = torch.tensor([[-0.15, -1.0], [1.0, -0.15]])
    return nn.Sequential(nn.Tanh(), turn)


def path(flow: Flow, x0: Tensor, noise: Noise | None = None) -> Tensor:
    """The states after every step, ``(steps + 1, batch, *state)``."""
    times = torch.linspace(*flow.horizon, (flow.solver.steps or 1) + 1, dtype=torch.float64)
    return flow.solve(x0, times, noise=noise).states.detach()


def start(*rows: tuple[float, float]) -> Tensor:
    """Initial states."""
    return torch.tensor(rows, dtype=torch.float64)


def resnet(axes: Axes) -> None:
    """Euler's steps along the flow of one block, as they get shorter."""
    for blocks in (6, 12, 24, 96):
        words = {"dynamics": swirl(), "control": "constant"}
        flow = flow_of({"name": "resnet", "width": 2, "blocks": blocks, "step": 6 / blocks}, **words)
        states = path(flow, start((1.5, 0.0)))[:, 0]
        axes.plot(*states.T, ".-" if blocks < 96 else "-", lw=1, label=f"{blocks} blocks of {6 / blocks:g}")
    axes.set(title="resnet: blocks are steps", xlabel="$x_1$", ylabel="$x_2$")


def projected_resnet(axes: Axes) -> None:
    """The same blocks with the projection and without it."""
    words = {"dynamics": swirl(), "control": "constant"}
    for name, style in (("resnet", "C0.-"), ("projected_resnet", "C1.-")):
        flow = flow_of({"name": name, "width": 2, "blocks": 60, "step": 0.1}, **words)
        for k, x0 in enumerate(((1.5, 0.2), (0.8, 0.6))):
            axes.plot(*path(flow, start(x0))[:, 0].T, style, lw=1, ms=3, label=name if k == 0 else None)
    axes.axhline(0, color="k", lw=0.5)
    axes.axvline(0, color="k", lw=0.5)
    axes.set(title="projected_resnet: held in $x \\geq 0$", xlabel="$x_1$", ylabel="$x_2$")


def polynet(axes: Axes) -> None:
    """The distance of a step to backward Euler's, for a linear block."""
    steps = [0.4 / 2**k for k in range(7)]
    for name, form in (("resnet", None), ("polynet", "poly2"), ("polynet", "poly3")):
        errors = []
        for h in steps:
            choice = {"name": name, "width": 2, "blocks": 1, "step": h, **({} if form is None else {"form": form})}
            flow = flow_of(choice, dynamics=nn.Linear(2, 2, bias=False))
            A, x = flow.dynamics.module.weight.detach(), start((1.0, -0.5))
            exact = torch.linalg.solve(torch.eye(2).double() - h * A, x.T).T
            errors.append(float((flow(x).detach() - exact).norm()))
        axes.loglog(steps, errors, ".-", label=form or "resnet (euler)")
    axes.set(title="polynet: distance to $(I - hA)^{-1}x$", xlabel="h", ylabel="distance")


def fractalnet(axes: Axes) -> None:
    """What each column does alone, and all of them together, epoch by epoch."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        run = odeframe.compose(architecture="fractalnet", data="digits", output=folder)
        run.data.setup("fit")
        batches = list(run.data.val_dataloader())
        x, y = (torch.cat([batch[k] for batch in batches]) for k in (0, 1))
        curves = _column_accuracies(run, x, y)
    for label, curve in curves.items():
        axes.plot(range(1, len(curve) + 1), curve, ".-", label=label)
    axes.set(title="fractalnet: columns trained along", xlabel="epoch", ylabel="validation accuracy")


def _column_accuracies(run: Any, x: Tensor, y: Tensor) -> dict[str, list[float]]:
    from pytorch_lightning.callbacks import Callback

    curves: dict[str, list[float]] = {f"column {j}": [] for j in range(3)} | {"all": []}

    class Watch(Callback):
        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.sanity_checking:
                return
            networks = {f"column {j}": column(pl_module.network, j) for j in range(3)} | {"all": pl_module.network}
            for label, network in networks.items():
                curves[label].append(float((network(x).argmax(1) == y).float().mean()))

    run.fit(max_epochs=6, callbacks=[Watch()], enable_progress_bar=False, logger=False, enable_checkpointing=False)
    return curves


def revnet(axes: Axes) -> None:
    """What is left of a state after many steps forth and back."""
    depths = (1, 3, 10, 30, 100, 300)
    for name in ("revnet", "momentum"):
        for dtype, style in ((torch.float32, "-"), (torch.float64, "--")):
            errors = [max(_there_and_back(name, depth, dtype), 1e-17) for depth in depths]
            axes.loglog(depths, errors, "." + style, label=f"{name}, {str(dtype).removeprefix('torch.')}")
    axes.set(title="revnet: steps taken back, $h = 0.1$", xlabel="blocks", ylabel="error of $x_0$")


def _there_and_back(name: str, blocks: int, dtype: torch.dtype) -> float:
    torch.manual_seed(0)
    recipe = word("architecture", {"name": name, "width": 16, "blocks": blocks, "step": 0.1}).build()
    flow = recipe.build(NetworkSpec((6,), (3,))).to(dtype).flows[0]
    x0 = torch.randn(8, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    nodes = torch.linspace(*flow.horizon, blocks + 1, dtype=torch.float64)
    laws = [flow.field().on(nodes[k], nodes[k + 1], k) for k in range(blocks)]
    with torch.no_grad():
        x, memory = x0, flow.solver.init(laws[0], nodes[0], x0)
        for law in laws:
            x, memory = flow.solver.step(law, law.t, 0.1, x, memory)
        for law in reversed(laws):
            x, memory = flow.solver.reverse_step(law, law.t, 0.1, x, memory)
    return float((x - x0).abs().max())


def lm_resnet(axes: Axes) -> None:
    """The coefficients that training finds."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        choice = {"name": "lm_resnet", "blocks": 6}
        run = odeframe.compose(architecture=choice, data="digits", output=folder)

        def coefficients() -> list[float]:
            pieces = [piece for flow in run.module.network.flows for piece in flow.control.blocks]
            return [float(piece.solver.k.detach()) for piece in pieces]

        before = coefficients()
        run.fit(max_epochs=10, enable_progress_bar=False, logger=False, enable_checkpointing=False)
    axes.plot(range(1, 13), before, ".--", label="fresh")
    axes.plot(range(1, 13), coefficients(), ".-", label="after 10 epochs on digits")
    axes.axvline(6.5, color="k", lw=0.5)
    axes.set(title="lm_resnet: $k_n$ (zero-stable in $(-1, 1)$)", xlabel="block", ylabel="$k_n$")


def rknet(axes: Axes) -> None:
    """The error against the flow of the block, as steps get shorter."""
    x0, counts = start((1.5, 0.0)), (4, 8, 16, 32, 64)
    exact = Flow(swirl().double(), solver={"name": "rk4", "steps": 2000}, horizon=(0.0, 4.0))(x0).detach()
    for order in (1, 2, 3, 4):
        errors = []
        for blocks in counts:
            choice: dict[str, Any] = {"name": "resnet", "width": 2, "blocks": blocks, "step": 4 / blocks}
            if order > 1:
                choice |= {"name": "rknet", "order": order}
            flow = flow_of(choice, dynamics=swirl(), control="constant")
            errors.append(float((flow(x0).detach() - exact).norm()))
        axes.loglog(counts, errors, ".-", label="resnet" if order == 1 else f"order={order}")
    axes.set_xscale("log", base=2)
    axes.set(title="rknet: error at the end", xlabel="blocks", ylabel="error")


def stochastic_depth(axes: Axes) -> None:
    """A feature through depth, for many draws and in the mean."""
    words = {"dynamics": swirl(), "control": "constant"}
    flow = flow_of({"name": "stochastic_depth", "width": 2, "blocks": 24, "step": 0.25}, **words)
    x0 = start((1.5, 0.0)).expand(40, 2)
    axes.plot(path(flow, x0, Noise(1))[:, :, 0], "C0-", lw=0.4)
    axes.plot(path(flow, x0[:1])[:, 0, 0], "C1-", lw=2, label="evaluation")
    axes.set(title="stochastic_depth: 40 draws", xlabel="block", ylabel="$x_1$")


def shake_shake(axes: Axes) -> None:
    """Many draws of the mixture of two branches, and their mean."""
    words = {"dynamics": {"name": "branched_mlp", "hidden": 8}, "control": "constant"}
    flow = flow_of({"name": "shake_shake", "width": 2, "blocks": 24, "step": 0.25}, seed=4, **words)
    x0 = start((1.5, 0.0)).expand(24, 2)
    axes.plot(*path(flow, x0, Noise(1)).permute(2, 0, 1), "C0-", lw=0.4)
    axes.plot(*path(flow, x0[:1])[:, 0].T, "C1-", lw=2, label="evaluation")
    axes.set(title="shake_shake: 24 draws", xlabel="$x_1$", ylabel="$x_2$")


def momentum(axes: Axes) -> None:
    """States on a line through depth: paths of a ResNet do not cross, those of a momentum network may."""
    x0 = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    solvers: tuple[dict[str, Any], ...] = ({"name": "euler"}, {"name": "momentum", "gamma": 0.9})
    for solver, style in zip(solvers, ("C0-", "C1-"), strict=True):
        flow = Flow(Contracting(), solver={**solver, "steps": 60}, horizon=(0.0, 6.0))
        axes.plot(path(flow, x0)[:, :, 0], style, lw=0.8)[0].set_label(solver["name"])
    axes.set(title="momentum: paths may cross", xlabel="block", ylabel="x")


class Contracting(odeframe.Dynamics):
    """``x' = -3 x``."""

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """``-3 x``."""
        return -3 * x


PICTURES: tuple[Callable[[Axes], None], ...] = (
    *(resnet, projected_resnet, polynet, fractalnet, revnet, lm_resnet, rknet),
    *(stochastic_depth, shake_shake, momentum),
)


def main() -> None:
    """Writes ``found_<name>.png`` for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for picture in PICTURES:
        if given.only and picture.__name__ not in given.only.split(","):
            continue
        figure, axes = plt.subplots(figsize=(4.4, 3.2), layout="constrained")
        picture(axes)
        axes.legend(fontsize=8)
        file = given.folder / f"found_{picture.__name__}.png"
        figure.savefig(file, dpi=90)
        plt.close(figure)
        print(f"{file}  {file.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
