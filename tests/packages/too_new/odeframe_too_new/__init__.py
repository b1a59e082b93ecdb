"""An entry module made for a later contract."""

import odeframe

ODEFRAME_API = 999


@odeframe.hookimpl
def odeframe_solvers():
    """Never called: the contract it was made for is unknown."""
    return {"toy_tomorrow": "odeframe_too_new:Tomorrow"}
