"""Costs from words: names and weights, as configurations and the command line have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from odeframe.costs import ControlSmoothness, KineticEnergy, RunningCost, StateTracking, WeightDecay
from odeframe.errors import InvalidOption, suggestion
from odeframe.jacobian_costs import JacobianFrobenius
from odeframe.options import construct
from odeframe.quadrature import ControlCost, Quadrature

__all__ = ["COSTS", "Costs", "resolve_costs"]

COSTS: dict[str, Callable[..., Quadrature | ControlCost]] = {
    each.name: each for each in (KineticEnergy, JacobianFrobenius, StateTracking, WeightDecay, ControlSmoothness)
}
"""The costs that have a word."""


@dataclass(frozen=True)
class Costs:
    """What the words of ``costs`` became.

    Attributes:
        running: running costs, for every flow of a network.
        control: costs of every flow's control.
        words: by name, as plain data where it was given as such, else the object.
    """

    running: tuple[Quadrature, ...] = ()
    control: tuple[ControlCost, ...] = ()
    words: Mapping[str, Any] = field(default_factory=dict)


def resolve_costs(costs: Any) -> Costs:
    """Costs from words.

    Args:
        costs: a mapping from names to weights, ``{"kinetic_energy": 0.01}``, to options,
            ``{"state_tracking": {"weight": 0.1, "target": 1.0}}``, or to objects; a name of one's own goes with a
            ``Quadrature``, a ``ControlCost``, or a function ``L(t, x) -> (batch,)`` of weight 1.  Or a list of such
            objects.  ``None`` for none.

    Raises:
        InvalidOption: a name is unknown (the message has the near one), or an option is wrong.
    """
    if costs is None:
        return Costs()
    if isinstance(costs, Sequence) and not isinstance(costs, str):
        named = [(getattr(each, "name", type(each).__name__), each) for each in costs]
        if len(dict(named)) < len(named):
            raise InvalidOption(f"costs: two have one name: {', '.join(name for name, _ in named)}; name them apart")
        costs = dict(named)
    if not isinstance(costs, Mapping):
        raise InvalidOption(f"costs: got {costs!r}, expected a mapping of names to weights: {{kinetic_energy: 0.01}}")
    made = [_cost(name, value) for name, value in costs.items()]
    words = {name: dict(value) if isinstance(value, Mapping) else value for name, value in costs.items()}
    return Costs(
        tuple(each for each in made if isinstance(each, Quadrature)),
        tuple(each for each in made if isinstance(each, ControlCost)),
        words,
    )


def _cost(name: Any, value: Any) -> Quadrature | ControlCost:
    if isinstance(value, Quadrature | ControlCost):
        return value
    if callable(value):
        return RunningCost(value, name=str(name))
    if name not in COSTS:
        near = suggestion(str(name), COSTS)
        raise InvalidOption(
            f"costs: there is none named {name!r}.{near} Those by name: {', '.join(COSTS)}; from Python also a "
            "function L(t, x), or an object"
        )
    options = dict(value) if isinstance(value, Mapping) else {"weight": value}
    if "weight" not in options:
        raise InvalidOption(f"cost {name!r}: has no weight; write {name}: 0.01, or {name}: {{weight: 0.01, ...}}")
    return construct("cost", name, COSTS[name], options)
