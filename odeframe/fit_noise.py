"""The noise of a fit: a function of one seed and of the number of the batch, so that a resumed fit draws it again."""

from __future__ import annotations

from typing import Any

import torch

from odeframe.network import Network

_FLOWS = 4096  # more than a network has; a batch's seeds are apart by it


class FitNoise:
    """Seeds for the random flows of a network, one a flow and batch.

    Attributes:
        seed: of the fit, drawn from torch's generator at its start, the same on all ranks; part of a checkpoint.
    """

    def __init__(self) -> None:
        self.seed: int | None = None

    def start(self, trainer: Any) -> None:
        """Draws the seed, unless a checkpoint has given it."""
        if self.seed is None:
            self.seed = int(trainer.strategy.broadcast(int(torch.randint(2**62, ()))))

    def key(self, network: Network, batch: int) -> None:
        """Sets the seeds of one batch, numbered from the start of the fit."""
        if self.seed is None:
            return
        for index, flow in enumerate(network.flows):
            flow.noise_seed = (self.seed + _FLOWS * batch + index) % 2**62

    def release(self, network: Network) -> None:
        """Leaves the flows to torch's generator again, and the next fit to a seed of its own."""
        self.seed = None
        for flow in network.flows:
            flow.noise_seed = None
