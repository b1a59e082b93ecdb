"""The entry module of my-heun: light, since every start of odeframe imports it."""

import odeframe

ODEFRAME_API = 1


@odeframe.hookimpl
def odeframe_solvers():
    """The table of parts by name; a class is imported when it is first used."""
    return {
        "my_heun": odeframe.Part(
            "my_heun.solver:MyHeun",
            traits=("step",),
            summary="Heun's method, order 2",
            source="Heun 1900",
        ),
    }
