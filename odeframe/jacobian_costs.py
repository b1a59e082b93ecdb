"""Running costs that differentiate the field: the norm of its Jacobian, and its divergence."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor

from odeframe.costs import checked_weight
from odeframe.errors import InvalidOption
from odeframe.noise import Noise
from odeframe.quadrature import Quadrature, columns

__all__ = ["JacobianFrobenius", "LogDensity"]

PROBES = 7
"""The stream of random numbers that probes of a Jacobian are drawn from, apart from those of solvers."""


class Probed(Quadrature):
    """A cost of the field's Jacobian, exact or by one probe a sample and solve."""

    needs_jacobian = True

    def __init__(self, probe: str, exact: bool) -> None:
        self._probe_word, self._exact, self.draws = _checked_probe(self.name, probe), exact, not exact
        self._probe: Tensor | None = None

    def drawn(self, noise: Noise | None, x: Tensor) -> Probed:
        """The cost with the probes ``(batch, *state)`` of one solve."""
        if self._exact:
            return self
        twin = copy.copy(self)
        twin._probe = _probes(self._probe_word, noise, x)
        return twin


class JacobianFrobenius(Probed):
    """``L = |df/dx|_F^2``, by one probe a sample and solve: ``|v^T df/dx|^2``, ``v`` of mean 0 and covariance 1.

    The estimate is unbiased.  ``v`` is the same along the whole path, in a replay and on any rank: a function of a seed
    and of the sample's number.  In training the seed is fresh in each solve, in evaluation, and in step maps that are
    given no noise, it is 0.

    Args:
        weight: its share in the objective.
        probe: distribution of the components of ``v``.
        exact: sums over the unit vectors in place of ``v``: as many vector-Jacobian products as components.
        in_error_norm: whether an adaptive solver controls its error too.

    Source: Finlay et al. 2020, How to Train Your Neural ODE, 3.2; Hutchinson 1989.
    """

    name = "jacobian_frobenius"

    def __init__(
        self,
        weight: float = 0.0,
        probe: Literal["rademacher", "gaussian"] = "rademacher",
        exact: bool = False,
        in_error_norm: bool = False,
    ) -> None:
        self.weight, self.in_error_norm = checked_weight(self.name, weight), in_error_norm
        super().__init__(probe, exact)

    def rate(self, t: Tensor, x: Tensor, dx: Tensor) -> Tensor:
        """The estimate, or the norm itself."""
        if not dx.requires_grad:  # a field that does not depend on x
            return x.real.new_zeros(x.shape[0])
        flat = columns(dx)
        if self._exact:
            units = torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device)
            return torch.stack([self._squared(flat, unit.expand_as(flat), x) for unit in units]).sum(0)
        if self._probe is None:
            raise InvalidOption("cost 'jacobian_frobenius' has drawn no probes: it is a running cost of a Flow")
        return self._squared(flat, columns(self._probe).to(flat), x)

    @staticmethod
    def _squared(flat: Tensor, probe: Tensor, x: Tensor) -> Tensor:
        (row,) = torch.autograd.grad(flat, x, probe, create_graph=True, allow_unused=True)
        return x.real.new_zeros(x.shape[0]) if row is None else columns(row.abs().square()).sum(1)


class LogDensity(Probed):
    """``dq/dt = -tr(df/dx)``: ``log p(x(T)) = log p(x(0)) + q(T)``.

    From data to base, ``log p(x) = log p0(z) - q`` with ``z = x(T)``.  The exact trace costs a vector-Jacobian product
    for each component of the state; the estimate ``v^T (df/dx) v`` costs one, with one probe ``v`` a sample and solve,
    drawn as for :class:`JacobianFrobenius`.  It is unbiased for ``log p``; its exponential is not, so that densities
    are evaluated by the exact trace.

    Args:
        weight: its share in the objective; 1 makes it that of maximum likelihood.
        exact: the exact trace.
        probe: distribution of the components of ``v``; the variance of Rademacher's is the smaller.

    Source: Chen et al. 2018, Neural Ordinary Differential Equations, section 4; Grathwohl et al. 2019, FFJORD, 3.1.
    """

    name = "log_density"

    def __init__(
        self, weight: float = 0.0, exact: bool = True, probe: Literal["rademacher", "gaussian"] = "rademacher"
    ) -> None:
        self.weight = checked_weight(self.name, weight)
        super().__init__(probe, exact)

    def rate(self, t: Tensor, x: Tensor, dx: Tensor) -> Tensor:
        """Minus the divergence of the field, or its estimate."""
        if not dx.requires_grad:  # a field that does not depend on x
            return x.new_zeros(x.shape[0])
        flat = columns(dx)
        if self._probe is not None:
            probe = columns(self._probe).to(flat)
            (row,) = torch.autograd.grad(flat, x, probe, create_graph=True, allow_unused=True)
            return x.new_zeros(x.shape[0]) if row is None else -(columns(row) * probe).sum(1)
        if not self._exact:
            raise InvalidOption("cost 'log_density' has drawn no probes: it is a running cost of a Flow")
        trace, graph = x.new_zeros(x.shape[0]), flat[:, 0].requires_grad
        for i in range(flat.shape[1]):
            (row,) = torch.autograd.grad(flat[:, i].sum(), x, create_graph=graph, retain_graph=True, allow_unused=True)
            if row is not None:
                trace = trace + columns(row)[:, i]
        return -trace


def _checked_probe(name: str, probe: str) -> str:
    if probe not in ("rademacher", "gaussian"):
        raise InvalidOption(f"cost {name!r}: option probe: got {probe!r}, expected 'rademacher' or 'gaussian'")
    return probe


def _probes(word: str, noise: Noise | None, x: Tensor) -> Tensor:
    """Components of mean 0 and variance 1, ``(batch, *state)``: the same in a replay and on any rank."""
    source = (noise or Noise(0)).on(0).shared
    if word == "gaussian":
        return source.normal(x.real, tuple(x.shape[1:]), PROBES)
    return 2 * source.bernoulli(0.5, x.real, tuple(x.shape[1:]), PROBES) - 1
