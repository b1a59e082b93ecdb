"""Weights made by a small net from the time."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from odeframe import Control, InvalidOption
from odeframe.block import Block, empty
from odeframe.control import ControlLaw, FunctionalLaw
from odeframe_plugins.controls.basis_control import share_of

START = 0.1  # of a linear layer's usual draw: weights nearly constant in time at first


class Hypernetwork(Control):
    """``theta(t) = theta_0 + net(z)``, ``z = 2 (t - t0) / (T - t0) - 1``, with a perceptron of two hidden tanh layers.

    The last layer of the net has ``hidden`` times as many weights as the block.  With ``rank = r`` a matrix or kernel
    ``W`` ``(out, in, ...)`` has ``W(t) = W_0 + A diag(g(t)) B`` instead, ``A`` ``(out, r)``, ``B`` ``(r, in ...)``,
    and the net makes ``g`` ``(r,)``: ``r (out + in ... + hidden)`` numbers.  Smaller parameters, biases, are made in
    full.

    Args:
        hidden: size of the net's two inner layers.
        rank: ``r``; ``None`` makes every weight.

    Source: Ha, Dai, Le 2017, HyperNetworks; Grathwohl et al. 2019, FFJORD, appendix (hypernet layers).
    """

    traits: ClassVar[tuple[str, ...]] = ("open_loop", "tied", "time_varying")

    def __init__(self, hidden: int = 16, rank: int | None = None) -> None:
        super().__init__()
        for option, value in (("hidden", hidden), ("rank", 1 if rank is None else rank)):
            if value < 1:
                raise InvalidOption(f"control 'hypernetwork': option {option}: got {value}, expected at least 1")
        self._hidden, self._rank = hidden, rank

    def build(self, block: Block, steps: int | None) -> None:
        """Takes the block's values as ``theta_0`` and draws the net."""
        values = empty(block)
        self._block, self._names = block, list(values)
        self.base = nn.ParameterList(values.values())
        self.left, self.right = nn.ParameterDict(), nn.ParameterDict()
        self._sizes = []
        for index, value in enumerate(values.values()):
            factored = self._rank is not None and value.dim() >= 2 and self._rank < min(value.flatten(1).shape)
            self._sizes.append(self._rank if factored and self._rank else value.numel())
            if factored:
                rank, (rows, columns) = self._sizes[-1], value.flatten(1).shape
                self.left[str(index)] = nn.Parameter(torch.randn(rows, rank).to(value) / rank**0.5)
                self.right[str(index)] = nn.Parameter(torch.randn(rank, columns).to(value) / columns**0.5)
        hidden = self._hidden
        last = nn.Linear(hidden, sum(self._sizes))
        with torch.no_grad():
            for parameter in last.parameters():
                parameter.mul_(START)
        self.net = nn.Sequential(nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), last)
        if values:
            self.net.to(next(iter(values.values())))

    @property
    def block(self) -> Block:
        """The empty block."""
        return self._block

    def on(self, t: Tensor, t_next: Tensor) -> ControlLaw:
        """The net, whatever the interval."""
        return FunctionalLaw(self._block, self.values, self, t)

    def values(self, t: Tensor) -> dict[str, Tensor]:
        """The parameters at a time, by name."""
        first = next(self.net.parameters())
        z = 2 * share_of(t, self.horizon, "hypernetwork") - 1
        made = self.net(z.to(first).reshape(1) if torch.is_tensor(z) else first.new_full((1,), z))
        values = {}
        for index, (name, base, part) in enumerate(zip(self._names, self.base, made.split(self._sizes), strict=True)):
            key = str(index)
            change = (self.left[key] * part) @ self.right[key] if key in self.left else part
            values[name] = base + change.reshape(base.shape)
        return values
