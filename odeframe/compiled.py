"""One step compiled by ``torch.compile``, used in an eager loop."""

from __future__ import annotations

import types
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch

from odeframe.solution import Stats


class CompiledStep:
    """A function of one step, compiled on its first call for every batch size, and run as it is where that fails.

    The count of evaluations is kept outside of what is compiled: a number that changes would be compiled in.

    Args:
        function: called with objects, tensors and 0-d times; it must not depend on the values of the times.
        name: of the solver, for the warning.
    """

    def __init__(self, function: types.FunctionType, name: str) -> None:
        self._plain, self._name = function, name
        # A code object of its own: the compiler's cache, and its limit, belong to the code object.
        own = types.FunctionType(
            function.__code__.replace(), function.__globals__, function.__name__, function.__defaults__
        )
        self._compiled: Callable[..., Any] | None = torch.compile(own, dynamic=True, fullgraph=True)

    def __call__(self, stats: Stats, *args: Any) -> Any:
        """The step's result; ``stats`` counts its evaluations."""
        before, stats.nfe = stats.nfe, 0
        try:
            if self._compiled is not None:
                try:
                    return self._compiled(*args)
                except Exception as error:  # the compiler raises of every kind; an error of the field's own comes again
                    stats.nfe = 0
                    result = self._plain(*args)
                    self._compiled = None
                    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                    warnings.warn(
                        f"solver {self._name}: compile=True has no effect, this field does not compile ({reason}); "
                        "the solve goes on without it",
                        stacklevel=2,
                    )
                    return result
            return self._plain(*args)
        finally:
            stats.nfe += before


#: One compiled step a solver; outside of the module, which stays copyable and picklable.
_STEPS: weakref.WeakKeyDictionary[Any, CompiledStep] = weakref.WeakKeyDictionary()


def compiled_step(solver: Any, function: Any) -> CompiledStep:
    """The solver's compiled step, made on first use."""
    if solver not in _STEPS:
        _STEPS[solver] = CompiledStep(function, type(solver).__name__)
    return _STEPS[solver]
