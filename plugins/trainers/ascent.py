"""The maximum over a control: L-BFGS, Adam, or the solution of the linear equations of a quadratic Hamiltonian."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from odeframe import InvalidOption, SolveFailed
from odeframe.options import check_positive
from odeframe_plugins.trainers.hamiltonian import ControlHamiltonian

Inner = Literal["lbfgs", "adam", "closed_form"]
EVALUATIONS = 2
"""How many evaluations L-BFGS may spend for each of its iterations; it stops after the line search that spends them."""

SHALLOW, LARGEST_SCALE = 1e-5, 1e30
"""Below this slope, where a loss is all but zero, H is scaled up: torch's L-BFGS holds slopes against sizes of its own,
and takes no curvature below 1e-10.  The scale has to be a number of single precision."""

BARRIER = 1e3
"""How far below the start, in its own size, a point without a value counts: a line search cannot use infinities."""

RETRIES = 4
"""How often Adam begins, with a tenth of the step length each time, until it finds a larger value."""


@dataclass(frozen=True)
class Ascent:
    """What a search came to: ``before <= after``, and ``slope``, the norm of ``dH~/du`` at the start."""

    before: float
    after: float
    slope: float

    @property
    def gain(self) -> float:
        """``Delta H~``, not negative."""
        return self.after - self.before


class Search:
    """Maximises a Hamiltonian over its parameters in place, and leaves them at the best point that it has seen.

    Args:
        inner: ``"lbfgs"`` with a strong Wolfe line search; ``"adam"``; ``"closed_form"``, which solves the linear
            equations ``dH~/du = 0`` where ``H~`` is quadratic in ``u`` (linear stem and head, a control that enters
            linearly) by conjugate gradients, takes the corner of the box where it is linear, and is ``"lbfgs"``
            elsewhere.
        iterations: of the search; of conjugate gradients there are as many as they need.
        learning_rate: step length of Adam; tenths of it, down to a thousandth, where it finds no ascent.
        box: bound of ``|u_i|``, or ``None``.
    """

    def __init__(self, inner: Inner, iterations: int, learning_rate: float, box: float | None = None) -> None:
        if inner not in get_args(Inner):
            raise InvalidOption(f"option inner: got {inner!r}, expected {', '.join(map(repr, get_args(Inner)))}")
        if iterations < 1:
            raise InvalidOption(f"option iterations: got {iterations}, expected at least 1")
        check_positive("trainer", inner_learning_rate=learning_rate, box=box)
        self.inner, self.iterations, self.learning_rate, self.box = inner, iterations, learning_rate, box

    def __call__(self, hamiltonian: ControlHamiltonian) -> Ascent:
        """Searches from where the parameters are.

        Raises:
            SolveFailed: value or slope there is not finite, since states or costates overflow.
        """
        point = _Point(hamiltonian, self.box)
        done = self.inner == "closed_form" and _closed_form(point)
        if self.inner == "adam":
            for tenths in range(RETRIES):
                _adam(point, self.iterations, self.learning_rate * 0.1**tenths)
                if point.best > point.start:
                    break
        elif not done:
            _lbfgs(point, self.iterations)
        return point.finish()


class _Point:
    """Evaluates at trial points, clipped to the box, and remembers the start, clipped too, and the best.

    Outside of the box the function does not change along the slope, so that no search may begin there.
    """

    def __init__(self, hamiltonian: ControlHamiltonian, box: float | None) -> None:
        self.hamiltonian, self.parameters = hamiltonian, hamiltonian.parameters
        self.box = None if box is None else min(box, torch.finfo(self.parameters[0].dtype).max)
        self.clip()
        self.origin = [p.detach().clone() for p in self.parameters]
        self.start, self.slopes = self.evaluate()
        self.norm = math.sqrt(sum(float(slope.square().sum()) for slope in self.slopes))
        if not math.isfinite(self.start) or not math.isfinite(self.norm):
            found = f"a Hamiltonian under the present control is {self.start}, and its slope {self.norm}"
            raise SolveFailed(found, status="non-finite")

    best = -math.inf

    def evaluate(self) -> tuple[float, list[Tensor]]:
        """Value and slopes at the point clipped to the box; slopes that point out of it are 0."""
        trial = [p.detach().clone() for p in self.parameters]
        self.clip()
        value, slopes = self.hamiltonian()
        if self.best < value < math.inf:
            self.best, self._kept = value, [p.detach().clone() for p in self.parameters]
        if self.box is not None:
            slopes = [
                torch.where((t.abs() >= self.box) & (t * s > 0), 0, s) for t, s in zip(trial, slopes, strict=True)
            ]
        self.write(trial)
        return value, slopes

    def clip(self) -> None:
        if self.box is not None:
            with torch.no_grad():
                for p in self.parameters:
                    p.clamp_(-self.box, self.box)

    def write(self, values: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for p, value in zip(self.parameters, values, strict=True):
                p.copy_(value)

    def finish(self) -> Ascent:
        """Sets the best point, which is at least as good as the start."""
        self.write(self._kept)
        for p in self.parameters:
            p.grad = None
        return Ascent(self.start, self.best, self.norm)

    def closure(self) -> float:
        """For torch's optimisers, which minimise; where states or costates overflow, a height without a slope."""
        value, slopes = self.evaluate()
        if not math.isfinite(value) or not all(bool(slope.isfinite().all()) for slope in slopes):
            value = self.start - BARRIER * (1 + abs(self.start))
            slopes = [torch.zeros_like(p) for p in self.parameters]
        for p, slope in zip(self.parameters, slopes, strict=True):
            p.grad = (-slope).contiguous()  # L-BFGS flattens it as it lies
        return -value


def _lbfgs(point: _Point, iterations: int) -> None:
    steepest = max((float(slope.abs().max()) for slope in point.slopes if slope.numel()), default=0.0)
    scale = 1.0 if not 0 < steepest < SHALLOW else min(1 / steepest, LARGEST_SCALE)

    def closure() -> float:
        value = point.closure()
        for p in point.parameters:
            p.grad = scale * p.grad if p.grad is not None else None
        return scale * value

    precision = torch.finfo(point.parameters[0].dtype).eps
    optimizer = torch.optim.LBFGS(
        point.parameters,
        max_iter=iterations,
        max_eval=EVALUATIONS * iterations,
        tolerance_grad=precision,
        tolerance_change=0,  # torch holds it against |g|^2 too, whatever the size of H
        line_search_fn="strong_wolfe",
    )
    with suppress(ZeroDivisionError):  # a bracket in which no number of the precision is left: the search is over
        optimizer.step(closure)


def _adam(point: _Point, iterations: int, learning_rate: float) -> None:
    point.write(point.origin)
    optimizer = torch.optim.Adam(point.parameters, lr=learning_rate)
    for _ in range(iterations):
        optimizer.step(point.closure)
        point.clip()
    point.evaluate()


def _closed_form(point: _Point) -> bool:
    """Whether ``H~`` was quadratic, or linear with a box, and its maximum has been evaluated.

    With ``g(u) = dH~/du`` affine, ``g(u0) - g(u0 + d) = K d``: products with the Hessian are differences of slopes, and
    exact.  Conjugate gradients on ``K d = g(u0)`` end where the slope at ``u0 + d`` vanishes, which is then checked.
    """
    precision = math.sqrt(torch.finfo(point.parameters[0].dtype).eps)
    origin, g = _flat(point.parameters), _flat(point.slopes)

    def product(d: Tensor) -> Tensor:
        scale = (1 + origin.norm()) / d.norm()
        _set(point, origin + scale * d)
        return (g - _flat(point.evaluate()[1])) / scale

    if not point.norm:
        return True
    curved = product(g)
    if point.box is not None:
        if float(curved.norm()) > precision * point.norm:
            _set(point, origin)
            return False
        _set(point, torch.where(g == 0, origin, point.box * g.sign()))
        point.evaluate()
        return True
    other = torch.full_like(g, point.norm / math.sqrt(g.numel()))
    both = product(g + other)  # K (g + e) = K g + K e
    if float((both - curved - product(other)).norm()) > precision * float(both.norm() + curved.norm()):
        _set(point, origin)
        return False
    d, rest = torch.zeros_like(g), g
    direction = rest
    for _ in range(g.numel()):
        curved = product(direction)
        bend = float(direction @ curved)
        if bend <= 0:
            break
        length = float(rest @ rest) / bend
        d, after = d + length * direction, rest - length * curved
        if float(after.norm()) <= precision * float(g.norm()):
            break
        direction, rest = after + float(after @ after) / float(rest @ rest) * direction, after
    _set(point, origin + d)
    point.evaluate()
    return True


def _flat(values: Sequence[Tensor]) -> Tensor:
    return torch.cat([value.detach().reshape(-1) for value in values])


def _set(point: _Point, flat: Tensor) -> None:
    parts = flat.split([p.numel() for p in point.parameters])
    point.write([part.reshape(p.shape) for part, p in zip(parts, point.parameters, strict=True)])
