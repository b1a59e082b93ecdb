"""Systems whose solution is known, with every part that a scheme may ask for, and a smooth control to drive them."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from odeframe.block import Block, empty
from odeframe.control import Control, ControlLaw, FunctionalLaw
from odeframe.dynamics import BranchedDynamics, Dynamics, SemilinearDynamics, SeparableDynamics, StochasticDynamics
from odeframe.field import Law, per_sample
from odeframe.solver import Memory, StepSolver


class Parted(SeparableDynamics, BranchedDynamics, SemilinearDynamics, StochasticDynamics):
    """A separable field that can be seen as branched, semilinear and noisy too; a subclass gives its two halves.

    Branches are ``f +- 0.3``; the linear part is ``L = stiffness I``; the diffusion is ``sin(x) / 4``.

    Attributes:
        calls: how many times a solver has called the field or one of its parts.
        stiffness: of the linear part, which ``nonlinear`` makes good.
        width: size of the state along dimension 1.
    """

    stiffness: ClassVar[float] = 0.5
    traits: ClassVar[tuple[str, ...]] = ("separable", "branched", "semilinear", "stochastic_dynamics", "second_order")

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.width = 0, 2

    @abstractmethod
    def halves(self, t: Tensor, y: Tensor | None, z: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """``(F(t, z), G(t, y))``, ``None`` for the one whose argument is not given."""

    def whole(self, t: Tensor, x: Tensor) -> Tensor:
        """The field, not counted."""
        first, second = self.halves(t, *self.split(x))
        assert first is not None and second is not None
        return torch.cat([first, second], dim=1)

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """The field."""
        self.calls += 1
        return self.whole(t, x)

    def first(self, t: Tensor, z: Tensor, u: Tensor | None = None) -> Tensor:
        """``F(t, z)``."""
        self.calls += 1
        value = self.halves(t, None, z)[0]
        assert value is not None
        return value

    def second(self, t: Tensor, y: Tensor, u: Tensor | None = None) -> Tensor:
        """``G(t, y)``."""
        self.calls += 1
        value = self.halves(t, y, None)[1]
        assert value is not None
        return value

    def branches(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> tuple[Tensor, ...]:
        """Two fields whose mean is this one."""
        self.calls += 1
        f = self.whole(t, x)
        return f + 0.3, f - 0.3

    def diffusion(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """``sin(x) / 4``."""
        self.calls += 1
        return 0.25 * torch.sin(x)

    def matvec(self, x: Tensor) -> Tensor:
        """``stiffness x``."""
        self.calls += 1
        return self.stiffness * x

    def solve_shifted(self, dt: float | Tensor, rhs: Tensor) -> Tensor:
        """``rhs / (1 + dt stiffness)``."""
        self.calls += 1
        return rhs / (1 + self.stiffness * dt)

    def nonlinear(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """``f + stiffness x``."""
        self.calls += 1
        return self.whole(t, x) + self.stiffness * x


class Liouville(Parted):
    """``y' = v c(t) z, z' = v c(t) exp(-2 y)`` with ``c(t) = 1 + cos(3 t) / 2``: non-autonomous and nonlinear.

    In the time ``s = int v c dt`` it is Liouville's equation ``y'' = exp(-2 y)``: with ``k^2 = z0^2 + exp(-2 y0)`` and
    ``tanh d = z0 / k``, ``y = log(cosh(k s + d) / k)`` and ``z = k tanh(k s + d)``.

    Args:
        speed: ``v``, the only parameter; ``reset_parameters`` draws it from (0.6, 1.4).
    """

    def __init__(self, speed: float = 1.0) -> None:
        super().__init__()
        self.speed = nn.Parameter(torch.tensor(speed, dtype=torch.float64))

    def reset_parameters(self) -> None:
        """A speed of this piece's own."""
        nn.init.uniform_(self.speed, 0.6, 1.4)

    def halves(self, t: Tensor, y: Tensor | None, z: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The two halves."""
        like = y if z is None else z
        assert like is not None
        rate = per_sample(self.speed.to(like.dtype) * self.pace(t), like)
        return None if z is None else rate * z, None if y is None else rate * torch.exp(-2 * y)

    @staticmethod
    def pace(t: Tensor) -> Tensor:
        """``c(t)``."""
        return 1 + 0.5 * torch.cos(3 * t)

    @staticmethod
    def clock(t: float) -> float:
        """``int_0^t c``."""
        return t + math.sin(3 * t) / 6

    @staticmethod
    def weighted_clock(t: float) -> float:
        """``int_0^t r c(r) dr``."""
        return t**2 / 2 + t * math.sin(3 * t) / 6 + (math.cos(3 * t) - 1) / 18

    @staticmethod
    def start(dtype: torch.dtype = torch.float64, device: str = "cpu") -> Tensor:
        """Three states ``(3, 2)``."""
        return torch.tensor([[0.3, -0.8], [-0.5, 0.4], [0.8, 1.0]], dtype=dtype, device=device)

    @classmethod
    def exact(cls, x0: Tensor, s: float | Tensor) -> Tensor:
        """The state ``s`` after ``x0``, ``(batch, 2, ...)``."""
        y, z = cls.split(x0)
        k = torch.sqrt(z**2 + torch.exp(-2 * y))
        angle = k * s + torch.atanh(z / k)
        return torch.cat([torch.log(torch.cosh(angle) / k), k * torch.tanh(angle)], dim=1)

    @classmethod
    def elapsed(cls, breakpoints: Sequence[float], speeds: Sequence[float], t: float) -> float:
        """``s`` at ``t`` from 0 where the speed jumps at the breakpoints."""
        ends = [min(end, t) for end in (0.0, *breakpoints, math.inf)]
        return sum(v * (cls.clock(b) - cls.clock(a)) for v, a, b in zip(speeds, ends[:-1], ends[1:], strict=True))


class Power(Parted):
    """``x' = k t^(k-1)``, solved by ``x0 + t^k``; for ``k = 0`` at rest.  It has no linear part."""

    stiffness = 0.0

    def __init__(self, degree: int) -> None:
        super().__init__()
        self.degree = degree

    def halves(self, t: Tensor, y: Tensor | None, z: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The same for both."""
        rate = self.degree * t ** (self.degree - 1) if self.degree else 0 * t
        y, z = (None if v is None else torch.zeros_like(v) + per_sample(rate, v) for v in (y, z))
        return z, y


class Explosion(Parted):
    """``y' = z^2, z' = y^2``: from ``y = z = a`` the solution ``a / (1 - a t)`` has a pole at ``1 / a``."""

    def halves(self, t: Tensor, y: Tensor | None, z: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Squares."""
        return None if z is None else z**2, None if y is None else y**2


class Pendulum(Parted):
    """``y' = z, z' = -sin y``, whose energy ``z^2 / 2 - cos y`` is constant."""

    def halves(self, t: Tensor, y: Tensor | None, z: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Velocity and force."""
        return z, None if y is None else -torch.sin(y)

    @classmethod
    def energy(cls, x: Tensor) -> Tensor:
        """The energy ``(batch, 1)`` of states ``(batch, 2)``."""
        y, z = cls.split(x)
        return z**2 / 2 - torch.cos(y)


class Decay(Dynamics):
    """``x' = cos(t) - x``, on states of any shape, ``width`` the size along dimension 1."""

    def __init__(self, width: int = 1) -> None:
        super().__init__()
        self.width = width

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """The field."""
        return per_sample(torch.cos(t), x) - x


class Coupled(Parted):
    """``y' = cos(t) tanh(A z + a + w), z' = tanh(B y + b)``, with weights, and a drive ``w`` ``(batch, width / 2)``."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.width = width
        self.lift, self.lower = nn.Linear(width // 2, width // 2), nn.Linear(width // 2, width // 2)
        self.double()

    def halves(self, t: Tensor, y: Tensor | None, z: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The two halves without a drive."""
        first = None if z is None else per_sample(torch.cos(t), z) * torch.tanh(self.lift(z))
        return first, None if y is None else torch.tanh(self.lower(y))

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None, drive: Tensor | None = None) -> Tensor:
        """The field."""
        if drive is None:
            return super().forward(t, x, u)
        self.calls += 1
        y, z = self.split(x)
        first = per_sample(torch.cos(t), x) * torch.tanh(self.lift(z) + drive)
        return torch.cat([first, torch.tanh(self.lower(y))], dim=1)


class Ramp(Control):
    """``theta(t) = a + b t``, smooth in time: parameters that are computed, fed to a template without its own."""

    def build(self, block: Block, steps: int | None) -> None:
        """Starts from the block's values and half of them as slope."""
        values = empty(block)
        self._block, self._names = block, list(values)
        self.level = nn.ParameterList(values.values())
        self.slope = nn.ParameterList(0.5 * value for value in values.values())

    @property
    def block(self) -> Block:
        """The template."""
        return self._block

    def on(self, t: Tensor, t_next: Tensor) -> ControlLaw:
        """The same line on every interval."""
        return FunctionalLaw(self._block, self.values, self, t)

    def values(self, t: Tensor) -> dict[str, Tensor]:
        """The parameters at a time, by name."""
        return {name: a + b * t for name, a, b in zip(self._names, self.level, self.slope, strict=True)}


class NoisyEuler(StepSolver):
    """Euler with multiplicative noise, ``x + dt f (1 + n / 2)``, to see whether a gradient repeats it."""

    traits: ClassVar[tuple[str, ...]] = ("step", "stochastic")

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """One step; its mean where there is no noise."""
        scale = 1 if field.noise is None else 1 + 0.5 * field.noise.normal(x, tuple(x.shape[1:]))
        return x + dt * scale * field(t, x), ()
