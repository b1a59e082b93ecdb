"""A system under control, as it is: no stem, no head."""

from __future__ import annotations

from typing import Any, ClassVar

from odeframe import Architecture, Incompatible, InvalidOption, Network
from odeframe.costs import LagrangeTerm
from odeframe.flow import Choice
from odeframe.network import Parts
from odeframe.specification import NetworkSpec
from odeframe.system import ControlSystem


class ControlledSystem(Architecture):
    """``x' = f(t, x, u)`` on ``(0, T)`` with the running cost ``L(t, x, u)``; the output is ``x(T)``.

    The dynamics are an ``odeframe.ControlSystem``, by default the one that the data's initial states belong to, with
    its horizon ``T``.  What is trained is the input ``u`` alone: open loop, ``u(t)`` by any control that drives a
    parameter, or closed, by ``feedback``.

    Args:
        steps: of the solver, and pieces of a piecewise control that says nothing else.

    Source: Bryson, Ho 1975, Applied Optimal Control, 2.
    """

    conformance: ClassVar[dict[str, Any]] = {
        "input_shapes": ((2,),),
        "output_shape": (2,),
        "spec": {"dynamics": "double_integrator"},
    }
    defaults: ClassVar[dict[str, Choice]] = {"control": "piecewise_constant", "solver": "rk4", "trainer": "gradient"}

    def __init__(self, steps: int = 24) -> None:
        if steps < 1:
            raise InvalidOption(f"architecture 'controlled_system': option steps: got {steps}, expected at least 1")
        self.steps = steps

    def default(self, kind: str, spec: NetworkSpec) -> Choice:
        """The dynamics that the data name."""
        if kind != "dynamics":
            return super().default(kind, spec)
        if spec.dynamics is None:
            raise Incompatible(
                "architecture 'controlled_system': the data are initial states of no system that they name; write "
                "data: linear_quadratic or alike, or name the dynamics too"
            )
        return spec.dynamics

    def assemble(self, spec: NetworkSpec, parts: Parts) -> Network:
        """One flow, whose running cost is the system's own."""
        system = parts.words["dynamics"].build()
        if not isinstance(system, ControlSystem):
            raise Incompatible(
                f"architecture 'controlled_system': got {type(system).__name__}, expected an odeframe.ControlSystem, "
                "which knows its input and its costs"
            )
        if system.state_shape and system.state_shape != spec.input_shape:
            raise Incompatible(
                f"architecture 'controlled_system': {type(system).__name__} has states of shape {system.state_shape}, "
                f"and the data's initial states have {spec.input_shape}"
            )
        flow = parts.flow((0.0, system.horizon), self.steps, width=spec.input_shape[0])
        flow.add_costs([LagrangeTerm()])
        return Network({"flow": flow})
