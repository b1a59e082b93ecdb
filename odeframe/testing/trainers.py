"""What every control trainer must do, as a base class for pytest."""

from __future__ import annotations

import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy, Strategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from odeframe.assembly import split_trainer
from odeframe.compatibility import facts_of
from odeframe.costs import KineticEnergy
from odeframe.dynamics import Dynamics
from odeframe.flow import Flow
from odeframe.module import FlowModule
from odeframe.network import Architecture, Network, Parts
from odeframe.specification import DataSpec, NetworkSpec
from odeframe.task import Task
from odeframe.testing.conformance import Conformance
from odeframe.trainer import ControlTrainer

QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}
TIME_OUT = timedelta(seconds=20)


VALUES = DataSpec("small", (3,), "value", None, (2,), "regression")
CLASSES = DataSpec("small", (3,), "class", 2)


class SmallData(pl.LightningDataModule):
    """A linear map with noise, the same rows on one process and, shared out, on several.

    Args:
        size: number of rows.
        batch_size: over all ranks.
        ranks: how many share a batch.
        labels: whether the target is which of its two values is the larger one.
    """

    def __init__(self, size: int = 16, batch_size: int = 8, ranks: int = 1, labels: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(size, 3, generator=generator, dtype=torch.float64)
        noise = torch.randn(size, 2, generator=generator, dtype=torch.float64)
        values = x[:, :2].tanh() - 0.5 * x[:, 2:] + 0.1 * noise
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

    A rule is put to values, or to classes where it needs them.

    Attributes:
        trainer: a name, or a mapping with options.
        options: words and optimiser for the module.
        epochs: how many it gets to bring the loss down.
        share: of the first loss, below which it has to come.
        ranks: numbers of ranks that must equal one process.
    """

    kind = "trainer"
    interface = ControlTrainer
    trainer: ClassVar[Any] = None
    options: ClassVar[dict[str, Any]] = {"optimizer": "Adam", "learning_rate": 0.01}
    architecture: ClassVar[Any] = {"name": "resnet", "width": 4, "blocks": 3}
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
        return any((need.kind, need.trait, need.refused) == ("data", "classes", False) for need in needs)

    def data(self, ranks: int = 1) -> SmallData:
        """What is learned."""
        return SmallData(ranks=ranks, labels=self.labels())

    def module(self) -> FlowModule:
        """A small network in float64 with seeded weights."""
        torch.manual_seed(0)
        spec = CLASSES if self.labels() else VALUES
        settings = {"schedule": "constant", **self.options}  # a schedule over a fit would tell 2 epochs from 2 of 4
        return FlowModule(spec.to_dict(), self.architecture, trainer=self.trainer, **settings).double()

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


class Velocity(Dynamics):
    """``x' = u``, the control one velocity for all samples."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.zeros(width))

    def reset_parameters(self) -> None:
        """Begins at rest."""
        nn.init.zeros_(self.u)

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """The velocity."""
        return self.u.expand_as(x)


class Steered(Architecture):
    """``x' = u`` on ``(0, T)`` with the running cost ``r |u|^2 / 2``, Euler's steps, a piece of control each."""

    def __init__(self, horizon: float, price: float, steps: int = 5) -> None:
        self.horizon, self.price, self.steps = horizon, price, steps

    def assemble(self, spec: NetworkSpec, parts: Parts) -> Network:
        """One flow; Euler's steps are exact here."""
        solver, cost = {"name": "euler", "steps": self.steps}, KineticEnergy(self.price)
        velocity = Velocity(spec.input_shape[0])
        return Network({"flow": Flow(velocity, "piecewise_constant", solver, "backprop", (0.0, self.horizon), [cost])})


class HalfSquare(Task):
    """``Phi = g |x(T)|^2 / 2``."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def output_shape(self, spec: DataSpec) -> tuple[int, ...]:
        """That of a state."""
        return spec.input_shape

    def cost(self, output: Tensor, target: Any) -> Tensor:
        """``Phi``, ``(batch,)``."""
        return 0.5 * self.weight * output.square().sum(1)

    def metrics(self, spec: DataSpec) -> Any:
        """None."""
        from torchmetrics import MetricCollection

        return MetricCollection({})


class LinearQuadratic:
    """``x' = u``, ``J = mean_i [g |x_i(T)|^2 / 2] + r int |u|^2 / 2 dt`` for a rule of training, in float64.

    The optimum, of the discretised problem too, is ``u = -g m / (r + g T)`` with the mean ``m`` of the initial states,
    here 8 of 2 components.  The distance to it after some sweeps tells for which ``g T / r`` a rule converges.

    Args:
        gain: ``g``.
        price: ``r``.
        horizon: ``T``.
    """

    def __init__(self, gain: float, price: float = 1.0, horizon: float = 1.0) -> None:
        self.gain, self.price, self.horizon = gain, price, horizon
        self.x = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) + 1

    def optimum(self) -> Tensor:
        """``u``, ``(2,)``, the same at all times."""
        return -self.gain * self.x.mean(0) / (self.price + self.gain * self.horizon)

    def distance(self, trainer: Any, sweeps: int) -> float:
        """``max |u - optimum|`` over that of the start at rest, after a fit of ``sweeps`` batches of all samples."""
        torch.manual_seed(0)
        spec = DataSpec("steered", (2,), "value", None, (2,), "regression")
        architecture = Steered(self.horizon, self.price)
        module = FlowModule(spec.to_dict(), architecture, HalfSquare(self.gain), trainer=trainer).double()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            batches: Any = [(self.x,)] * sweeps  # one epoch of them: Lightning's work is by the epoch
            pl.Trainer(max_epochs=1, devices=1, **QUIET).fit(module, DataLoader(batches, batch_size=None))
        u = torch.stack([p.detach() for p in module.parameters()])
        return float((u - self.optimum()).abs().max() / self.optimum().abs().max())
