"""Your own stream of observations: the rows of a CSV file in their order, with a likelihood of your own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import Dataset

from odeframe.data import SPLITS, DataModule
from odeframe.errors import DataError, InvalidOption
from odeframe.likelihoods import check_log_likelihood, likelihood_of
from odeframe.options import check_positive
from odeframe.specification import DataSpec
from odeframe_plugins.data.particle_stream import Sequences, check, packed, packed_spec, weighted_moments
from odeframe_plugins.data.splits import FRACTIONS, check_fractions, split_sizes
from odeframe_plugins.data.standardise import Scaling
from odeframe_plugins.data.table import read_table

__all__ = ["CSVStream"]

REFERENCE, FEW = 10000, 30
"""Draws of the prior by which posterior moments are had, for metrics: importance sampling; and too few of them."""


class CSVStream(DataModule):
    """Windows of ``length`` successive rows of a file; a state ``x ~ N(0, prior^2 I)`` explains the rows of a window.

    The first 70 % of the rows are for training (every window of them), then validation and test (windows that do not
    overlap).  Columns are standardised by the training rows, unless they are 0 and 1 alone, or ``standardise`` is off.
    The moments that metrics compare with are those of importance sampling with 10,000 draws.

    Args:
        path: the file; its first line names the columns.
        likelihood: a name of ``odeframe.likelihoods.LIKELIHOODS`` or a mapping with one; from Python an object or a
            function ``log_prob(observation, x)`` too, which the task is then given as well.
        columns: of an observation, in this order; default all.
        state: components of a state; default what the likelihood says.
        prior: standard deviation of the prior, > 0.
        length: rows of a window.
        particles: of a set.
        standardise: columns to mean 0 and deviation 1.
        split: shares of training, validation and test rows.
        seed: of the particles, 0 or more.
        delimiter: between cells.
        batch_size: windows a batch and a rank.
        num_workers: loader processes.

    Raises:
        DataError: the file cannot be used, with its line; or too few rows.
        InvalidOption: an option is outside its range.
    """

    def __init__(
        self,
        path: str,
        likelihood: Any = "linear_regression",
        columns: Sequence[str] | None = None,
        state: int | None = None,
        prior: float = 1.0,
        length: int = 10,
        particles: int = 64,
        standardise: bool = True,
        split: Sequence[float] = FRACTIONS,
        seed: int = 0,
        delimiter: str = ",",
        batch_size: int = 16,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        check(
            "csv_stream",
            length=(length, 1),
            particles=(particles, 1),
            seed=(seed, 0),
            state=(1 if state is None else state, 1),
        )
        check_positive("data 'csv_stream'", prior=prior)
        if len(delimiter) != 1:
            raise InvalidOption(f"data 'csv_stream', option delimiter: got {delimiter!r}, expected one character")
        self._likelihood = likelihood_of(likelihood)
        self._word = likelihood if isinstance(likelihood, str | dict) else None
        self.path, self.columns, self.state, self.prior = path, columns, state, prior
        self.length, self.particles, self.standardise, self.seed = length, particles, standardise, seed
        self.split, self.delimiter = check_fractions("csv_stream", split), delimiter
        self._prepared: tuple[dict[str, Tensor], Scaling] | None = None

    @property
    def scaling(self) -> Scaling:
        """What observations are standardised by, those of a later stream too: ``scaling.apply(rows)``."""
        return self._ready()[1]

    def specify(self) -> DataSpec:
        """The shapes that the file has; reads it on the first call."""
        observed = self._ready()[0]["train"].shape[1]
        state = self.state or self._likelihood.state_size(observed)
        self._likelihood.check(observed, state)
        return packed_spec("csv_stream", self.length, self.particles, state, observed, self._word)

    def windows(self, split: str) -> Tensor:
        """Observations ``(windows, length, columns)`` of a split, float64."""
        rows = self._ready()[0][split]
        return rows.unfold(0, self.length, 1 if split == "train" else self.length).transpose(1, 2).contiguous()

    def load(self) -> dict[str, Dataset]:
        """The three tensor data sets."""
        sets: dict[str, Dataset] = {}
        for index, split in enumerate(SPLITS):
            generator = torch.Generator().manual_seed(3 * self.seed + index)
            sets[split] = packed(self.sequences(split), self.particles, generator)
        return sets

    def sequences(self, split: str) -> Sequences:
        """The windows of a split with their posterior moments; the states, which nobody knows, are the last means."""
        observations = self.windows(split)
        count, state = len(observations), self.specify().target_shape[-1]
        generator = torch.Generator().manual_seed(self.seed)
        draws = self.prior * torch.randn(REFERENCE, state, generator=generator, dtype=torch.float64)
        found, effective = [], []
        for window in observations:
            gains = self._likelihood.log_prob(window[:, None], draws)
            checked = check_log_likelihood(self._likelihood.name, gains, (self.length, REFERENCE)).cumsum(0)
            found.append(weighted_moments(draws, check_log_likelihood(self._likelihood.name, checked, checked.shape)))
            effective.append(float(torch.softmax(checked[-1], 0).square().sum().reciprocal()))
        if min(effective) < FEW:
            rank_zero_warn(
                f"data 'csv_stream': moments that metrics compare with rest on {min(effective):.0f} of {REFERENCE} "
                "draws of the prior in effect, and are rough: take a narrower prior or a shorter length"
            )
        mean, covariance = (torch.stack(values) for values in zip(*found, strict=True))
        start = torch.cat([mean.new_zeros(count, 1, state), mean[:, :-1]], 1)
        wide = (self.prior**2 * torch.eye(state, dtype=torch.float64)).expand(count, 1, state, state)
        wider = torch.cat([wide, covariance[:, :-1]], 1)
        return Sequences(mean[:, -1:].expand_as(mean), observations, start, wider, mean, covariance)

    def _ready(self) -> tuple[dict[str, Tensor], Scaling]:
        if self._prepared is None:
            self._prepared = self._read()
        return self._prepared

    def _read(self) -> tuple[dict[str, Tensor], Scaling]:
        table = read_table(self.path, self.delimiter)
        names = tuple(self.columns or table.all_names())
        values = np.stack([table.numbers(name) for name in names], axis=1)
        sizes = split_sizes(len(values), self.split)
        if min(sizes) < self.length:
            raise DataError(
                f"{table.path}: {len(values)} rows give {sizes[0]}, {sizes[1]} and {sizes[2]} for training, validation "
                f"and test, expected windows of {self.length} rows in each; give more rows, or a smaller length"
            )
        found = Scaling.fit(values[: sizes[0]], names)
        constant = [name for name, same in zip(names, found.constant, strict=True) if same]
        if self.standardise and constant:
            raise DataError(
                f"{table.path}: constant over the training rows: {', '.join(constant)}; leave them out of columns, "
                "or write standardise: false"
            )
        kept = np.isin(values, (0, 1)).all(0) | (not self.standardise)
        scaling = Scaling(np.where(kept, 0.0, found.mean), np.where(kept, 1.0, found.std), found.constant)
        parts = torch.as_tensor(scaling.apply(values)).split(list(sizes))
        return dict(zip(SPLITS, parts, strict=True)), scaling
