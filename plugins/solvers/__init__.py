"""Schemes that cross an interval."""

from odeframe import Part

TORCHDIFFEQ_ADAPTIVE = ("dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun", "scipy_solver")

PARTS = {
    "euler": Part(
        "odeframe_plugins.solvers.explicit:Euler",
        traits=("step",),
        summary="forward Euler, order 1: the residual block",
        source="Hairer, Norsett, Wanner 1993, II.1",
    ),
    "rk4": Part(
        "odeframe_plugins.solvers.explicit:RK4",
        traits=("step",),
        summary="the classical Runge-Kutta method, order 4",
        source="Hairer, Norsett, Wanner 1993, II.1",
    ),
    "dopri5": Part(
        "odeframe_plugins.solvers.embedded:Dopri5",
        traits=("adaptive",),
        summary="Dormand-Prince 5(4), adaptive steps with dense output",
        source="Dormand, Prince 1980; Hairer, Norsett, Wanner 1993, II.4-II.6",
    ),
    "torchdiffeq": Part(
        "odeframe_plugins.solvers.torchdiffeq:Torchdiffeq",
        summary="any method of torchdiffeq: {name: torchdiffeq, method: ...}",
        source="Chen 2018, torchdiffeq",
        when={f"method={method}": {"traits": ("adaptive",)} for method in TORCHDIFFEQ_ADAPTIVE},
        requires=("torchdiffeq",),
    ),
}
