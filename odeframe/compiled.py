"""One step compiled by ``torch.compile``, used in an eager loop."""

from __future__ import annotations

import types
import warnings
import weakref
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from odeframe.solution import Stats

#: whether a step is compiled; in which mode of ``torch.compile``
Compile = bool | Literal["reduce-overhead"]


class CompiledStep:
    """A function of one step, compiled on its first call for every batch size, and run as it is where that fails.

    The count of evaluations is kept outside of what is compiled: a number that changes would be compiled in.

    Args:
        function: called with objects, tensors and 0-d times; it must not depend on the values of the times.
        name: of the solver, for the warning.
        mode: of ``torch.compile``; ``"reduce-overhead"`` records CUDA graphs.
    """

    def __init__(self, function: types.FunctionType, name: str, mode: str | None = None) -> None:
        self._plain, self._name, self._graphs = function, name, mode == "reduce-overhead"
        # A code object of its own: the compiler's cache, and its limit, belong to the code object.
        own = types.FunctionType(
            function.__code__.replace(), function.__globals__, function.__name__, function.__defaults__
        )
        self._compiled: Callable[..., Any] | None = torch.compile(own, dynamic=True, fullgraph=True, mode=mode)

    def __call__(self, stats: Stats, *args: Any) -> Any:
        """The step's result; ``stats`` counts its evaluations."""
        before, stats.nfe = stats.nfe, 0
        if self._graphs and not any(isinstance(each, Tensor) and each.is_cuda for each in args):
            self._graphs = False
            warnings.warn(
                f"solver {self._name}: compile='reduce-overhead' records CUDA graphs, and the state is on no CUDA "
                "device: it does what compile=True does",
                stacklevel=2,
            )
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
        mode = None if solver.compile_step is True else solver.compile_step
        _STEPS[solver] = CompiledStep(function, type(solver).__name__, mode)
    return _STEPS[solver]
