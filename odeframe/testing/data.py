"""What all data must do, as a base class for pytest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor

from odeframe.compatibility import compatible
from odeframe.data import specification
from odeframe.errors import OdeframeError
from odeframe.module import FlowModule
from odeframe.registry import word
from odeframe.specification import DataSpec
from odeframe.testing.conformance import Conformance, said

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
WELL_KNOWN = ("resnet", "neural_ode")
MOST = 4
"""Batches of a set that are looked at."""


class DataConformance(Conformance):
    """Set ``data`` to a word with the options it needs; small ones make the tests quick.

    Attributes:
        data: what is tested.
        architecture: the word of a network for its default task; by default the first registered one that takes it.
    """

    kind = "data"
    interface = pl.LightningDataModule
    data: ClassVar[Any] = None
    architecture: ClassVar[Any] = None

    @classmethod
    def ready(cls) -> pl.LightningDataModule:
        """The data, loaded."""
        made: pl.LightningDataModule = cls.make()
        made.prepare_data()
        made.setup("fit")
        made.setup("test")
        return made

    @staticmethod
    def batches(data: pl.LightningDataModule, loader: str, seed: int = 0) -> list[Any]:
        """The first batches of a set; a seed decides how a training set is shuffled."""
        torch.manual_seed(seed)
        return [batch for batch, _ in zip(getattr(data, loader)(), range(MOST), strict=False)]

    @staticmethod
    def parts(batch: Any) -> list[Tensor]:
        """The tensors of a batch in order."""
        if isinstance(batch, Mapping):
            batch = list(batch.values())
        return list(batch) if isinstance(batch, (list, tuple)) else [batch]

    def test_specification_is_plain_data(self) -> None:
        """Known before set-up, the same afterwards, and kept as plain data in checkpoints."""
        with said("spec, before set-up,"):
            spec = specification(self.make())
        assert DataSpec.from_dict(spec.to_dict()) == spec, "the specification is not plain data: tuples of numbers"
        assert specification(self.ready()) == spec, (
            "the specification changes with set-up: a network is built from it before, so it must be known then"
        )

    def test_traits_tell_the_target(self) -> None:
        """Tasks find their data by the traits ``classes`` and ``values``."""
        declared, spec = self.declared_traits(), specification(self.make())
        trait = {"class": "classes", "value": "values"}.get(spec.target)
        if declared is not None and trait is not None:
            assert trait in declared, (
                f"the target is a {spec.target!r}: write traits = ({trait!r},) in the plugin's table, by which the "
                "tasks that need one find it"
            )

    def test_batches_are_what_is_specified(self) -> None:
        """Shapes, types and ranges of all three sets."""
        data = self.ready()
        spec = specification(data)
        for loader in LOADERS:
            found = self.batches(data, loader)
            assert found, f"{loader}() gives no batch: give the set more rows"
            for batch in found:
                self.check(spec, self.parts(batch), loader)

    def check(self, spec: DataSpec, parts: list[Tensor], loader: str) -> None:
        """One batch."""
        x = parts[0]
        assert x.shape[1:] == spec.input_shape, (
            f"{loader}(): inputs are {tuple(x.shape)}, the specification says (batch, *{spec.input_shape})"
        )
        assert x.is_floating_point() and bool(torch.isfinite(x).all()), (
            f"{loader}(): inputs are {x.dtype} or not finite: give floating-point numbers, and fill or drop what is not"
        )
        if spec.target == "none":
            return
        assert len(parts) > 1, f"{loader}(): a target {spec.target!r} is specified, a batch holds inputs alone"
        target = parts[1]
        if spec.target == "class":
            known = spec.num_classes or 0
            assert target.shape == x.shape[:1] and not target.is_floating_point(), (
                f"{loader}(): labels are {target.dtype} {tuple(target.shape)}, expected whole numbers of shape (batch,)"
            )
            assert int(target.min()) >= 0 and int(target.max()) < known, (
                f"{loader}(): labels go from {int(target.min())} to {int(target.max())}, expected 0 to {known - 1}"
            )
        else:
            assert target.shape == (x.shape[0], *spec.target_shape) and target.is_floating_point(), (
                f"{loader}(): targets are {target.dtype} {tuple(target.shape)}, the specification says floating-point "
                f"(batch, *{spec.target_shape})"
            )

    def test_splits_are_fixed(self) -> None:
        """Two objects have the same sets in the same order, whatever torch's seed."""
        one = self.ready()
        torch.manual_seed(99)
        other = self.ready()
        for loader in LOADERS:
            for a, b in zip(self.batches(one, loader), self.batches(other, loader), strict=True):
                assert all(torch.equal(u, v) for u, v in zip(self.parts(a), self.parts(b), strict=True)), (
                    f"{loader}() of two objects differ: draw and split by a generator with a seed of its own, "
                    "torch.Generator().manual_seed(seed), so that results compare over runs"
                )
        for a, b in zip(self.batches(one, LOADERS[2], 1), self.batches(one, LOADERS[2], 2), strict=True):
            assert all(torch.equal(u, v) for u, v in zip(self.parts(a), self.parts(b), strict=True)), (
                "the test set changes with torch's seed: shuffle the training set alone"
            )

    def test_loading_leaves_the_seed_alone(self) -> None:
        """The weights of a run do not depend on whether its data was loaded before."""
        torch.manual_seed(7)
        before = torch.get_rng_state()
        self.ready()
        assert torch.equal(torch.get_rng_state(), before), (
            "loading draws from, or seeds, torch's global generator: use one of your own"
        )

    def test_its_task_takes_it(self) -> None:
        """The default task and a network make a finite objective of the first batch."""
        data = self.ready()
        module = self.module(specification(data))
        loss = module.objective(self.batches(data, LOADERS[0])[0]).loss
        assert bool(torch.isfinite(loss)), "the objective of the first batch is not finite: scale inputs and targets"

    def module(self, spec: DataSpec) -> FlowModule:
        """A network for the default task."""
        named = word("data", self.choice()) if isinstance(self.choice(), str | Mapping) else None
        words: dict[str, Any] = {"task": spec.task, **({} if named is None else {"data": named})}
        names = [self.architecture] if self.architecture else compatible("architecture", **words)
        refusals = []
        for name in sorted(names, key=lambda each: each not in WELL_KNOWN):
            torch.manual_seed(0)
            try:
                return FlowModule(spec.to_dict(), name, data=named)
            except OdeframeError as error:
                refusals.append(f"{name}: {error}")
        raise AssertionError(
            f"no architecture takes these data with their task {spec.task!r}; say which does: architecture = ... "
            f"({refusals[0] if refusals else 'none is registered'})"
        )
