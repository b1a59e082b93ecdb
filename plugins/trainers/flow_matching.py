"""Flow matching: the field of a density by regression on straight paths, without a solve."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from odeframe import ControlTrainer, Incompatible, Noise
from odeframe.jacobian_costs import LogDensity
from odeframe.noise import sample_numbers
from odeframe.trainer import Trained


class FlowMatching(ControlTrainer):
    """``min E |f(t, x_t) - (z - x) / (t_1 - t_0)|^2``, ``x_t = (1 - s) x + s z``, ``s = (t - t_0) / (t_1 - t_0)``.

    ``x`` are data, ``z`` standard normal, ``t`` uniform on the flow's horizon, a time a sample.  The minimiser carries
    the data to the normal distribution as a density's flow does: the same ``log_prob`` and ``sample`` afterwards,
    trained without solving an equation.  The loss is not a likelihood; ``nll`` in validation is.
    Costs of the control are added.

    Draws are a function of the fit's seed and the number of the batch, and samples are numbered over ranks: several
    draw what one would, and a resumed fit what the whole one drew.

    Source: Lipman et al. 2023, Flow Matching for Generative Modeling, section 4 (conditional optimal transport).
    """

    traits: ClassVar[tuple[str, ...]] = ("automatic", "ddp")
    conformance: ClassVar[dict[str, Any]] = {"share": 0.9}  # of a negative log-likelihood, whose least value is no zero

    def setup(self, module: Trained) -> None:
        """Refuses a network that is more than one flow."""
        if len(module.network.flows) != 1 or len(module.network.stages) != 1:
            raise Incompatible(
                f"trainer 'flow_matching' trains the field of one flow, got {len(module.network.stages)} stages; write "
                "architecture: cnf"
            )
        flow = module.network.flows[0]
        if flow.control.breakpoints():
            raise Incompatible(
                f"trainer 'flow_matching' takes samples at times of their own, and {type(flow.control).__name__} has "
                "other weights at other times: write control: constant"
            )
        others = [cost.name for cost in flow.quadratures if not isinstance(cost, LogDensity)]
        if others:
            raise Incompatible(
                f"trainer 'flow_matching' solves no equation, along which the cost {others[0]!r} would be integrated: "
                "leave it out, or write trainer: gradient"
            )

    def training_step(self, module: Trained, batch: Any) -> Tensor:
        """The regression's loss, for Lightning to differentiate."""
        x, _ = module.task.split(batch)
        flow = module.network.flows[0]
        start, end = flow.horizon
        seed = int(torch.randint(2**62, ())) if flow.noise_seed is None else flow.noise_seed
        source = Noise(seed, sample_numbers(x)).on(0)
        z, share = source.normal(x, tuple(x.shape[1:])), source.uniform(x, (), stream=1)
        mixed = share.reshape(-1, *[1] * (x.dim() - 1))
        times = start + (end - start) * share
        law = flow.field().on(torch.tensor(start, dtype=torch.float64), torch.tensor(end, dtype=torch.float64))
        error = law(times, (1 - mixed) * x + mixed * z) - (z - x) / (end - start)
        loss = error.square().flatten(1).sum(1).mean()
        return loss + module.control_cost()
