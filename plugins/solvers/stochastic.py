"""Schemes that draw: stochastic depth, shake-shake, and Euler-Maruyama for stochastic differential equations."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from odeframe import Incompatible, InvalidOption, Law, StepSolver
from odeframe.solver import Memory, OnFailure


class BernoulliEuler(StepSolver):
    """Euler's step behind a coin, ``eta ~ Bernoulli(p_n)`` for each sample and step: stochastic depth.

    Training and evaluation, by ``scaling``:

    - ``"depth"``: ``x_{n+1} = x_n + h eta f(x_n)``; mean ``x_n + h p_n f``.  The variance of a step is
      ``p_n (1 - p_n) h^2 f^2``, so the noise vanishes as ``h -> 0``.
    - ``"inverted"``: ``x_{n+1} = x_n + h (eta / p_n) f(x_n)``; mean ``x_n + h f``.
    - ``"sde"``: ``x_{n+1} = x_n + h p_n f + sqrt(h) (eta - p_n) f``, which discretises the Ito equation
      ``dX = p f dt + sqrt(p (1 - p)) f dB``, one Brownian motion a sample: weak order 1 at ``p = 1/2``, tending to 1/2
      elsewhere, because of the coin's third moment.

    Survival falls linearly with depth, ``p_n = 1 - (n / N) (1 - p_L)`` for the ``n``-th of ``N`` equal steps (in
    general, with ``n / N`` the part of the horizon that lies before the step's end), or is ``p_L`` throughout.  Without
    noise (evaluation) the mean is used.  Running costs are integrated beside the coin, not behind it.

    Args:
        survival: ``p_L``, the probability that the last block is there.
        schedule: ``"linear"`` or ``"constant"``.
        scaling: ``"depth"``, ``"inverted"`` or ``"sde"``.
        steps, dt, on_failure: as for every step solver.

    Shapes: ``x`` ``(batch, *state)``.

    Source: Huang et al. 2016, Deep Networks with Stochastic Depth, section 3; Lu et al. 2018, Beyond Finite Layer
    Neural Networks, section 3 (the equation).
    """

    traits: ClassVar[tuple[str, ...]] = ("step", "partitioned", "stochastic")
    opaque = False

    def __init__(
        self,
        survival: float = 0.5,
        schedule: Literal["linear", "constant"] = "linear",
        scaling: Literal["depth", "inverted", "sde"] = "depth",
        steps: int | None = None,
        dt: float | None = None,
        on_failure: OnFailure = "raise",
    ) -> None:
        super().__init__(steps, dt, on_failure)
        if not 0 < survival <= 1:
            raise InvalidOption(f"solver 'bernoulli_euler': option survival: got {survival}, expected in (0, 1]")
        _check_choice("bernoulli_euler", "schedule", schedule, ("linear", "constant"))
        _check_choice("bernoulli_euler", "scaling", scaling, ("depth", "inverted", "sde"))
        self.survival, self.schedule, self.scaling = survival, schedule, scaling

    def probability(self, field: Law, t: Tensor, dt: Any) -> float | Tensor:
        """``p_n`` of the step from ``t`` to ``t + dt``; a 0-d tensor where it depends on the time."""
        if self.schedule == "constant":
            return self.survival
        if field.horizon is None:
            raise Incompatible(
                "solver 'bernoulli_euler': survival falls with depth, and this law has no horizon to tell the depth "
                "by; set law.horizon, or write schedule='constant'"
            )
        start, end = field.horizon
        return 1 - (t + dt - start) / (end - start) * (1 - self.survival)

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """One evaluation and one coin a sample."""
        p, f = self.probability(field, t, dt), field(t, x)
        if field.noise is None:
            return x + dt * (f if self.scaling == "inverted" else p * f), ()
        coin = field.noise.bernoulli(float(p), f.real, (1,) * (x.dim() - 1))
        if self.scaling == "depth":
            return x + dt * (coin * f), ()
        if self.scaling == "inverted":
            return x + dt * (coin / p * f), ()
        return x + dt * (p * f) + _root(dt) * ((coin - p) * f), ()


class Shake(StepSolver):
    """Euler's step for a random mixture of the branches: ``x_{n+1} = x_n + h sum_i w_i f_i(x_n)``.

    The weights of each sample and step are uniform on the simplex; of two branches ``w = (eta, 1 - eta)``,
    ``eta ~ U(0, 1)``.  Without noise (evaluation) they are equal.  With ``scaling="sde"``,
    ``x_{n+1} = x_n + h mean_i f_i + sqrt(h) sum_i (w_i - 1/m) f_i``, for two branches a scheme of weak order 1 for
    ``dX = (f_1 + f_2)/2 dt + (f_1 - f_2)/sqrt(12) dB``, one Brownian motion a sample.

    Args:
        surrogate: draws other weights for the backward pass, as shake-shake does.  What comes back is no gradient of
            what was computed (trait ``surrogate_gradient``).
        scaling: ``"depth"`` or ``"sde"``.
        steps, dt, on_failure: as for every step solver.

    Shapes: ``x`` ``(batch, *state)``; the dynamics are an ``odeframe.BranchedDynamics``.

    Source: Gastaldi 2017, Shake-Shake regularization; Lu et al. 2018, Beyond Finite Layer Neural Networks, section 3.
    """

    needs: ClassVar[tuple[str, ...]] = ("dynamics:branched",)
    opaque = False

    def __init__(
        self,
        surrogate: bool = False,
        scaling: Literal["depth", "sde"] = "depth",
        steps: int | None = None,
        dt: float | None = None,
        on_failure: OnFailure = "raise",
    ) -> None:
        super().__init__(steps, dt, on_failure)
        _check_choice("shake", "scaling", scaling, ("depth", "sde"))
        self.surrogate, self.scaling = surrogate, scaling
        self.traits = ("step", "partitioned", "stochastic", *(("surrogate_gradient",) if surrogate else ()))

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """All branches once, and one mixture a sample."""
        branches = torch.stack(field.part("branches", t, x), dim=1)
        mean = branches.mean(1)
        if field.noise is None:
            return x + dt * mean, ()
        mixed = self.mix(field, branches, stream=0)
        if self.surrogate:
            backward = self.mix(field, branches, stream=1)
            mixed = backward + (mixed - backward).detach()
        return x + dt * mixed if self.scaling == "depth" else x + dt * mean + _root(dt) * (mixed - mean), ()

    def mix(self, field: Law, branches: Tensor, stream: int) -> Tensor:
        """``sum_i w_i f_i`` of branches ``(batch, m, *state)``: the gaps between ``m - 1`` sorted uniform draws."""
        assert field.noise is not None
        draws = field.noise.uniform(branches.real, (branches.shape[1] - 1,), stream).sort(dim=1).values
        ends = draws.new_zeros(draws.shape[0], 1)
        weights = torch.cat([ends, draws, ends + 1], dim=1).diff(dim=1)
        return (weights.reshape(*weights.shape, *[1] * (branches.dim() - 2)) * branches).sum(1)


class EulerMaruyama(StepSolver):
    """``x_{n+1} = x_n + h f(t_n, x_n) + sqrt(h) g(t_n, x_n) xi_n``, ``xi_n`` standard normal in each component.

    For ``dX = f(t, X) dt + g(t, X) dB`` in Ito's sense with a diagonal ``g``: strong order 1/2 (1 where ``g`` does not
    depend on ``X``), weak order 1; mean-square stable on ``dX = l X dt + m X dB`` where ``|1 + h l|^2 + h |m|^2 < 1``.
    Without noise (evaluation) the drift alone is solved; give ``noise=odeframe.Noise(seed)`` for samples.

    Shapes: ``x`` ``(batch, *state)``; the dynamics are an ``odeframe.StochasticDynamics``.

    Source: Maruyama 1955; Kloeden, Platen 1992, Numerical Solution of Stochastic Differential Equations, 10.2.
    """

    traits: ClassVar[tuple[str, ...]] = ("step", "partitioned", "stochastic")
    needs: ClassVar[tuple[str, ...]] = ("dynamics:stochastic_dynamics",)
    opaque = False

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """One evaluation of drift and diffusion."""
        drifted = x + dt * field(t, x)
        if field.noise is None:
            return drifted, ()
        normal = field.noise.normal(x.real, tuple(x.shape[1:]))
        return drifted + _root(dt) * (field.part("diffusion", t, x) * normal), ()


def _root(dt: Any) -> Any:
    """``sqrt(|dt|)``, a number or a 0-d tensor."""
    return dt.abs().sqrt() if torch.is_tensor(dt) else math.sqrt(abs(dt))


def _check_choice(solver: str, option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidOption(
            f"solver {solver!r}: option {option}: got {value!r}, expected {' or '.join(map(repr, choices))}"
        )
