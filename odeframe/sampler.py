"""The order of the samples, and which rank gets which: functions of a seed and the number of the epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, DistributedSampler

from odeframe.errors import InvalidOption

__all__ = ["ResumableLoader", "ShuffledShare", "WholeShare", "batch_size_of_shares"]

_ODD = 0x9E3779B97F4A7C15


class ShuffledShare(DistributedSampler):
    """A rank's share of all samples in a random order that is a function of (seed, epoch).

    With ``W`` ranks, rank ``r`` has the places ``r, r + W, ...`` of the order, so that batches of ``b`` on each of
    ``W`` ranks hold what one process has in batches of ``W b``.  All shares are of one length, which takes up to
    ``W - 1`` samples twice where the number of samples is no multiple of ``W``.

    Args:
        size: number of samples.
        seed: of the order.
        ranks: ``W``.
        rank: ``r``.
        skip: places of the first epoch's share that have been trained on already.

    Nobody needs to call :meth:`set_epoch`: each pass is another epoch.
    """

    def __init__(self, size: int, seed: int, ranks: int = 1, rank: int = 0, skip: int = 0) -> None:
        super().__init__(range(size), num_replicas=ranks, rank=rank, shuffle=True, seed=seed)  # type: ignore[arg-type]
        self.skip = skip

    def __iter__(self) -> Iterator[int]:
        """The samples of this rank."""
        key = (self.seed * _ODD + self.epoch) % 2**63
        order = torch.randperm(len(self.dataset), generator=torch.Generator().manual_seed(key))  # type: ignore[arg-type]
        repeats = -(-self.total_size // max(1, len(order)))
        share = order.repeat(repeats)[self.rank : self.total_size : self.num_replicas][self.skip :]
        self.epoch, self.skip = self.epoch + 1, 0
        yield from share.tolist()


class WholeShare(DistributedSampler):
    """A rank's share of all samples in order, none twice: shares may differ in length by one."""

    def __init__(self, size: int, ranks: int = 1, rank: int = 0) -> None:
        super().__init__(range(size), num_replicas=ranks, rank=rank, shuffle=False)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        """The samples of this rank."""
        return iter(range(self.rank, len(self.dataset), self.num_replicas))  # type: ignore[arg-type]

    def __len__(self) -> int:
        """How many there are."""
        return len(range(self.rank, len(self.dataset), self.num_replicas))  # type: ignore[arg-type]


def batch_size_of_shares(size: int, batch_size: int, ranks: int) -> int:
    """The least batch size from the given one on with which all ranks have as many batches of their whole shares.

    Ranks speak to each other once a batch (buffers of batch norm), so that one with a batch less would be waited for.

    Raises:
        InvalidOption: there are fewer samples than ranks.
    """
    if size < ranks:
        raise InvalidOption(f"trainer.devices: got {ranks} ranks for a set of {size} samples, expected at most {size}")
    while 0 < size % (ranks * batch_size) < ranks:
        batch_size += 1
    return batch_size


class ResumableLoader(DataLoader):
    """A loader that Lightning need not warn of: the place in an epoch is the sampler's, the seed in a checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing more."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take."""
