"""An entry module whose hook has the singular where the contract has the plural."""

import odeframe


@odeframe.hookimpl
def odeframe_solver():
    """Never called: no such hook exists."""
    return {"toy_lost": "odeframe_misspelt:Lost"}
