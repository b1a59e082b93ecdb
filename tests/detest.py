"""The 25 non-stiff test problems of DETEST (A1 to E5), each on [0, 20], as functions of one sample and of a batch.

Source: Hull, Enright, Fellen, Sedgwick 1972, Comparing numerical methods for ordinary differential equations;
Enright, Pryce 1987, Two FORTRAN packages for assessing initial value methods.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

END = 20.0


class Problem(NamedTuple):
    """``x' = field(t, x)``, ``x(0) = start``, with the components of ``x`` along the last dimension."""

    field: Callable[[Tensor, Tensor], Tensor]
    start: tuple[float, ...]


def _logistic(t, x):
    return x / 4 * (1 - x / 20)


def _conflict(t, x):
    a, b = x.unbind(-1)
    return torch.stack([2 * (a - a * b), -(b - a * b)], -1)


def _reaction(t, x):
    a, b, _ = x.unbind(-1)
    return torch.stack([-a, a - b * b, b * b], -1)


def _torus(t, x):
    a, b, c = x.unbind(-1)
    r = torch.hypot(a, b)
    return torch.stack([-b - a * c / r, a - b * c / r, a / r], -1)


def _rigid_body(t, x):
    a, b, c = x.unbind(-1)
    return torch.stack([b * c, -a * c, -0.51 * a * b], -1)


def _linear(rows: list[list[float]]) -> Callable[[Tensor, Tensor], Tensor]:
    matrix = torch.tensor(rows, dtype=torch.float64).T
    return lambda t, x: x @ matrix


def _chain(rates: list[float]) -> list[list[float]]:
    """Radioactive decay: each substance turns into the next one, the last is stable."""
    size = len(rates) + 1
    rows = [[0.0] * size for _ in range(size)]
    for i, rate in enumerate(rates):
        rows[i][i] = -rate
        rows[i + 1][i] = rate
    return rows


def _parabolic(size: int) -> list[list[float]]:
    """Second differences, from the heat equation."""
    near = {0: -2.0, 1: 1.0}
    return [[near.get(abs(i - j), 0.0) for j in range(size)] for i in range(size)]


def _first(size: int) -> tuple[float, ...]:
    return (1.0, *[0.0] * (size - 1))


#: Five outer planets about the sun: gravitational constant, masses (the sun's with the inner planets), start.
_GRAVITY, _SUN = 2.95912208286, 1.00000597682
_MASSES = (0.000954786104043, 0.000285583733151, 0.0000437273164546, 0.0000517759138449, 0.00000277777777778)
_PLACES = (
    *(3.42947415189, 3.35386959711, 1.35494901715),
    *(6.64145542550, 5.97156957878, 2.18231499728),
    *(11.2630437207, 14.6952576794, 6.27960525067),
    *(-30.1552268759, 1.65699966404, 1.43785752721),
    *(-21.1238353380, 28.4465098142, 15.3882659679),
)
_SPEEDS = (
    *(-0.557160570446, 0.505696783289, 0.230578543901),
    *(-0.415570776342, 0.365682722812, 0.169143213293),
    *(-0.325325669158, 0.189706021964, 0.0877265322780),
    *(-0.0240476254170, -0.287659532608, -0.117219543175),
    *(-0.176860753121, -0.216393453025, -0.0148647893090),
)


def _planets(t, x):
    """Motion relative to the sun: its pull on a planet, and the other planets' pulls on both."""
    masses = torch.tensor(_MASSES, dtype=x.dtype)
    y, v = x.unflatten(-1, (2, 5, 3)).unbind(-3)
    cubed = y.square().sum(-1, keepdim=True) ** 1.5
    apart = y[..., None, :, :] - y[..., :, None, :]  # from planet i (first) to planet j
    distance = apart.square().sum(-1, keepdim=True) + torch.eye(5, dtype=x.dtype)[..., None]
    pulls = (masses[:, None] * (apart / distance**1.5)).sum(-2)
    indirect = (masses[:, None] * y / cubed).sum(-2, keepdim=True)
    own = masses[:, None] * y / cubed
    acceleration = _GRAVITY * (-(_SUN + masses[:, None]) * y / cubed + pulls - (indirect - own))
    return torch.stack([v, acceleration], -3).flatten(-3)


def _orbit(t, x):
    y, v = x.unflatten(-1, (2, 2)).unbind(-2)
    return torch.cat([v, -y / y.square().sum(-1, keepdim=True) ** 1.5], -1)


def _ellipse(eccentricity: float) -> Problem:
    return Problem(_orbit, (1 - eccentricity, 0.0, 0.0, ((1 + eccentricity) / (1 - eccentricity)) ** 0.5))


def _second_order(force: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def field(t, x):
        a, b = x.unbind(-1)
        return torch.stack([b, force(t, a, b)], -1)

    return field


PROBLEMS = {
    "A1": Problem(lambda t, x: -x, (1.0,)),
    "A2": Problem(lambda t, x: -(x**3) / 2, (1.0,)),
    "A3": Problem(lambda t, x: x * torch.cos(t), (1.0,)),
    "A4": Problem(_logistic, (1.0,)),
    "A5": Problem(lambda t, x: (x - t) / (x + t), (4.0,)),
    "B1": Problem(_conflict, (1.0, 3.0)),
    "B2": Problem(_linear([[-1, 1, 0], [1, -2, 1], [0, 1, -1]]), (2.0, 0.0, 1.0)),
    "B3": Problem(_reaction, (1.0, 0.0, 0.0)),
    "B4": Problem(_torus, (3.0, 0.0, 0.0)),
    "B5": Problem(_rigid_body, (0.0, 1.0, 1.0)),
    "C1": Problem(_linear(_chain([1.0] * 9)), _first(10)),
    "C2": Problem(_linear(_chain([float(i) for i in range(1, 10)])), _first(10)),
    "C3": Problem(_linear(_parabolic(10)), _first(10)),
    "C4": Problem(_linear(_parabolic(51)), _first(51)),
    "C5": Problem(_planets, _PLACES + _SPEEDS),
    **{f"D{i}": _ellipse(e) for i, e in enumerate((0.1, 0.3, 0.5, 0.7, 0.9), start=1)},
    "E1": Problem(
        _second_order(lambda t, a, b: -(b / (t + 1) + (1 - 0.25 / (t + 1) ** 2) * a)),
        (0.6713967071418030, 0.09540051444747446),
    ),
    "E2": Problem(_second_order(lambda t, a, b: (1 - a * a) * b - a), (2.0, 0.0)),
    "E3": Problem(_second_order(lambda t, a, b: a**3 / 6 - a + 2 * torch.sin(2.78535 * t)), (0.0, 0.0)),
    "E4": Problem(_second_order(lambda t, a, b: 0.032 - 0.4 * b * b), (30.0, 0.0)),
    "E5": Problem(_second_order(lambda t, a, b: torch.sqrt(1 + b * b) / (25 - t)), (0.0, 0.0)),
}
