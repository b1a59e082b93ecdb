"""The LightningModule: a network, a task, and the trainer that improves the control."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from odeframe.assembly import assemble
from odeframe.errors import CheckpointError, InvalidOption
from odeframe.network import Network
from odeframe.registry import check_provenance, word
from odeframe.specification import DataSpec
from odeframe.trainer import Objective

CHECKPOINT_KEY = "odeframe"
COUNTS = ("nfe", "nfe_backward", "accepted", "rejected")


class FlowModule(pl.LightningModule):
    """A network composed from words, as any Lightning ``Trainer`` takes it.

    Args:
        data_spec: the data's specification as plain data (``DataSpec.to_dict()``).
        architecture: a word: a name, or a mapping ``{name: ..., option: value}``; so are the next ones.
        task: default the data's.
        dynamics: default the architecture's, and so for the next four.
        control: how the weights depend on depth.
        solver: how depth is discretised.
        gradient: how gradients are had.
        trainer: how a batch improves the control.
        optimizer: name of an optimiser in ``torch.optim``.
        learning_rate: its step length.
        optimizer_options: its further options.
        data: the word of the data, for the compatibility check.
    """

    def __init__(
        self,
        data_spec: Mapping[str, Any],
        architecture: Any = "resnet",
        task: Any = None,
        dynamics: Any = None,
        control: Any = None,
        solver: Any = None,
        gradient: Any = None,
        trainer: Any = None,
        optimizer: str = "Adam",
        learning_rate: float = 3e-3,
        optimizer_options: Mapping[str, Any] | None = None,
        data: Any = None,
    ) -> None:
        super().__init__()
        self.spec = DataSpec.from_dict(data_spec)
        choices = {
            "architecture": architecture,
            "task": task,
            "dynamics": dynamics,
            "control": control,
            "solver": solver,
            "gradient": gradient,
            "trainer": trainer,
        }
        made = assemble(choices, self.spec, None if data is None else word("data", data))
        self.network: Network = made.network
        self.task, self.rule, self._provenance = made.task, made.trainer, made.provenance()
        self.automatic_optimization = self.rule.automatic_optimization
        self._optimizer = optimizer_class(optimizer)
        self._optimizer_options = {"lr": learning_rate, **(optimizer_options or {})}
        self.evaluation_metrics = nn.ModuleDict(
            {
                f"{stage}_metrics": self.task.metrics(self.spec).clone(prefix=f"{stage}_")
                for stage in ("train", "val", "test")
            }
        )
        self.save_hyperparameters(
            {
                "data_spec": self.spec.to_dict(),
                **made.plain_words(),
                "optimizer": optimizer,
                "learning_rate": learning_rate,
                "optimizer_options": dict(optimizer_options or {}),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """The network's output, ``(batch, *output)``."""
        return self.network(x)

    def objective(self, batch: Any) -> Objective:
        """Loss, outputs and target of a batch."""
        x, target = self.task.split(batch)
        outcome = self.network.run(x)
        cost = self.task.cost(outcome.output, target)
        return Objective((cost if outcome.cost is None else cost + outcome.cost).mean(), outcome, target)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One batch, by the trainer's rule."""
        loss = self.rule.training_step(self, batch)
        self._size = len(self.task.split(batch)[0])
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=self._size, sync_dist=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Logs what the batch cost, now that the backward pass has been counted too."""
        stats = self.network.stats
        counts = {f"train_{name}": float(getattr(stats, name)) for name in COUNTS}
        self.log_dict(counts, on_step=False, on_epoch=True, batch_size=self._size, sync_dist=True)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Loss and metrics of a validation batch."""
        self._evaluate("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Loss and metrics of a test batch."""
        self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: Any) -> None:
        found = self.objective(batch)
        size = found.outcome.output.shape[0]
        metrics: Any = self.evaluation_metrics[f"{stage}_metrics"]
        metrics.update(found.outcome.output.detach(), found.target)
        stats = self.network.stats
        values: dict[str, Any] = {
            f"{stage}_loss": found.loss,
            **{f"{stage}_{n}": float(getattr(stats, n)) for n in COUNTS if n != "nfe_backward"},
        }
        self.log_dict(values, batch_size=size, sync_dist=True)
        self.log_dict(metrics, prog_bar=stage == "val", batch_size=size)

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Named predictions of a batch, each with a leading batch dimension."""
        x, _ = self.task.split(batch)
        return self.task.predict(self.network(x), self.spec)

    def configure_optimizers(self) -> Any:
        """The optimiser that was named; Lightning's ``--optimizer`` and ``--lr_scheduler`` replace it."""
        return self._optimizer(self.parameters(), **self._optimizer_options)

    @property
    def monitor(self) -> tuple[str, str]:
        """The validation metric that says which model is best, and ``"max"`` or ``"min"``."""
        return f"val_{self.task.monitor}", self.task.monitor_mode

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Records package and version of every part."""
        checkpoint[CHECKPOINT_KEY] = {"components": self._provenance, "data_spec": self.spec.to_dict()}

    @classmethod
    def load(cls, path: str | Path, **objects: Any) -> FlowModule:
        """The module of a checkpoint, in evaluation mode.

        Args:
            path: the checkpoint.
            **objects: parts that had been given as objects, by kind.

        Raises:
            CheckpointError: the file is not there, is damaged, or is no checkpoint of odeframe.
            UnknownComponent: a part's plugin is missing; the message says what to install.
        """
        checkpoint = read_checkpoint(path)
        module = cls(**{**checkpoint["hyper_parameters"], **objects})
        try:
            module.load_state_dict(checkpoint["state_dict"])
        except RuntimeError as error:
            raise CheckpointError(f"checkpoint {path}: its weights do not fit the parts it names: {error}") from error
        return module.eval()


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint as plain data, its parts held against what is installed.

    Raises:
        CheckpointError: the file is not there, is damaged, or is no checkpoint of odeframe.
        UnknownComponent: a part's plugin is missing.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"checkpoint {path}: no such file; checkpoints of a run lie in its folder checkpoints/")
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types on foreign bytes; all mean the same to the user
        raise CheckpointError(
            f"checkpoint {path}: cannot be read as weights and plain data: {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no details'}"
        ) from error
    if not isinstance(checkpoint, dict) or CHECKPOINT_KEY not in checkpoint or "state_dict" not in checkpoint:
        raise CheckpointError(f"checkpoint {path}: was not written by odeframe; expected one of its fit")
    check_provenance(checkpoint[CHECKPOINT_KEY].get("components", []))
    return checkpoint


def optimizer_class(name: str) -> type[Optimizer]:
    """The optimiser of ``torch.optim`` with that name, upper or lower case."""
    known = {
        key.lower(): value
        for key, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, Optimizer) and value is not Optimizer
    }
    if name.lower() not in known:
        choices = ", ".join(sorted(cls.__name__ for cls in known.values()))
        raise InvalidOption(f"optimizer: got {name!r}, expected one of {choices}")
    return known[name.lower()]
