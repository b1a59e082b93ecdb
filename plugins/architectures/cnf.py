"""The continuous normalising flow: from data to a standard normal variable, with the change of density beside it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from odeframe import Architecture, InvalidOption, Network
from odeframe.flow import Choice
from odeframe.jacobian_costs import LogDensity
from odeframe.network import Parts
from odeframe.options import check_positive
from odeframe.specification import NetworkSpec

EXACT_UP_TO = 4
"""Components of a state up to which ``trace: auto`` is the exact one: that many vector-Jacobian products."""


class CNF(Architecture):
    """``dx/dt = f(t, x)`` on ``(0, horizon)``, from a sample to ``z``: ``log p = log N(z; 0, I) + int tr(df/dx) dt``.

    The integral is a running cost of the flow with weight 1, so that the objective of the task ``density`` is the mean
    of ``-log p(x)``.  No stem and no head: a change of dimension has no density.

    Args:
        horizon: length of the interval.
        hidden: size of the hidden layers of the default field.
        depth: how many.
        trace: in training, ``"exact"`` or ``"hutchinson"``, one random probe a sample and solve; ``"auto"`` is exact
            for up to 4 components.  ``log_prob`` is exact always.

    Source: Grathwohl et al. 2019, FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models.
    """

    conformance: ClassVar[dict[str, Any]] = {"input_shapes": ((3,),), "output_shape": (3,)}
    defaults: ClassVar[dict[str, Choice]] = {
        "dynamics": "concat_squash",
        "control": "constant",
        "solver": {"name": "dopri5", "rtol": 1e-4, "atol": 1e-4},
    }

    def __init__(
        self,
        horizon: float = 1.0,
        hidden: int = 64,
        depth: int = 3,
        trace: Literal["auto", "exact", "hutchinson"] = "auto",
    ) -> None:
        check_positive("architecture 'cnf'", horizon=horizon)
        if trace not in ("auto", "exact", "hutchinson"):
            raise InvalidOption(
                f"architecture 'cnf': option trace: got {trace!r}, expected 'auto', 'exact' or 'hutchinson'"
            )
        self.horizon, self.hidden, self.depth, self.trace = horizon, hidden, depth, trace

    def assemble(self, spec: NetworkSpec, parts: Parts) -> Network:
        """One flow."""
        if len(spec.input_shape) != 1 or spec.output_shape != spec.input_shape:
            raise InvalidOption(
                f"architecture 'cnf' maps vectors to vectors of one size: got samples of shape {spec.input_shape} and "
                f"outputs {spec.output_shape}; use task: density, and data.flat: true for images"
            )
        (width,) = spec.input_shape
        flow = parts.flow((0.0, self.horizon), width=width, hidden=self.hidden, depth=self.depth)
        exact = width <= EXACT_UP_TO if self.trace == "auto" else self.trace == "exact"
        flow.add_costs([LogDensity(weight=1.0, exact=exact)])
        return Network({"flow": flow})
