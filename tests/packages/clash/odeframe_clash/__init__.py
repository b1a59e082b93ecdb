"""An entry module with a name that odeframe itself has."""

import odeframe


class RK4:
    """Not the classical Runge-Kutta method."""


@odeframe.hookimpl
def odeframe_solvers():
    """A name of odeframe's own."""
    return {"rk4": RK4}
