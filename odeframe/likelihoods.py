"""How probable an observation is in a state: what a filter is given beside the data, by word or as an object."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from odeframe.errors import DataError, InvalidOption, suggestion
from odeframe.options import check_positive, construct

__all__ = ["LIKELIHOODS", "Likelihood", "check_log_likelihood", "likelihood_of"]


class Likelihood(ABC):
    """``log p(o | x)`` of an observation ``o`` in a state ``x``.

    Attributes:
        name: its word.
    """

    name: str = "likelihood"

    @abstractmethod
    def log_prob(self, observation: Tensor, x: Tensor) -> Tensor:
        """``log p(o | x)`` ``(...)`` of ``o`` ``(..., observation)`` and ``x`` ``(..., state)``, broadcast."""

    def state_size(self, observation_size: int) -> int:
        """Components of a state, of observations that have so many; by default as many."""
        return observation_size

    def check(self, observation_size: int, state_size: int) -> None:
        """Raises ``InvalidOption`` where observations and states of these sizes are not its own."""
        expected = self.state_size(observation_size)
        if state_size != expected:
            raise InvalidOption(
                f"likelihood {self.name!r}: got states of {state_size} components with observations of "
                f"{observation_size}, expected states of {expected}"
            )


class FunctionLikelihood(Likelihood):
    """A function ``log_prob(observation, x)`` as a likelihood; it fits whatever sizes it takes."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._function, self.name = function, getattr(function, "__name__", type(function).__name__)

    def log_prob(self, observation: Tensor, x: Tensor) -> Tensor:
        """The function's value."""
        return self._function(observation, x)

    def check(self, observation_size: int, state_size: int) -> None:
        """Nothing is known of a function's sizes."""


class LinearGaussian(Likelihood):
    """``o = C x + r e`` with standard normal ``e``: the Kalman filter's.

    Args:
        matrix: ``C``, rows ``(observation, state)``; default the identity.
        deviation: ``r``, > 0.
    """

    name = "linear_gaussian"

    def __init__(self, matrix: Sequence[Sequence[float]] | None = None, deviation: float = 1.0) -> None:
        self.matrix, self.deviation = _checked_matrix(self.name, matrix), _checked_deviation(self.name, deviation)

    def log_prob(self, observation: Tensor, x: Tensor) -> Tensor:
        """The normal density of ``o - C x``."""
        mean = x if self.matrix is None else x @ self.matrix.to(x).t()
        return _normal(observation - mean, self.deviation).sum(-1)

    def state_size(self, observation_size: int) -> int:
        """Columns of ``C``."""
        return observation_size if self.matrix is None else self.matrix.shape[1]

    def check(self, observation_size: int, state_size: int) -> None:
        """The rows and columns of ``C``."""
        rows = state_size if self.matrix is None else self.matrix.shape[0]
        if observation_size != rows:
            raise InvalidOption(
                f"likelihood {self.name!r}: got observations of {observation_size} components, expected {rows}"
            )
        super().check(observation_size, state_size)


class TwoMeans(Likelihood):
    """``p(o | x) = N(o; x_1, r^2) / 2 + N(o; x_1 + x_2, r^2) / 2``: ``(x_1, x_2)`` and ``(x_1 + x_2, -x_2)`` are alike.

    Args:
        deviation: ``r``, > 0.

    Source: Welling, Teh 2011, Bayesian Learning via Stochastic Gradient Langevin Dynamics, 5.1.
    """

    name = "two_means"

    def __init__(self, deviation: float = 1.0) -> None:
        self.deviation = _checked_deviation(self.name, deviation)

    def log_prob(self, observation: Tensor, x: Tensor) -> Tensor:
        """The mixture's density of one number."""
        o, first = observation[..., 0], x[..., 0]
        one, other = _normal(o - first, self.deviation), _normal(o - first - x[..., 1], self.deviation)
        return torch.logaddexp(one, other) - math.log(2)

    def state_size(self, observation_size: int) -> int:
        """A mean and a difference."""
        return 2


class LinearRegression(Likelihood):
    """``o = (features, y)`` with ``y = x_1 z_1 + ... + x_k z_k + x_{k+1} + r e``: the state is weights and intercept.

    Args:
        deviation: ``r``, > 0.
    """

    name = "linear_regression"

    def __init__(self, deviation: float = 1.0) -> None:
        self.deviation = _checked_deviation(self.name, deviation)

    def log_prob(self, observation: Tensor, x: Tensor) -> Tensor:
        """The normal density of the residual."""
        return _normal(observation[..., -1] - _linear(observation, x), self.deviation)


class LogisticRegression(Likelihood):
    """``o = (features, y)`` with ``y`` 0 or 1 and ``P(y = 1) = sigmoid(x_1 z_1 + ... + x_k z_k + x_{k+1})``."""

    name = "logistic_regression"

    def log_prob(self, observation: Tensor, x: Tensor) -> Tensor:
        """Bernoulli's.

        Raises:
            DataError: a ``y`` is neither 0 nor 1.
        """
        label = observation[..., -1]
        if bool(((label != 0) & (label != 1)).any()):
            other = float(label[(label != 0) & (label != 1)][0])
            raise DataError(f"likelihood {self.name!r}: the last number of an observation is 0 or 1, got {other:g}")
        sign = (2 * label - 1).to(x)
        return functional.logsigmoid(sign * _linear(observation, x))


LIKELIHOODS: dict[str, type[Likelihood]] = {
    each.name: each for each in (LinearGaussian, TwoMeans, LinearRegression, LogisticRegression)
}
"""The likelihoods that have a word."""


def likelihood_of(choice: Any) -> Likelihood:
    """A likelihood from a name, a mapping ``{name: ..., option: value}``, an object, or a function of ``(o, x)``.

    A text is a name of :data:`LIKELIHOODS` and never a path to code.

    Raises:
        InvalidOption: there is no such name or option, or it is none of these.
    """
    if isinstance(choice, Likelihood):
        return choice
    options = dict(choice) if isinstance(choice, Mapping) else {"name": choice}
    name = options.pop("name", None)
    if isinstance(name, str):
        if name not in LIKELIHOODS:
            raise InvalidOption(
                f"likelihood: there is none named {name!r}.{suggestion(name, LIKELIHOODS)} Those by name: "
                f"{', '.join(LIKELIHOODS)}; from Python also an odeframe.likelihoods.Likelihood, or a function (o, x)"
            )
        return construct("likelihood", name, LIKELIHOODS[name], options)
    if callable(choice) and not isinstance(choice, type):
        return FunctionLikelihood(choice)
    raise InvalidOption(
        f"likelihood: got {choice!r}, expected a name of {', '.join(LIKELIHOODS)}, a mapping with a name, an "
        "odeframe.likelihoods.Likelihood, or a function log_prob(observation, x)"
    )


def check_log_likelihood(name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``log p(o | x)`` of particle sets ``(..., N)`` where a filter can go on with it.

    Raises:
        InvalidOption: it has another shape, or no floating-point numbers.
        DataError: it is ``nan`` or ``+inf`` somewhere, or ``-inf`` for all particles of a set.
    """
    got = tuple(value.shape) if torch.is_tensor(value) else type(value).__name__
    if got != tuple(shape):
        raise InvalidOption(f"likelihood {name!r}: log_prob(observation, x) gave {got}, expected the shape {shape}")
    if not value.is_floating_point():
        raise InvalidOption(f"likelihood {name!r}: log_prob(observation, x) gave {value.dtype}, expected log p(o | x)")
    if bool((torch.isnan(value) | (value == math.inf)).any()):
        raise DataError(f"likelihood {name!r} is nan or inf for some particles: log_prob gives log p(o | x), finite")
    if value.numel() and bool((value == -math.inf).all(-1).any()):
        raise DataError(
            f"likelihood {name!r} is zero (log p = -inf) for all {shape[-1]} particles of a set: no posterior is left; "
            "take a likelihood with heavier tails, a wider prior, or drop that observation"
        )
    return value


def _normal(residual: Tensor, deviation: float) -> Tensor:
    return -0.5 * (residual / deviation).square() - math.log(deviation) - 0.5 * math.log(2 * math.pi)


def _linear(observation: Tensor, x: Tensor) -> Tensor:
    return (observation[..., :-1] * x[..., :-1]).sum(-1) + x[..., -1]


def _checked_deviation(name: str, deviation: float) -> float:
    check_positive(f"likelihood {name!r}", deviation=deviation)
    return float(deviation)


def _checked_matrix(name: str, matrix: Sequence[Sequence[float]] | None) -> Tensor | None:
    if matrix is None:
        return None
    rows = [tuple(row) for row in matrix]
    if not rows or not rows[0] or any(len(row) != len(rows[0]) for row in rows):
        raise InvalidOption(f"likelihood {name!r}: option matrix: got {matrix!r}, expected rows of one length")
    if not all(math.isfinite(value) for row in rows for value in row):
        raise InvalidOption(f"likelihood {name!r}: option matrix: got {matrix!r}, expected finite numbers")
    return torch.tensor(rows, dtype=torch.float64)
