"""The noise of a fit: a function of one seed and of the number of the batch, so that a resumed fit draws it again."""

from __future__ import annotations

from typing import Any

import torch

from odeframe.network import Network

_FLOWS = 4096  # more than a network has; a batch's seeds are apart by it


class FitNoise:
    """Seeds for the random flows of a network, one a flow and batch.

    Attributes:
        seed: of the next fit, from torch's generator as it was when this was made; part of a checkpoint.
    """

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):  # weights and order of the data do not notice
            self.seed = int(torch.randint(2**62, ()))

    def start(self, trainer: Any) -> None:
        """All ranks take rank 0's seed."""
        self.seed = int(trainer.strategy.broadcast(self.seed))

    def key(self, network: Network, batch: int) -> None:
        """Sets the seeds of one batch, numbered from the start of the fit."""
        for index, flow in enumerate(network.flows):
            flow.noise_seed = (self.seed + _FLOWS * batch + index) % 2**62

    def release(self, network: Network) -> None:
        """Leaves the flows to torch's generator again, and the next fit to a seed of its own."""
        self.seed = (self.seed * 0x5851F42D4C957F2D + 1) % 2**62
        for flow in network.flows:
            flow.noise_seed = None
