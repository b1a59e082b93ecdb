"""The LightningModule: a network, a task, and the trainer that improves the control."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from odeframe.assembly import assemble, plain
from odeframe.checkpoint import CHECKPOINT_KEY, load_weights, read_checkpoint
from odeframe.compatibility import traits_of
from odeframe.control import check_factor
from odeframe.errors import InvalidOption
from odeframe.fit_noise import FitNoise
from odeframe.inference import without_graph
from odeframe.network import Network
from odeframe.offered import OffersTaskMethods
from odeframe.optimizers import checked_optimizer
from odeframe.options import check_not_negative
from odeframe.registry import provenance, word
from odeframe.schedule import checked_schedule, warm_cosine
from odeframe.settling import SettlesFailures
from odeframe.specification import DataSpec
from odeframe.support import check_support
from odeframe.trainer import Objective

LEARNING_RATE = 2e-3
COUNTS = ("nfe", "nfe_backward", "accepted", "rejected")


class FlowModule(OffersTaskMethods, SettlesFailures):
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
        refined: how many times finer than its words say the control is; what :meth:`refine` has made of it, if not 1.
        schedule: how the step length goes over a fit: ``"cosine"`` rises to ``learning_rate`` and falls to zero,
            ``"constant"`` keeps it.  Lightning's ``--optimizer`` and ``--lr_scheduler`` replace both.
        data: the word of the data, for the compatibility check and for checkpoints.
        costs: running costs of every flow's state and costs of its control, names to weights
            (:func:`odeframe.cost_words.resolve_costs`): ``{"kinetic_energy": 0.01, "control_smoothness": 1e-4}``.

    Raises:
        InvalidOption: an option of a part or of the optimiser is unknown or wrong.
        Incompatible: two parts do not go together.
    """

    #: batches of the fit before the one at hand, whether or not the optimiser has stepped; a resumed fit counts on
    batches: int = 0
    #: the first step of the schedule and the one behind its last; by default all of the fit
    cycle: tuple[int, float] | None = None

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
        learning_rate: float = LEARNING_RATE,
        optimizer_options: Mapping[str, Any] | None = None,
        schedule: str = "cosine",
        refined: int | None = None,
        data: Any = None,
        costs: Any = None,
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
        data_word = None if data is None else word("data", data)
        made = assemble(choices, self.spec, data_word, costs)
        self.network: Network = made.network
        self.task, self.rule, self._provenance = made.task, made.trainer, made.provenance()
        #: costs ``L(u)`` of every flow's control, each called as ``cost(flow.control)`` and weighed by ``cost.weight``
        self.control_costs = made.costs.control
        recorded = None if data_word is None else plain(data_word)
        if isinstance(recorded, dict):
            options = {name: value for name, value in recorded.items() if name != "name"}
            self._provenance.append(provenance("data", recorded["name"], options))
        self.automatic_optimization = self.rule.automatic_optimization
        self._rule_word, self._noise = made.words["trainer"], FitNoise()
        self._choose_optimizer(optimizer, {"lr": learning_rate, **(optimizer_options or {})}, schedule)
        metrics = {stage: self.task.metrics(self.spec).clone(prefix=f"{stage}_") for stage in ("train", "val", "test")}
        self.evaluation_metrics = nn.ModuleDict({f"{stage}_metrics": each for stage, each in metrics.items()})
        self.save_hyperparameters(
            {
                "data_spec": self.spec.to_dict(),
                **made.plain_words(),
                "optimizer": optimizer,
                "learning_rate": learning_rate,
                "optimizer_options": dict(optimizer_options or {}),
                "schedule": schedule,
                "data": recorded if isinstance(recorded, dict) else None,
                "refined": None,
            }
        )
        if refined is not None:
            self.refine(refined)

    def _choose_optimizer(self, name: str, options: dict[str, Any], schedule: str) -> None:
        """Holds the words of the optimisation against what there is; the optimiser itself is made by a fit."""
        self._optimizer, self._optimizer_options = checked_optimizer(name, options), options
        check_not_negative(f"optimizer {name!r}", learning_rate=options["lr"])
        self._schedule = checked_schedule(schedule)
        self._scheduled: Optimizer | None = None
        #: what the command line's --optimizer and --lr_scheduler said, as plain data for checkpoints
        self.optimisation: dict[str, Any] = {}

    def forward(self, x: Tensor) -> Tensor:
        """The network's output, ``(batch, *output)``."""
        return self.network(x)

    def refine(self, factor: int) -> None:
        """``factor`` times as many pieces and steps in every flow, of the same control; for checkpoints too.

        Raises:
            InvalidOption: the factor is none, or a control has no pieces.
        """
        check_factor(factor, "refined")
        for flow in self.network.flows:
            flow.refine(factor)
        self.hparams["refined"] = factor * (self.hparams["refined"] or 1)

    def objective(self, batch: Any) -> Objective:
        """Loss, outputs and target of a batch."""
        return self.objective_at(*self.task.split(batch))

    def objective_at(self, x: Any, target: Any) -> Objective:
        """The same of an input and a target apart, for a rule that moves the input."""
        outcome = self.network.run(x)
        cost = self.task.cost(outcome.output, target)
        loss = (cost if outcome.cost is None else cost + outcome.cost).mean()
        return Objective(loss + self.control_cost() if self.control_costs else loss, outcome, target)

    def control_cost(self) -> Tensor:
        """The part of the objective that the control alone makes, ``sum w L(u)`` over costs and flows, 0-d."""
        terms = [cost.weight * cost(flow.control) for flow in self.network.flows for cost in self.control_costs]
        return torch.stack(terms).sum() if terms else torch.zeros(())

    def configure_callbacks(self) -> list[pl.Callback]:
        """None of its own; the first hook of a fit, in which options that the rule does not support are refused.

        Raises:
            Incompatible: the message names the option.
        """
        if self.trainer.state.fn == "fit":
            traits = traits_of("trainer", self._rule_word)
            gradients = [flow.gradient for flow in self.network.flows]
            check_support(str(self._rule_word), self.automatic_optimization, traits, self.trainer, gradients)
        return []

    def setup(self, stage: str) -> None:
        """Lets the rule refuse a network that it cannot train."""
        if stage == "fit":
            self.rule.setup(self)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Projects the controls, and logs what the batch cost in all its passes, forward and backward."""
        for flow in self.network.flows:
            flow.control.project()
        counts = {f"train_{name}": float(getattr(self.network.counted(), name)) for name in COUNTS}
        self.network.count(False)
        self.log_dict(counts, on_step=False, on_epoch=True, batch_size=self._share.weight, sync_dist=True)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Loss and metrics of a validation batch."""
        self.unsettled.run(self._evaluate, "val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Loss and metrics of a test batch."""
        self.unsettled.run(self._evaluate, "test", batch)

    def _evaluate(self, stage: str, batch: Any) -> None:
        metrics: Any = self.evaluation_metrics[f"{stage}_metrics"]
        with without_graph(batch) as ordinary:
            found = self.objective(ordinary)
            self.task.score(metrics, found.outcome, found.target)
        size = found.outcome.output.shape[0]
        stats = self.network.stats
        values: dict[str, Any] = {
            f"{stage}_loss": found.loss,
            **{f"{stage}_{n}": float(getattr(stats, n)) for n in COUNTS if n != "nfe_backward"},
            **{f"{stage}_{n}": value for n, value in self.rule.evaluate(self, batch).items()},
        }
        weight = size * self.trainer.world_size  # Lightning divides the sum over ranks, a whole number, and rounds it
        self.log_dict(values, batch_size=weight, sync_dist=True)
        self.log_dict(metrics, prog_bar=stage == "val", batch_size=size)

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Named predictions of a batch, each with a leading batch dimension."""
        with without_graph(batch) as ordinary:
            return self.task.predict(self.network(self.task.split(ordinary)[0]), self.spec)

    def configure_optimizers(self) -> Any:
        """The optimiser that was named; Lightning's ``--optimizer`` and ``--lr_scheduler`` replace it."""
        try:
            made = self._optimizer(self.parameters(), **self._optimizer_options)
        except (TypeError, ValueError) as error:
            raise InvalidOption(f"optimizer {self._optimizer.__name__!r}: {error}") from error
        self._scheduled = made if self._schedule == "cosine" else None
        for group in made.param_groups:
            group.setdefault("initial_lr", group["lr"])  # torch's own name for it; part of a checkpoint
        return made

    def on_train_start(self) -> None:
        """All ranks take one seed of the fit's noise."""
        self._noise.start(self.trainer)

    def on_fit_end(self) -> None:
        """Says so where nothing was trained."""
        if self.trainer.global_step == 0:
            names = ("max_epochs", "max_steps", "limit_train_batches")
            limits = ", ".join(f"{name}={getattr(self.trainer, name)}" for name in names)
            rank_zero_warn(f"nothing was trained, the weights are as they were: got {limits}")

    def on_train_end(self) -> None:
        """Leaves the flows to torch's generator."""
        self._noise.release(self.network)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Step length and noise of this batch: functions of its number, so that a resumed fit needs no memory."""
        self.batches = self.trainer.fit_loop.epoch_loop.total_batch_idx
        self._noise.key(self.network, self.batches)
        if self._scheduled is None:
            return
        start, end = self.cycle or (0, float(self.trainer.estimated_stepping_batches))
        factor = warm_cosine(self.trainer.global_step - start, end - start)
        for group in self._scheduled.param_groups:
            group["lr"] = factor * group.get("initial_lr", self._optimizer_options["lr"])

    @property
    def monitor(self) -> tuple[str, str]:
        """The validation metric that says which model is best, and ``"max"`` or ``"min"``."""
        return f"val_{self.task.monitor}", self.task.monitor_mode

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Records package and version of every part, the data, the command line's optimiser, and the rule's state."""
        checkpoint[CHECKPOINT_KEY] = {
            "components": self._provenance,
            "data_spec": self.spec.to_dict(),
            "optimisation": self.optimisation,
            "trainer": self.rule.state_dict(),
            "noise_seed": self._noise.seed,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Gives the rule what it remembered, and the noise its seed."""
        self._noise.seed = checkpoint[CHECKPOINT_KEY].get("noise_seed", self._noise.seed)
        self.rule.load_state_dict(checkpoint[CHECKPOINT_KEY].get("trainer", {}))

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
        load_weights(module, checkpoint["state_dict"], path)
        return module.eval()
