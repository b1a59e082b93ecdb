"""Weights that are a series in a basis of functions of depth."""

from __future__ import annotations

from typing import Literal

from odeframe import InvalidOption
from odeframe_plugins.controls.bases import Basis, BSpline, Chebyshev, Fourier, Legendre
from odeframe_plugins.controls.basis_control import BasisControl, Init

BASES = ("legendre", "chebyshev", "fourier", "bspline")
INTERVALS = 4


class Galerkin(BasisControl):
    """``theta(t) = sum_j phi_j(s) C_j`` with ``s = (t - t0) / (T - t0)``.

    Polynomials and the Fourier series are smooth in ``t``: no breakpoints, and every evaluation combines all
    coefficients.  A B-spline combines ``degree + 1`` of them, and its knots are breakpoints.  A Fourier series has the
    horizon as its period, so that ``theta`` is the same at both ends.

    Args:
        basis: ``"legendre"``, ``"chebyshev"``, ``"fourier"`` or ``"bspline"``.
        degree: of the polynomials; for ``fourier`` the highest frequency.
        intervals: for ``bspline``, the number of equal intervals between its knots; default the largest number up to 4
            that divides the solver's steps.
        init: ``"copy"`` starts constant in time at the block's values; ``"reset"`` draws each further coefficient
            anew, for ``legendre``, ``chebyshev`` and ``fourier`` divided by ``j + 1``.

    Source: Massaroli et al. 2020, Dissecting Neural ODEs, section 3.1 (Galerkin Neural ODEs); de Boor 1978.
    """

    word = "galerkin"

    def __init__(
        self,
        basis: Literal["legendre", "chebyshev", "fourier", "bspline"] = "legendre",
        degree: int = 3,
        intervals: int | None = None,
        init: Init = "copy",
    ) -> None:
        super().__init__(init)
        if basis not in BASES:
            raise InvalidOption(f"control 'galerkin': option basis: got {basis!r}, expected one of {', '.join(BASES)}")
        if degree < (1 if basis == "bspline" else 0):
            raise InvalidOption(
                f"control 'galerkin': option degree: got {degree}, expected at least 0; of a B-spline 1, as its "
                "degree 0 is control='piecewise_constant'"
            )
        if intervals is not None and (basis != "bspline" or intervals < 1):
            raise InvalidOption(
                f"control 'galerkin': option intervals: got {intervals} with basis {basis!r}, expected at least 1, and "
                "basis='bspline'; the other bases are smooth on the whole horizon"
            )
        self._basis_word, self._degree, self._intervals = basis, degree, intervals

    def choose(self, steps: int | None) -> Basis:
        """The basis that was named."""
        if self._basis_word == "bspline":
            count = INTERVALS if steps is None else max(n for n in range(1, INTERVALS + 1) if steps % n == 0)
            return BSpline(self._degree, self._intervals or count)
        if self._basis_word == "fourier":
            return Fourier(2 * self._degree + 1)
        return (Legendre if self._basis_word == "legendre" else Chebyshev)(self._degree + 1)
