"""The vector field f of dx/dt = f(t, x, u), and the parts that some schemes treat apart."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from odeframe.errors import Incompatible, InvalidOption


class Dynamics(nn.Module, ABC):
    """A vector field whose parameters are the *shape* of the control.

    ``forward(t, x, u=None)`` maps a time (0-d, or ``(batch,)`` where samples have their own) and a state
    ``(batch, *state)`` to ``dx/dt`` of the state's shape.  ``u`` is a feedback, given only where a control has one.
    Dynamics that take exogenous input have a keyword ``drive`` too.
    """

    @abstractmethod
    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """``dx/dt`` at ``(t, x)``."""


class SeparableDynamics(Dynamics):
    """A state of two halves along dimension 1, each moved by the other: y' = F(t, z), z' = G(t, y).

    Source: Hairer, Lubich, Wanner 2006, Geometric Numerical Integration, I.1 (partitioned systems).
    """

    traits: ClassVar[tuple[str, ...]] = ("separable",)

    @abstractmethod
    def first(self, t: Tensor, z: Tensor, u: Tensor | None = None) -> Tensor:
        """``y' = F(t, z)``."""

    @abstractmethod
    def second(self, t: Tensor, y: Tensor, u: Tensor | None = None) -> Tensor:
        """``z' = G(t, y)``."""

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """Both halves, joined."""
        y, z = self.split(x)
        return torch.cat([self.first(t, z, u), self.second(t, y, u)], dim=1)

    @staticmethod
    def split(x: Tensor) -> tuple[Tensor, Tensor]:
        """The halves ``y, z`` of a state with an even size along dimension 1."""
        if x.dim() < 2 or x.shape[1] % 2:
            raise InvalidOption(
                f"a separable state has two halves along dimension 1: got shape {tuple(x.shape)}, expected "
                "(batch, even, ...); widen the stem by one"
            )
        half = x.shape[1] // 2
        return x[:, :half], x[:, half:]


class BranchedDynamics(Dynamics):
    """A mean of branches, which stochastic schemes mix at random: f = mean_i f_i (shake-shake)."""

    traits: ClassVar[tuple[str, ...]] = ("branched",)

    @abstractmethod
    def branches(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> tuple[Tensor, ...]:
        """The branches ``f_i(t, x)``, each of the state's shape."""

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """Their mean."""
        return torch.stack(self.branches(t, x, u)).mean(0)


class SemilinearDynamics(Dynamics):
    """A stiff linear part and the rest, f = -L x + F(t, x), for implicit-explicit schemes.

    ``L`` is symmetric positive semi-definite in the uses the project has; ``solve_shifted`` inverts ``I + dt L``.
    """

    traits: ClassVar[tuple[str, ...]] = ("semilinear",)

    @abstractmethod
    def matvec(self, x: Tensor) -> Tensor:
        """``L x``."""

    @abstractmethod
    def solve_shifted(self, dt: float | Tensor, rhs: Tensor) -> Tensor:
        """The solution ``y`` of ``(I + dt L) y = rhs``."""

    @abstractmethod
    def nonlinear(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """``F(t, x)``."""

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """``-L x + F(t, x)``."""
        return self.nonlinear(t, x, u) - self.matvec(x)


class StochasticDynamics(Dynamics):
    """A drift and a diagonal diffusion: dX = f(t, X) dt + g(t, X) dB, in Ito's sense unless a solver says otherwise.

    ``forward`` is the drift ``f``; schemes that know no diffusion solve it alone.

    Source: Kloeden, Platen 1992, Numerical Solution of Stochastic Differential Equations, 4.3.
    """

    traits: ClassVar[tuple[str, ...]] = ("stochastic_dynamics",)

    @abstractmethod
    def diffusion(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """``g(t, x)``, of the state's shape: each component is moved by a Brownian motion of its own."""


class SecondOrderDynamics(Dynamics):
    """A force: x'' = F(t, x), x'(t0) = 0, to schemes for second-order flows (``leapfrog``).

    ``forward`` is the force.  First-order schemes solve ``x' = F(t, x)``: one block is a hyperbolic network under
    ``leapfrog`` and a parabolic one under ``euler``.

    Source: Ruthotto, Haber 2020, Deep Neural Networks Motivated by Partial Differential Equations.
    """

    traits: ClassVar[tuple[str, ...]] = ("second_order",)


class Autonomous(Dynamics):
    """A plain module ``f(x)`` as dynamics that ignore time: the block of a residual network."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """``f(x)``; a feedback has nowhere to go and is refused."""
        if u is not None:
            raise Incompatible(
                f"{type(self.module).__name__} is a plain f(x) and takes no feedback u; write forward(self, t, x, u)"
            )
        return self.module(x)


def takes_time(module: nn.Module) -> bool:
    """Whether a module is called as f(t, x): its ``forward`` needs two arguments, or names the first one ``t``."""
    forward = getattr(module, "_orig_mod", module).forward  # torch.compile wraps forward(*args)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [p for p in inspect.signature(forward).parameters.values()]
    positional = [p for p in parameters if p.kind in kinds]
    if positional and positional[0].name == "t":
        return True
    required = [p for p in positional if p.default is inspect.Parameter.empty]
    if not positional and any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        return True  # forward(*args) says nothing: the documented form f(t, x) is assumed
    return len(required) >= 2


def as_dynamics(module: nn.Module) -> nn.Module:
    """The module itself where it is called as f(t, x), wrapped as :class:`Autonomous` where it is a plain f(x)."""
    if not isinstance(module, nn.Module):
        hint = "; a bare function goes to odeframe.solve(field, x0, times)" if callable(module) else ""
        raise InvalidOption(f"dynamics: got {type(module).__name__}, expected an nn.Module called as f(t, x){hint}")
    return module if takes_time(module) else Autonomous(module)


def takes_keyword(module: nn.Module, name: str) -> bool:
    """Whether ``forward`` accepts the keyword ``name`` (``drive``, ``u``)."""
    parameters = inspect.signature(getattr(module, "_orig_mod", module).forward).parameters
    return name in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def _norms_batch(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def _drops(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0


def sleeping(module: nn.Module) -> bool:
    """Whether there are batch norms or dropouts, all in evaluation mode: in training they show a trait more."""
    modes = [child.training for child in module.modules() if _norms_batch(child) or _drops(child)]
    return bool(modes) and not any(modes)


def observed(module: nn.Module) -> object:
    """A stand-in for a built module that says which traits it shows, for the compatibility check.

    ``batch_norm``: statistics of the batch enter the field; ``dropout``: the field is random; and whatever a dynamics
    class declares in ``traits``.  In evaluation mode a batch norm with running statistics is an affine map, and a
    dropout does nothing: they show no trait then.
    """
    traits: list[str] = []
    for child in module.modules():
        if _norms_batch(child) and (child.training or child.running_mean is None):
            traits.append("batch_norm")
        if _drops(child) and child.training:
            traits.append("dropout")
        traits.extend(getattr(child, "traits", ()))
    named = module.module if isinstance(module, Autonomous) else module
    return type(type(named).__name__, (), {"traits": tuple(dict.fromkeys(traits))})()
