"""Recurrent networks on digits that they have to keep through 392 items of noise, learned from short noise to long.

The 8 rows of a digit and then noise, 400 items.  A network is trained on 16 items first, then on 32, and so on: its
weights do not depend on the length.  Each pass has other noise, so that it cannot be learned in place of the digits.
The objective of the antisymmetric networks has the running cost ``jacobian_frobenius``.

python -m benchmarks.padded_digits --networks gated --seeds 0,1,2,3,4 --write docs/parts/architectures_stable.md
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.page import put_rows
from odeframe import build
from odeframe.specification import NetworkSpec

STAGES = ((16, 20), (32, 10), (64, 8), (128, 6), (256, 6), (400, 10))
"""Items, and how often each digit is seen with so many."""

WEIGHT = 0.005
"""Of the running cost.  Chosen with seed 3, by the accuracy on validation data."""

LOOKED_AT = (0, 8, 32, 128)
"""Items before which a gradient is measured: it changes as long as the network still reads, so early."""

MARKS = ("<!-- padded digits: begin -->", "<!-- padded digits: end -->")
HEADER = f"| network | seed | test accuracy | dJ/dh_k over dJ/dh_T, k = {', '.join(map(str, LOOKED_AT))} | seconds |"


class LSTM(nn.Module):
    """torch's, with a linear head on its last state."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.cells, self.head = nn.LSTM(8, width, batch_first=True), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(batch, 10)`` of sequences ``(batch, length, 8)``."""
        return self.head(self.cells(x)[0][:, -1])


def network(name: str, length: int, step: float) -> nn.Module:
    """The network for sequences of so many items."""
    if name == "lstm":
        return LSTM()
    spec = NetworkSpec((length, 8), (10,))
    if name in ("gated", "ungated"):
        options = {"gated": name == "gated", "gamma": 0.0, "width": 64, "step": step}
        return build("architecture", "antisymmetric_rnn", **options).build(spec)
    return build("architecture", "antisymmetric_rnn", step=1.0, width=64).build(spec, dynamics="elman_cell")


def cell_of(model: nn.Module) -> nn.Module | None:
    """The antisymmetric cell of a network, if it has one."""
    return next((each for each in model.modules() if hasattr(each, "gamma")), None)


def jacobian_cost(cell: nn.Module, states: Tensor, items: Tensor, step: float) -> Tensor:
    """``integral |df/dh|_F^2 dt`` along Euler's steps, the mean of a batch: ``jacobian_frobenius`` in closed form.

    ``df/dh = diag(s) A`` with ``A = W - W^T - gamma I`` and ``s = tanh'``, or ``(sigmoid tanh)'`` with a gate.

    Args:
        cell: the antisymmetric cell.
        states: ``h_0`` to ``h_T``, ``(length + 1, batch, width)``.
        items: the sequences ``(batch, length, features)``.
        step: of Euler's scheme.
    """
    weight, w = cell.operator.weight, items.transpose(0, 1)
    matrix = weight - weight.t() - cell.gamma * torch.eye(len(weight), dtype=weight.dtype)
    turned = states[:-1] @ matrix.t()
    value = torch.tanh(turned + cell.read(w))
    slope = 1 - value**2
    if cell.gate is not None:
        gate = torch.sigmoid(turned + cell.gate(w))
        slope = gate * slope + value * gate * (1 - gate)
    return step * ((slope**2).mean(dim=1).sum(dim=0) * (matrix**2).sum(dim=1)).sum()


def objective(model: nn.Module, x: Tensor, y: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """The loss, and the loss with the running cost of that weight."""
    cell = cell_of(model)
    if cell is None or not weight:
        loss = nn.functional.cross_entropy(model(x), y)
        return loss, loss
    flow, (h, drive) = model.get_submodule("stages.flow"), model.get_submodule("stages.stem")(x)
    start, end = flow.horizon
    states = flow.solve(h, torch.linspace(start, end, x.shape[1] + 1, dtype=torch.float64), drive=drive).states
    loss = nn.functional.cross_entropy(model.get_submodule("stages.head")(states[-1]), y)
    return loss, loss + weight * jacobian_cost(cell, states, x, (end - start) / x.shape[1])


def train(model: nn.Module, length: int, copies: int, rate: float, weight: float = 0.0) -> float:
    """Once through the copies of each digit; returns the mean loss of the last tenth."""
    data = build("data", "digits_rows", per_step=8, length=length, copies=copies, seed=length)
    x, y = data.dataset("train").tensors
    batches = torch.randperm(len(x)).split(64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=len(batches), pct_start=0.1)
    losses = []
    for rows in batches:
        optimizer.zero_grad()
        loss, whole = objective(model, x[rows], y[rows], weight)
        whole.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


@torch.no_grad()
def accuracy(model: nn.Module, length: int, split: str = "test") -> float:
    """Of a split."""
    x, y = build("data", "digits_rows", per_step=8, length=length).dataset(split).tensors
    return float((model(x).argmax(dim=1) == y).float().mean())


def path(model: nn.Module, x: Tensor) -> list[Tensor]:
    """``h_0`` to ``h_T``, each ``(batch, width)`` and made of the one before."""
    flow, (h, drive) = model.get_submodule("stages.flow"), model.get_submodule("stages.stem")(x)
    states, z = [h.requires_grad_()], (h, *drive.tensors)
    for step in flow.steps(drive):
        z = step(z)
        states.append(z[0])
    return [states[0], *states[2:]]  # the starter leaves the state as it is


def kept(model: nn.Module, length: int, split: str = "test") -> list[float]:
    """|dJ/dh_k| / |dJ/dh_T| of a trained flow for some k, ``J = p h_T`` with a random ``p``, on 64 sequences."""
    x = build("data", "digits_rows", per_step=8, length=length).dataset(split).tensors[0][:64]
    states = path(model, x)
    p = torch.randn_like(states[-1])
    gradients = torch.autograd.grad((states[-1] * p).sum(), [states[k] for k in LOOKED_AT])
    return [float(gradient.norm() / p.norm()) for gradient in gradients]


def measured(name: str, seed: int, given: argparse.Namespace) -> tuple[nn.Module, str]:
    """A network after all stages, and its row; the way there as lines that Markdown does not show."""
    torch.manual_seed(seed)
    stages = ((400, round(sum(length * copies for length, copies in STAGES) / 400)),) if given.direct else STAGES
    model, start = network(name, stages[0][0], given.step), time.process_time()
    for length, copies in stages:
        model, before = network(name, length, given.step), model
        model.load_state_dict(before.state_dict())
        loss = train(model, length, copies, given.rate, given.weight)
        print(f"<!-- {name} {length} items: loss {loss:.3f}, val {accuracy(model, length, 'val'):.3f} -->", flush=True)
    seconds, test = time.process_time() - start, accuracy(model, 400)
    sizes = "not measured" if name == "lstm" else ", ".join(f"{size:.2g}" for size in kept(model, 400))
    return f"| `{name}` | {seed} | {test:.3f} | {sizes} | {seconds:.0f} |"


def main() -> None:
    """A row a network and seed, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", default="gated,plain,lstm")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--step", type=float, default=0.5, help="of the antisymmetric network")
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--weight", type=float, default=WEIGHT, help="of the running cost")
    parser.add_argument("--direct", action="store_true", help="on 400 items from the start, for as many items in all")
    parser.add_argument("--write", type=Path, help="the page whose table gets the rows")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(HEADER + "\n|---|---|---|---|---|", flush=True)
    for name in given.networks.split(","):
        for seed in map(int, given.seeds.split(",")):
            row = measured(name, seed, given)
            print(row, flush=True)
            if given.write:
                put_rows(given.write, MARKS, [row], keys=2)


if __name__ == "__main__":
    main()
