"""Recurrent networks on digits that they have to keep through 392 items of noise, learned from short noise to long.

The 8 rows of a digit and then noise, 400 items.  A network is trained on 16 items first, then on 32, and so on: its
weights do not depend on the length.  Each pass has other noise, so that it cannot be learned in place of the digits.

python -m benchmarks.padded_digits --networks gated,plain,lstm --seeds 0
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn

from odeframe import build
from odeframe.specification import NetworkSpec

STAGES = ((16, 20), (32, 10), (64, 8), (128, 6), (256, 6), (400, 10))
"""Items, and how often each digit is seen with so many."""

ANTISYMMETRIC = {"gated": True, "gamma": 0.0, "width": 64}


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
    if name == "gated":
        return build("architecture", "antisymmetric_rnn", step=step, **ANTISYMMETRIC).build(spec)
    return build("architecture", "antisymmetric_rnn", step=1.0, width=64).build(spec, dynamics="elman_cell")


def train(model: nn.Module, length: int, copies: int, rate: float) -> float:
    """Once through the copies of each digit; returns the mean loss of the last tenth."""
    data = build("data", "digits_rows", per_step=8, length=length, copies=copies, seed=length)
    x, y = data.dataset("train").tensors
    batches = torch.randperm(len(x)).split(64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=len(batches), pct_start=0.1)
    losses = []
    for rows in batches:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
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


def kept(model: nn.Module, length: int) -> float:
    """|dJ/dh_0| / |dJ/dh_T| of a trained flow on test sequences, ``J = p h_T`` with a random ``p``."""
    x, _ = build("data", "digits_rows", per_step=8, length=length).dataset("test").tensors
    h, drive = model.get_submodule("stages.stem")(x[:64])
    h = h.requires_grad_(True)
    end = model.get_submodule("stages.flow")(h, drive=drive)
    p = torch.randn_like(end)
    return float(torch.autograd.grad((end * p).sum(), h)[0].norm() / p.norm())


def main() -> None:
    """A row a network and seed, as Markdown; the way there as lines that Markdown does not show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", default="gated,plain,lstm")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--step", type=float, default=0.5, help="of the antisymmetric network")
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--direct", action="store_true", help="on 400 items from the start, for as many items in all")
    given = parser.parse_args()
    torch.set_num_threads(1)
    stages = ((400, round(sum(length * copies for length, copies in STAGES) / 400)),) if given.direct else STAGES
    print("| network | seed | test accuracy | dJ/dh_0 over dJ/dh_T | seconds |\n|---|---|---|---|---|", flush=True)
    for name in given.networks.split(","):
        for seed in map(int, given.seeds.split(",")):
            torch.manual_seed(seed)
            model, start = network(name, stages[0][0], given.step), time.process_time()
            for length, copies in stages:
                model, before = network(name, length, given.step), model
                model.load_state_dict(before.state_dict())
                loss = train(model, length, copies, given.rate)
                print(
                    f"<!-- {name} {length} items: loss {loss:.3f}, test {accuracy(model, length):.3f} -->", flush=True
                )
            ratio = "" if name == "lstm" else f"{kept(model, 400):.1e}"
            seconds = time.process_time() - start
            print(f"| {name} | {seed} | {accuracy(model, 400):.3f} | {ratio} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
