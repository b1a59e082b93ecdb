"""The entry module of a good plugin: light, and all it does is return tables."""

import odeframe

ODEFRAME_API = 1


@odeframe.hookimpl
def odeframe_solvers():
    """One solver, named by a string, so that it is imported on first use."""
    return {
        "toy_leap": odeframe.Part(
            "odeframe_toy.solvers:Leap",
            traits=("step",),
            source="no paper",
            summary="crosses the interval in equal leaps",
        ),
        "toy_absent": odeframe.Part("odeframe_toy.solvers:Leap", requires=("odeframe_toy_lacks_this",)),
    }


@odeframe.hookimpl
def odeframe_controls():
    """One control, as a bare target."""
    return {"toy_ramp": "odeframe_toy.controls:Ramp"}
