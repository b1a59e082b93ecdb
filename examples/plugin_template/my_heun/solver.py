"""Heun's method."""

from odeframe import StepSolver


class MyHeun(StepSolver):
    """``x + dt/2 (k1 + k2)`` with ``k1 = f(t, x)`` and ``k2 = f(t + dt, x + dt k1)``, order 2."""

    order = 2
    traits = ("step",)

    def step(self, field, t, dt, x, memory):
        """One step from ``t`` to ``t + dt``; a scheme without memory returns none."""
        k1 = field(t, x)
        k2 = field(t + dt, x + dt * k1)
        return x + dt / 2 * (k1 + k2), ()
