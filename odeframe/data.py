"""Data by name: a LightningDataModule that states its shapes before set-up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, Dataset, TensorDataset

from odeframe.errors import DataError, InvalidOption
from odeframe.sampler import ResumableLoader, ShuffledShare, WholeShare, batch_size_of_shares
from odeframe.specification import DataSpec

SPLITS = ("train", "val", "test")


class DataModule(pl.LightningDataModule, ABC):
    """Train, validation and test sets with fixed splits and seeds.

    A subclass gives :meth:`specify`, cheap and without side effects, and :meth:`load`.

    Args:
        batch_size: samples a batch and a rank.
        num_workers: loader processes.
    """

    def __init__(self, batch_size: int = 64, num_workers: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise InvalidOption(f"data option batch_size: got {batch_size}, expected at least 1")
        if num_workers < 0:
            raise InvalidOption(f"data option num_workers: got {num_workers}, expected 0 or more")
        self.batch_size, self.num_workers = batch_size, num_workers
        self._sets: dict[str, Dataset] = {}
        self._order: int | None = None  # the seed of a fit's order

    @property
    def spec(self) -> DataSpec:
        """Shapes, target and default task, known before set-up."""
        return self.specify()

    @abstractmethod
    def specify(self) -> DataSpec:
        """The specification; called before any data is loaded into memory, and must stay cheap."""

    @abstractmethod
    def load(self) -> dict[str, Dataset]:
        """The data sets ``train``, ``val`` and ``test``."""

    def setup(self, stage: str | None = None) -> None:
        """Loads once, whatever the stage, and refuses non-finite or empty data by name."""
        if self._sets:
            return
        sets = self.load()
        for split in SPLITS:
            if split not in sets:
                raise DataError(f"data {self.spec.name!r}: load() gave no {split!r} set, got {sorted(sets)}")
            check_finite(self.spec.name, split, sets[split])
        self._sets = sets

    def dataset(self, split: str) -> Dataset:
        """One of the three data sets, loaded on first use."""
        if split not in SPLITS:
            raise InvalidOption(f"split: got {split!r}, expected one of {', '.join(SPLITS)}")
        self.setup()
        return self._sets[split]

    def teardown(self, stage: str) -> None:
        """Leaves the next fit to an order of its own."""
        self._order = None

    def state_dict(self) -> dict[str, Any]:
        """The seed of the order, for checkpoints."""
        return {} if self._order is None else {"order": self._order}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the order of the fit that goes on."""
        self._order = state_dict.get("order")

    def _loader(self, split: str) -> DataLoader:
        """Batches in order; on several ranks every sample is on one of them, so that metrics are exact."""
        dataset, (ranks, rank) = self.dataset(split), self._ranks()
        size = self.batch_size
        if ranks > 1:
            size = batch_size_of_shares(len(dataset), size, ranks)  # type: ignore[arg-type]
        sampler = WholeShare(len(dataset), ranks, rank) if ranks > 1 else None  # type: ignore[arg-type]
        return DataLoader(dataset, batch_size=size, sampler=sampler, **self._workers())

    def _workers(self) -> dict[str, Any]:
        return {"num_workers": self.num_workers, "persistent_workers": self.num_workers > 0}

    def _ranks(self) -> tuple[int, int]:
        """Over how many ranks the data are shared out, and which this is."""
        trainer = self.trainer
        if trainer is None or not trainer._accelerator_connector.use_distributed_sampler:
            return 1, 0
        kwargs = trainer.distributed_sampler_kwargs
        return (1, 0) if kwargs is None else (kwargs["num_replicas"], kwargs["rank"])

    def _place(self) -> tuple[int, int]:
        """The epoch that is about to be trained on, and how many of its batches have been already."""
        if self.trainer is None or self.trainer.state.fn != "fit":
            return 0, 0
        loop = self.trainer.fit_loop
        epochs: Any = loop.epoch_progress.current
        batches = loop.epoch_loop.batch_progress
        within = loop.restarting and epochs.started > epochs.processed
        if within and batches.is_last_batch:  # saved by the validation behind it
            return epochs.processed + 1, 0
        return epochs.processed, batches.current.ready if within else 0

    def train_dataloader(self) -> DataLoader:
        """Shuffled batches of the training set, the order a function of a seed, drawn here, and the epoch."""
        dataset, (ranks, rank), (epoch, batches) = self.dataset("train"), self._ranks(), self._place()
        seed = int(torch.randint(2**62, ())) if self._order is None else self._order
        if self.trainer is not None:
            seed = self._order = int(self.trainer.strategy.broadcast(seed))
        order = ShuffledShare(len(dataset), seed, ranks, rank, batches * self.batch_size)  # type: ignore[arg-type]
        order.set_epoch(epoch)
        return ResumableLoader(dataset, batch_size=self.batch_size, sampler=order, **self._workers())

    def val_dataloader(self) -> DataLoader:
        """Batches of the validation set in order."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader:
        """Batches of the test set in order."""
        return self._loader("test")

    @property
    def predict_names(self) -> tuple[str, ...]:
        """What the samples of the predict set are called, as the files that they come from; by default nothing."""
        return ()

    def predict_dataloader(self) -> DataLoader:
        """Batches of the test set in order."""
        return self._loader("test")


def specification(data: object) -> DataSpec:
    """What a data module states about itself.

    Raises:
        InvalidOption: it is no ``LightningDataModule`` with a ``spec``.
    """
    spec = getattr(data, "spec", None)
    if not isinstance(data, pl.LightningDataModule) or not isinstance(spec, DataSpec):
        raise InvalidOption(
            f"data: got {type(data).__name__}, expected a name, a mapping with a name, or a LightningDataModule whose "
            "`spec` is an odeframe.DataSpec"
        )
    return spec


def in_dtype_of(module: nn.Module, batch: Any) -> Any:
    """A batch with its floating-point tensors in the dtype of the module's, as ``precision: 64-true`` gives them."""
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), None)
    return tree_map(lambda item: item.to(dtype) if torch.is_tensor(item) and item.is_floating_point() else item, batch)


def check_finite(name: str, split: str, data: Dataset) -> None:
    """Raises ``DataError`` with the first bad sample where a tensor data set is empty or not finite."""
    if not isinstance(data, TensorDataset):
        return
    for position, tensor in enumerate(data.tensors):
        if tensor.shape[0] == 0:
            raise DataError(f"data {name!r}: the {split} set is empty; give more rows or another split")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = (~torch.isfinite(tensor)).flatten(1).any(1) if tensor.dim() > 1 else ~torch.isfinite(tensor)
            what = "inputs" if position == 0 else "targets"
            raise DataError(
                f"data {name!r}: the {what} of the {split} set have non-finite values in {int(bad.sum())} of "
                f"{tensor.shape[0]} samples, first at sample {int(bad.nonzero()[0])}; remove or fill them "
                "first"
            )
