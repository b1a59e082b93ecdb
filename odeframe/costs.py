"""The costs that come with odeframe: running costs of the state, and costs of the control."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from odeframe.control import Control
from odeframe.errors import Incompatible, InvalidOption
from odeframe.field import Law
from odeframe.quadrature import ControlCost, Quadrature, columns

__all__ = [
    *("ControlSmoothness", "KineticEnergy", "LagrangeTerm"),
    *("RunningCost", "StateTracking", "WeightDecay"),
]

RESOLUTION = 16
"""Parts of the horizon, at least, on which the change of weights is seen."""


class RunningCost(Quadrature):
    """A user's own ``L(t, x) -> (batch,)``."""

    uses_velocity = False

    def __init__(
        self, function: Callable[[Tensor, Tensor], Tensor], weight: float = 1.0, name: str = "running_cost"
    ) -> None:
        self._function, self.weight, self.name = function, checked_weight(name, weight), name

    def rate(self, t: Tensor, x: Tensor, dx: Tensor) -> Tensor:
        """The function's value.

        Raises:
            InvalidOption: it is no tensor ``(batch,)``.
        """
        value = self._function(t, x)
        if not torch.is_tensor(value) or value.shape != x.shape[:1]:
            got = tuple(value.shape) if torch.is_tensor(value) else type(value).__name__
            raise InvalidOption(f"cost {self.name!r}: got {got}, expected one number a sample, {tuple(x.shape[:1])}")
        return value.to(x.dtype.to_real())


class KineticEnergy(Quadrature):
    """``L = |dx/dt|^2 / 2``, summed over the state's components: flows that are straight, and cheap to solve.

    Args:
        weight: its share in the objective.
        in_error_norm: whether an adaptive solver controls its error too.

    Source: Finlay et al. 2020, How to Train Your Neural ODE.
    """

    name = "kinetic_energy"

    def __init__(self, weight: float = 0.0, in_error_norm: bool = False) -> None:
        self.weight, self.in_error_norm = checked_weight(self.name, weight), in_error_norm

    def rate(self, t: Tensor, x: Tensor, dx: Tensor) -> Tensor:
        """Half the squared speed."""
        return 0.5 * columns(dx.abs().square()).sum(1)


class StateTracking(Quadrature):
    """``L = |x - r(t)|^2 / 2``, summed over the state's components: the distance to a reference on the way.

    Args:
        weight: its share in the objective.
        target: ``r``: a number, the components of a state, a tensor that a state ``(batch, *state)`` is broadcast with,
            or a function of the time that returns one.
    """

    name, uses_velocity = "state_tracking", False

    def __init__(
        self, weight: float = 0.0, target: float | Sequence[float] | Tensor | Callable[[Tensor], Tensor] = 0.0
    ) -> None:
        self.weight, self._target = checked_weight(self.name, weight), target

    def rate(self, t: Tensor, x: Tensor, dx: Tensor) -> Tensor:
        """Half the squared distance."""
        value = self._target(t) if callable(self._target) else self._target
        reference = torch.as_tensor(value, dtype=x.dtype, device=x.device)
        lengths = zip(reversed(reference.shape), reversed(x.shape), strict=False)
        if reference.dim() > x.dim() or any(length not in (1, size) for length, size in lengths):
            raise InvalidOption(
                f"cost 'state_tracking': option target: got the shape {tuple(reference.shape)} for states of shape "
                f"{tuple(x.shape)}, expected a number or {x[0].numel()} components"
            )
        return 0.5 * columns((x - reference).abs().square()).sum(1)


class LagrangeTerm(Quadrature):
    """``L(t, x, u)`` as the dynamics state it: their ``running_cost`` under the control.

    The dynamics are an :class:`odeframe.ControlSystem`, which knows its own cost.
    """

    name, weight = "lagrange", 1.0

    def along(self, law: Law, t: Tensor, x: Tensor, dx: Tensor) -> Tensor:
        """``L`` under the control of the interval."""
        return law.observe("running_cost", t, x)

    def rate(self, t: Tensor, x: Tensor, dx: Tensor) -> Tensor:
        """Refused: the cost sees the control, which a state and its velocity do not tell."""
        raise Incompatible("the cost 'lagrange' is that of a Flow of an odeframe.ControlSystem")


class WeightDecay(ControlCost):
    """``|u|^2 / 2`` over the parameters of a control: with the weight ``w``, a gradient ``w u``.

    The parameters are the control's own: knots, coefficients, the weights of a hypernetwork or a policy.

    Args:
        weight: its share in the objective.
    """

    name = "weight_decay"

    def __init__(self, weight: float = 0.0) -> None:
        self.weight = checked_weight(self.name, weight)

    def __call__(self, control: nn.Module) -> Tensor:
        """Half the sum of squares, 0-d."""
        return _total(0.5 * p.abs().square().sum() for p in control.parameters() if p.requires_grad)


class ControlSmoothness(ControlCost):
    """``sum_k |theta_{k+1} - theta_k|^2 / h``: neighbouring layers are close; the discrete ``int |theta'|^2 dt``.

    ``theta`` are the block's weights.  For a piecewise-constant control these are the jumps between pieces of length
    ``h``; for weights that vary within a piece, the changes over its parts of length ``h``, of which the horizon has at
    least 16: for a piecewise-linear control the sum *is* the integral.

    Args:
        weight: its share in the objective.

    Source: Haber, Ruthotto 2017, Stable Architectures for Deep Neural Networks, 4.2 (derivative-based regularisation).
    """

    name = "control_smoothness"

    def __init__(self, weight: float = 0.0) -> None:
        self.weight = checked_weight(self.name, weight)

    def __call__(self, control: nn.Module) -> Tensor:
        """The sum, 0-d; 0 for weights that do not depend on time."""
        if not isinstance(control, Control):
            raise InvalidOption(f"cost {self.name!r}: got {type(control).__name__}, expected an odeframe.Control")
        edges = sorted({*control.horizon, *control.breakpoints()}, reverse=control.horizon[1] < control.horizon[0])
        changes, before = [], None
        for start, end in itertools.pairwise(edges):
            law, length = control.on(_time(start), _time(end)), abs(end - start)
            parts = 0 if law.steady else math.ceil(RESOLUTION / (len(edges) - 1))
            nodes = [_time(start + (end - start) * k / max(parts, 1)) for k in range(parts + 1)]
            path = [list(law.parameters(t).values()) for t in nodes]
            if before is not None:
                changes.append(_distance(before, path[0]) / length)
            changes += [_distance(a, b) * (parts / length) for a, b in itertools.pairwise(path)]
            before = path[-1]
        return _total(changes)


def _time(t: float) -> Tensor:
    return torch.tensor(t, dtype=torch.float64)


def _distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """``|a - b|^2``, 0-d."""
    return _total((y - x).abs().square().sum() for x, y in zip(a, b, strict=True))


def _total(terms: Iterable[Tensor]) -> Tensor:
    return sum(terms, start=torch.zeros(()))


def checked_weight(name: str, weight: float) -> float:
    if not (math.isfinite(weight) and weight >= 0):
        raise InvalidOption(f"cost {name!r}: got the weight {weight}, expected a finite number of at least 0")
    return float(weight)
