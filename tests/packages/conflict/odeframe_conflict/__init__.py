"""An entry module with a name that odeframe-toy has too."""

import odeframe


class Leap:
    """Another solver of the same name."""


@odeframe.hookimpl
def odeframe_solvers():
    """The same name as the toy's."""
    return {"toy_leap": Leap}
