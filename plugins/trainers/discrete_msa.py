"""Weights of two or three values, trained without real ones underneath."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from odeframe import CheckpointError, ControlTrainer, Flow, Incompatible, InvalidOption, SolveFailed
from odeframe.block import Block
from odeframe.network import Network
from odeframe.options import check_not_negative, check_positive
from odeframe.reduction import average
from odeframe.trainer import Trained, optimizer_step
from odeframe_plugins.trainers.flip import LEVELS, binary_flip, collapses, nearest, ternary_flip

RHO = {"binary": 0.9, "ternary": 0.5}


class DiscreteMSA(ControlTrainer):
    """The method of successive approximations for weights ``theta = s w`` with ``w`` in {-1, 1} or {-1, 0, 1}.

    Each batch moves an average of the Hamiltonian's gradient, ``M <- a M + (1 - a) dH/dtheta`` (minus the gradient of
    ``J``), and then the weights by a flip rule of ``M`` alone::

        binary   w <- sign(M)  where |M| > rho max { |M| over wrong signs }
        ternary  w <- argmax over v of  M v - l |v| - r (v - w)^2,   r = rho max { |M| over entries with w != sign M },
                 l = sparsity mean |M|

    There are no real-valued weights: what is kept is ``w`` and ``M``.  ``1 - a`` is multiplied by ``decay`` after each
    epoch.  The other parameters (biases, norms, and the matrices that ``stages`` leaves out) are the module's
    optimiser's; the gradients of the discrete ones stay ``None``.  Any solver, gradient and task will do; the control
    must own the weights themselves (``constant``, ``piecewise_constant``).

    Args:
        levels: ``"binary"`` or ``"ternary"``.
        stages: whose weight matrices ``(out, in)`` and kernels ``(out, in, ...)`` are discrete: ``"flows"``; ``"all"``,
            with stem, transitions and head; or names of stages of the network.
        rho: relative threshold, at least 0 and below 1: the larger, the fewer entries flip at once; default 0.9 for
            binary and 0.5 for ternary weights.
        sparsity: ternary weights only: the cost of an entry that is not zero, in units of the mean of ``|M|``; default
            1.25.  Where it is so large that a tensor could never leave zero, a fit stops with an error.
        momentum: ``a`` of the first epoch.
        decay: of ``1 - a``, by epoch.
        scale: ``s`` of all discrete tensors; default ``1 / sqrt(fan_in)`` of each, so that a sum of ``fan_in`` terms
            keeps its size.

    The first ``w`` are the signs of the weights that the network has; for ternary ones the smaller third is 0.

    Raises:
        InvalidOption: an option is outside its range, or a stage is unknown.
        Incompatible: a control computes its weights, or there is nothing to make discrete.

    Source: Li, Hao 2018, An Optimal Control Approach to Deep Learning and Applications to Discrete-Weight Neural
    Networks.  Other than there: thresholds are relative to ``M``, the scale ``s``, any norm, and any task's cost.
    """

    automatic_optimization: ClassVar[bool] = False
    traits: ClassVar[tuple[str, ...]] = ("ddp",)

    def __init__(
        self,
        levels: str = "binary",
        stages: str | Sequence[str] = "flows",
        rho: float | None = None,
        sparsity: float | None = None,
        momentum: float = 0.999,
        decay: float = 0.95,
        scale: float | None = None,
    ) -> None:
        if levels not in LEVELS:
            raise _wrong("levels", levels, "'binary' or 'ternary'")
        if levels == "binary" and sparsity is not None:
            raise _wrong("sparsity", sparsity, "none beside levels: binary; write levels: ternary")
        self.levels, self.stages, self.scale = levels, stages, scale
        self.rho = RHO[levels] if rho is None else rho
        self.sparsity = 1.25 if sparsity is None else sparsity
        self.momentum, self.decay = momentum, decay
        if not 0 <= self.rho < 1:
            raise _wrong("rho", rho, "a number >= 0 and < 1")
        if not 0 <= momentum < 1:
            raise _wrong("momentum", momentum, "a number >= 0 and < 1")
        if not 0 < decay <= 1:
            raise _wrong("decay", decay, "a number > 0 and <= 1")
        check_not_negative("trainer 'discrete_msa'", sparsity=sparsity)
        check_positive("trainer 'discrete_msa'", scale=scale)
        self._names: list[str] = []
        self._M: dict[str, Tensor] = {}

    def setup(self, module: Trained) -> None:
        """Finds the discrete tensors and puts them on their levels.

        Raises:
            InvalidOption: a stage is unknown.
            Incompatible: a control computes its weights, or no tensor is a matrix or a kernel.
        """
        chosen = {id(parameter) for parameter in _matrices(module.network, self.stages)}
        named = {name: p for name, p in module.network.named_parameters() if id(p) in chosen}
        if not named:
            raise Incompatible(
                f"trainer 'discrete_msa', stages: {self.stages!r}: there is no weight matrix or kernel to make "
                f"discrete; the stages are {', '.join(module.network.stages)}; write stages: all"
            )
        self._names, self._M = list(named), {}
        with torch.no_grad():
            for parameter in named.values():
                parameter.copy_(nearest(parameter, self.levels) * self._scale(parameter))

    def training_step(self, module: Trained, batch: Any) -> Tensor:
        """One step of the average, of the flip rule, and of the optimiser for the rest.

        Raises:
            SolveFailed: a gradient is not finite.
            InvalidOption: a tensor collapses to zero under the sparsity; the weights are those before the batch.
        """
        found = module.objective(batch)
        named = {name: p for name, p in module.network.named_parameters() if p.requires_grad}
        gradients = torch.autograd.grad(found.loss, list(named.values()), allow_unused=True)
        filled = [torch.zeros_like(p) if g is None else g for p, g in zip(named.values(), gradients, strict=True)]
        mean = dict(zip(named, average(filled), strict=True))
        self._check(mean)
        share = (1 - self.momentum) * self.decay**module.current_epoch
        M = {name: self._averaged(name, mean[name], share) for name in self._names}
        flipped = {name: self._flip(name, named[name].detach(), M[name]) for name in self._names}
        self._M = M
        moved, size = 0.0, 0
        with torch.no_grad():
            for name, value in flipped.items():
                moved, size = moved + float((named[name] != value).sum()), size + value.numel()
                named[name].copy_(value)
        for name, parameter in named.items():
            parameter.grad = None if name in M else mean[name]
        optimizer_step(module)
        count = found.outcome.output.shape[0]
        module.log_dict({"train_flips": moved / size}, on_step=False, on_epoch=True, batch_size=count)
        return found.loss.detach()

    def evaluate(self, module: Trained, batch: Any) -> dict[str, Tensor]:
        """``nonzero``: the share of ternary entries that are not zero."""
        if self.levels == "binary":
            return {}
        values = [value.detach().flatten() for value in _matrices(module.network, self.stages)]
        return {"nonzero": (torch.cat(values) != 0).to(torch.float32).mean()}

    def state_dict(self) -> dict[str, Any]:
        """``M`` of every discrete tensor, by name."""
        return {"M": dict(self._M)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the ``M`` of a checkpoint.

        Raises:
            CheckpointError: it has none, or those of other tensors.
        """
        M = state.get("M")
        if not isinstance(M, Mapping) or (M and self._names and set(M) != set(self._names)):
            raise CheckpointError(
                f"trainer 'discrete_msa': a checkpoint has the state {sorted(M if isinstance(M, Mapping) else state)}, "
                f"expected M of {', '.join(self._names) or 'its tensors'}; give the trainer that wrote it"
            )
        self._M = dict(M)

    def _scale(self, parameter: Tensor) -> float:
        fan_in = parameter.numel() / max(1, parameter.shape[0])
        return fan_in**-0.5 if self.scale is None else self.scale

    def _averaged(self, name: str, gradient: Tensor, share: float) -> Tensor:
        gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))  # steps of 1e-3 are lost in bf16
        before = self._M.get(name)
        before = torch.zeros_like(gradient) if before is None else before.to(gradient)
        return (1 - share) * before - share * gradient

    def _flip(self, name: str, value: Tensor, M: Tensor) -> Tensor:
        w = value.sign().to(M.dtype)
        if self.levels == "binary":
            w = binary_flip(w, M, self.rho)
        else:
            w = ternary_flip(w, M, self.rho, self.sparsity)
            if not bool(w.any()) and collapses(M, self.rho, self.sparsity):
                largest = float(M.abs().max() / M.abs().mean())
                raise InvalidOption(
                    f"trainer 'discrete_msa', option sparsity: got {self.sparsity:g}, under which all {w.numel()} "
                    f"entries of {name} would be zero for good: its largest |M| is {largest:.3g} times the mean, and "
                    f"sparsity must be less than (1 - rho) times that; write e.g. sparsity: "
                    f"{(1 - self.rho) * largest / 2:.2g}"
                )
        return (w * self._scale(value)).to(value.dtype)

    def _check(self, gradients: Mapping[str, Tensor]) -> None:
        for name, gradient in gradients.items():
            if not bool(torch.isfinite(gradient).all()):
                raise SolveFailed(
                    f"the gradient of {name} is not finite, and the average M would never recover from it"
                )


def _matrices(network: Network, stages: str | Sequence[str]) -> list[nn.Parameter]:
    """The weight matrices and kernels of the stages asked for; of flows those of the dynamics."""
    names = [name for name, stage in network.stages.items() if stages == "all" or isinstance(stage, Flow)]
    if stages not in ("flows", "all"):
        names = [stages] if isinstance(stages, str) else list(stages)
        for name in names:
            if name not in network.stages:
                known = ", ".join(network.stages)
                raise _wrong("stages", name, f"'flows', 'all' or names of stages of this network: {known}")
    found: list[nn.Parameter] = []
    for name in names:
        stage = network.stages[name]
        owners = _blocks(name, stage) if isinstance(stage, Flow) else [stage]
        found += [p for owner in owners for p in owner.parameters() if p.dim() >= 2 and p.requires_grad]
    return found


def _blocks(name: str, flow: Flow) -> list[nn.Module]:
    """The dynamics of a flow, piece by piece, without a solver's coefficients."""
    times = torch.tensor([flow.horizon[0], *flow.control.breakpoints(), flow.horizon[1]], dtype=torch.float64)
    law = flow.control.on(times[0], times[1])
    if law.module is not law.block:
        raise Incompatible(
            f"trainer 'discrete_msa': the weights of stage {name!r} are computed by control "
            f"{type(flow.control).__name__}, and discrete numbers underneath would not make them discrete; write "
            "control: piecewise_constant or constant"
        )
    return [block.slots for block in flow.control.modules() if isinstance(block, Block)]


def _wrong(option: str, got: Any, expected: str) -> InvalidOption:
    return InvalidOption(f"trainer 'discrete_msa', option {option}: got {got!r}, expected {expected}")
