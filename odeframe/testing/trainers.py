"""What every control trainer must do, as a base class for pytest."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy, Strategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from odeframe.assembly import split_trainer
from odeframe.compatibility import compatible, facts_of, why
from odeframe.errors import UnknownComponent
from odeframe.module import FlowModule
from odeframe.options import options_of
from odeframe.registry import resolve, word
from odeframe.specification import DataSpec
from odeframe.testing.conformance import Conformance
from odeframe.testing.steered import LinearQuadratic, Priced, Velocity
from odeframe.trainer import ControlTrainer
from odeframe.trial import QUIET

__all__ = ["QUIET", "LinearQuadratic", "SmallData", "TrainerConformance", "Velocity"]

TIME_OUT = timedelta(seconds=20)

RESNET = {"name": "resnet", "width": 4, "blocks": 3}
FAR = 3.0
VALUES = DataSpec("small", (3,), "value", None, (2,), "regression")
CLASSES = DataSpec("small", (3,), "class", 2)


class SmallData(pl.LightningDataModule):
    """A linear map with noise, the same rows on one process and, shared out, on several.

    Args:
        size: number of rows.
        batch_size: over all ranks.
        ranks: how many share a batch.
        labels: whether the target is which of its two values is the larger one.
        spec: other shapes; the target is then half of an input of its shape, with noise, or else normal.
    """

    def __init__(
        self, size: int = 16, batch_size: int = 8, ranks: int = 1, labels: bool = False, spec: DataSpec | None = None
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        if spec is None or (spec.input_shape, spec.target_shape) == (VALUES.input_shape, VALUES.target_shape):
            x = torch.randn(size, 3, generator=generator, dtype=torch.float64)
            noise = torch.randn(size, 2, generator=generator, dtype=torch.float64)
            values = x[:, :2].tanh() - 0.5 * x[:, 2:] + 0.1 * noise
        else:
            x = 2 * torch.randn(size, *spec.input_shape, generator=generator, dtype=torch.float64)
            values = torch.randn(size, *spec.target_shape, generator=generator, dtype=torch.float64)
            values = 0.5 * x + 0.1 * values if values.shape == x.shape else values
        self.set = TensorDataset(x, values.argmax(1) if labels else values)
        self.batch_size, self.ranks = batch_size, ranks

    def train_dataloader(self) -> DataLoader:
        """Batches in order; with several ranks, a global batch holds the rows of the one-process batch."""
        if self.ranks == 1:
            return DataLoader(self.set, batch_size=self.batch_size)
        sampler: DistributedSampler = DistributedSampler(self.set, shuffle=False)
        return DataLoader(self.set, batch_size=self.batch_size // self.ranks, sampler=sampler)


class TrainerConformance(Conformance):
    """Set ``trainer`` to a word; ``options`` to further arguments of ``FlowModule``.

    A rule is put to a small residual network with values, or with classes where it needs them.  One that needs another
    network or task gets the first registered ones that go with it, with data of the shapes by which that network's own
    class is tested.

    Attributes:
        trainer: a name, or a mapping with options.
        architecture: a word for another network; ``None`` for the one said above.
        problem: ``"network"``, or ``"steered"``: ``x' = u`` from a frozen layer, at a price for ``u``, begun far from
            the optimum; for rules that converge where a cost of the control is there to make Hamiltonians concave.
        options: words and optimiser for the module.
        epochs: how many it gets to bring the loss down.
        share: of the first loss, below which it has to come.
        ranks: numbers of ranks that must equal one process.
    """

    kind = "trainer"
    interface = ControlTrainer
    trainer: ClassVar[Any] = None
    options: ClassVar[dict[str, Any]] = {"optimizer": "Adam", "learning_rate": 0.01}
    architecture: ClassVar[Any] = None
    problem: ClassVar[Literal["network", "steered"]] = "network"
    epochs: ClassVar[int] = 60
    share: ClassVar[float] = 0.5
    ranks: ClassVar[tuple[int, ...]] = (2,)

    @classmethod
    def choice(cls) -> Any:
        """The word of the rule itself where a gradient's word stands for it."""
        found = super().choice()
        return None if found is None else split_trainer({"trainer": found})["trainer"]

    @classmethod
    def labels(cls) -> bool:
        """Whether the rule needs classes."""
        needs = [] if cls.part is None else [need for need, _ in facts_of("trainer", cls.part).needs]
        by_task = [need.names for need in needs if need.kind == "task" and need.names]
        return any("classification" in names and "regression" not in names for names in by_task) or any(
            (need.kind, need.trait, need.refused) == ("data", "classes", False) for need in needs
        )

    @classmethod
    def network(cls) -> Any:
        """The network that is trained."""
        if cls.architecture is not None:
            return cls.architecture
        if cls.problem == "steered":
            return Priced()
        if cls.choice() is None:  # which is made with each module
            return RESNET
        tasks = cls.tasks(RESNET) or ["regression"]
        if not why("trainer", cls.choice(), "architecture", RESNET) and not {"regression", "classification"}.isdisjoint(
            tasks
        ):
            return RESNET
        for name in compatible("architecture", trainer=cls.choice()):
            try:
                known, _ = options_of(resolve("architecture", name).load())
            except UnknownComponent:  # an optional dependency is missing
                continue
            if not any(option.required for option in known):
                return name
        raise AssertionError("no registered architecture goes with the trainer; say which: architecture = ...")

    @classmethod
    def tasks(cls, architecture: Any) -> list[str]:
        """The tasks that rule and network ask for by name, in their order; none where any will do."""
        chosen = {"trainer": cls.choice(), "architecture": architecture}
        named = [facts_of(kind, choice).needs for kind, choice in chosen.items() if choice is not None]
        return [name for needs in named for need, _ in needs if need.kind == "task" for name in need.names]

    @classmethod
    def spec(cls) -> DataSpec:
        """What the data are said to be: of the shapes by which the network's class is tested, where it says some."""
        network = cls.network()
        component = word("architecture", network).component if isinstance(network, str | Mapping) else None
        shapes = {} if component is None else getattr(component.load(), "conformance", {})
        tasks = cls.tasks(network) if isinstance(network, str | Mapping) else []
        if cls.labels() or not (tasks or shapes):
            return CLASSES if cls.labels() else VALUES
        inputs, outputs = shapes.get("input_shapes", ((3,),))[0], tuple(shapes.get("output_shape", (2,)))
        return DataSpec("small", tuple(inputs), "value", None, outputs, (tasks or ["regression"])[0])

    @classmethod
    def told(cls) -> Iterator[str]:
        """Which network was found, where it is not the one that most are put to."""
        try:
            network = cls.network()
        except AssertionError:  # which the checks raise too
            return
        if cls.architecture is None and cls.problem == "network" and network != RESNET:
            yield f"trained: {network}, for the task {cls.spec().task}"

    def data(self, ranks: int = 1) -> SmallData:
        """What is learned."""
        spec = self.spec()
        return SmallData(ranks=ranks, labels=self.labels(), spec=None if self.labels() else spec)

    def module(self) -> FlowModule:
        """A small network in float64 with seeded weights."""
        torch.manual_seed(0)
        settings = {"schedule": "constant", **self.options}  # a schedule over a fit would tell 2 epochs from 2 of 4
        module = FlowModule(self.spec().to_dict(), self.network(), trainer=self.trainer, **settings).double()
        if self.problem == "steered":
            for parameter in module.network.stages["flow"].parameters():
                nn.init.constant_(parameter, FAR)
        return module

    def fit(self, module: FlowModule, epochs: int, ranks: int = 1, **options: Any) -> pl.Trainer:
        """Trains quietly on one process, or on forked ones with gloo."""
        strategy: str | Strategy = "auto"
        if ranks > 1:
            strategy = DDPStrategy(start_method="fork", process_group_backend="gloo", timeout=TIME_OUT)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = pl.Trainer(
                max_epochs=epochs,
                devices=ranks,
                strategy=strategy,
                use_distributed_sampler=False,
                **{**QUIET, **options},
            )
            trainer.fit(module, datamodule=self.data(ranks), ckpt_path=options.pop("ckpt_path", None))
        return trainer

    @staticmethod
    def weights(module: FlowModule) -> Tensor:
        """All parameters as one vector."""
        return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])

    def test_improves_the_objective(self) -> None:
        """The mean objective of the training set falls to less than half, or another share."""
        module, batch = self.module(), self.data().set.tensors
        before = module.objective(batch).loss.item()
        self.fit(module, self.epochs)
        after = module.objective(batch).loss.item()
        assert after < self.share * before, (
            f"the objective went from {before:.3g} to {after:.3g} in {self.epochs} epochs: is the sign of the update "
            "right, are gradients set before the step, and is every batch stepped once?"
        )

    @pytest.mark.timeout(90)
    def test_ranks_equal_one_process(self) -> None:
        """Several ranks on shares of a batch take the steps of one process on the whole batch."""
        torch.set_num_threads(1)  # a parent with a thread pool would hang its forked children
        reference = self.module()
        self.fit(reference, 2)
        start = self.weights(self.module())
        assert float((self.weights(reference) - start).abs().max()) > 1e-6, "training changed nothing"
        for ranks in self.ranks:
            module = self.module()
            self.fit(module, 2, ranks)
            distance = float((self.weights(module) - self.weights(reference)).abs().max())
            assert distance < 1e-6, (
                f"{ranks} ranks end {distance:.2e} away from one process; gradients that no loss.backward() made must "
                "go through odeframe.reduction"
            )

    def test_resume_equals_an_uninterrupted_run(self, tmp_path: Path) -> None:
        """Stopped after two epochs and resumed to four: the weights of four in one go, to the bit."""
        whole = self.module()
        self.fit(whole, 4)
        first = self.module()
        saver = ModelCheckpoint(tmp_path, save_last=True)
        self.fit(first, 2, callbacks=[saver], enable_checkpointing=True)
        second = self.module()
        with torch.no_grad():
            for parameter in second.parameters():
                parameter.zero_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = pl.Trainer(max_epochs=4, devices=1, **QUIET)
            trainer.fit(second, datamodule=self.data(), ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True)
        assert trainer.global_step == 8, f"global_step counts batches: got {trainer.global_step}, expected 8"
        assert torch.equal(self.weights(second), self.weights(whole)), (
            "the resumed run differs: state of the trainer is not in the checkpoint, or depends on the clock"
        )
