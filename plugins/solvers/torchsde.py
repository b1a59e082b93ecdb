"""Adapter to torchsde: its fixed-step schemes for diagonal noise, on our grid and with our keyed noise."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torchsde import BaseBrownian
from torchsde._core.base_sde import ForwardSDE
from torchsde._core.methods import select

from odeframe import InvalidOption, Law, StepSolver
from odeframe.noise import StepNoise
from odeframe.quadrature import columns
from odeframe.solver import Memory, OnFailure

METHODS = {
    "ito": ("euler", "milstein", "srk"),
    "stratonovich": ("euler_heun", "heun", "midpoint", "milstein", "reversible_heun"),
}


class Torchsde(StepSolver):
    """A step of torchsde for ``dX = f(t, X) dt + g(t, X) dB`` (Ito), or ``... o dB`` (Stratonovich), ``g`` diagonal.

    The Brownian increments, and the space-time Levy areas that ``srk`` needs, are the flow's noise, keyed by (seed,
    sample, step): the same on every replay and in every batch, which torchsde's own Brownian motions are not.  Without
    noise (evaluation) the drift alone is solved.  Intervals run forward in time.

    Args:
        method: for Ito ``"euler"`` (strong order 1/2), ``"milstein"`` (1), ``"srk"`` (3/2); for Stratonovich
            ``"euler_heun"``, ``"reversible_heun"`` (1/2), ``"heun"``, ``"midpoint"``, ``"milstein"`` (1).
        sde_type: the sense of the equation, ``"ito"`` or ``"stratonovich"``.
        steps, dt, on_failure: as for every step solver.

    Shapes: ``x`` ``(batch, *state)``; the dynamics are an ``odeframe.StochasticDynamics``.

    Source: Li, Wong, Chen, Duvenaud 2020, Scalable Gradients for Stochastic Differential Equations; Kidger et al. 2021,
    Efficient and Accurate Gradients for Neural SDEs.
    """

    traits = ("step", "partitioned", "stochastic", "one_way")
    needs = ("dynamics:stochastic_dynamics",)
    opaque = False
    restart = "breakpoints"

    def __init__(
        self,
        method: str = "euler",
        sde_type: Literal["ito", "stratonovich"] = "ito",
        steps: int | None = None,
        dt: float | None = None,
        on_failure: OnFailure = "raise",
    ) -> None:
        super().__init__(steps, dt, on_failure)
        if sde_type not in METHODS:
            raise InvalidOption(
                f"solver 'torchsde': option sde_type: got {sde_type!r}, expected {' or '.join(METHODS)}"
            )
        if method not in METHODS[sde_type]:
            raise InvalidOption(
                f"solver 'torchsde': option method: got {method!r} with sde_type={sde_type!r}, expected one of "
                f"{', '.join(METHODS[sde_type])}"
            )
        self.method, self.sde_type = method, sde_type

    def init(self, field: Law, t: Tensor, x: Tensor) -> Memory:
        """What ``reversible_heun`` remembers; nothing for the others."""
        return tuple(self.scheme(field, field.t_next - field.t, x).init_extra_solver_state(t, columns(x)))

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """One step of the method."""
        if not dt > 0:
            raise InvalidOption(
                f"solver 'torchsde': got a step of {float(dt):g}, expected a positive one: a stochastic differential "
                "equation is solved forward in time; sort the times in increasing order"
            )
        x1, memory = self.scheme(field, dt, x).step(t, t + dt, columns(x), memory)
        return x1.reshape(x.shape), tuple(memory)

    def scheme(self, field: Law, dt: Any, x: Tensor) -> Any:
        """torchsde's solver for one step of this law."""
        brownian = _StepBrownian(field.noise, columns(x), "space-time" if self.method == "srk" else "none")
        sde = ForwardSDE(_Equation(field, x.shape, self.sde_type))
        make = select(self.method, self.sde_type)
        return make(sde=sde, bm=brownian, dt=dt, adaptive=False, rtol=0.0, atol=0.0, dt_min=0.0, options={})


class _Equation:
    """A law as torchsde asks for it, on rows ``(batch, D)``; without noise the diffusion is zero."""

    noise_type = "diagonal"

    def __init__(self, field: Law, shape: torch.Size, sde_type: str) -> None:
        self._field, self._shape, self.sde_type = field, shape, sde_type

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        return columns(self._field(t, y.reshape(self._shape)))

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        if self._field.noise is None:
            return y * 0  # depends on y, as milstein differentiates it
        return columns(self._field.part("diffusion", t, y.reshape(self._shape)))


class _StepBrownian(BaseBrownian):
    """The increment ``W ~ N(0, h)`` of one step and ``U = int (W_s - W_t) ds``, from the step's draws.

    With independent standard normal ``a``, ``b``: ``W = sqrt(h) a`` and ``U = h W / 2 + sqrt(h^3 / 12) b``.
    """

    def __init__(self, noise: StepNoise | None, like: Tensor, levy_area: str) -> None:
        self._noise, self._like, self._levy_area = noise, like, levy_area

    def __call__(self, ta: Any, tb: Any = None, return_U: bool = False, return_A: bool = False) -> Any:
        h = tb - ta
        increment = h.sqrt() * self.normal(0)
        if not return_U:
            return increment
        return increment, 0.5 * h * increment + h**1.5 / math.sqrt(12) * self.normal(1)

    def normal(self, stream: int) -> Tensor:
        """Standard normal ``(batch, D)``, zero without noise."""
        if self._noise is None:
            return torch.zeros_like(self._like)
        return self._noise.normal(self._like, tuple(self._like.shape[1:]), stream)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={tuple(self.shape)})"

    @property
    def dtype(self) -> torch.dtype:
        return self._like.dtype

    @property
    def device(self) -> torch.device:
        return self._like.device

    @property
    def shape(self) -> torch.Size:
        return self._like.shape

    @property
    def levy_area_approximation(self) -> str:
        return self._levy_area
