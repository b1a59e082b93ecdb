"""The initial value problem of a bare function, and what it shares with a flow's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from odeframe.errors import InvalidOption
from odeframe.event import Event, rule_of
from odeframe.field import FunctionField
from odeframe.grid import check_times
from odeframe.registry import word
from odeframe.solution import Solution
from odeframe.solver import Solver, StopRule, check_state

Choice = str | Mapping[str, Any] | Any


def solve(
    field: Any,
    x0: Tensor,
    times: Any,
    solver: Choice = "dopri5",
    event: Event | Callable[[Tensor, Tensor], Tensor] | None = None,
    stop: StopRule | None = None,
    **options: Any,
) -> Solution:
    """Solves ``dx/dt = field(t, x)`` for a bare function.

    Args:
        field: called with a 0-d float64 time and the state; an ``nn.Module`` called the same way is fine.
        x0: ``(batch, *state)`` at the first time.
        times: strictly monotone ``(num_times,)``.
        solver: a word, or a built solver.
        event: ``g(t, x) -> (batch,)``, or an :class:`odeframe.Event` of it: a sample ends where ``g`` crosses zero.
        stop: a rule ``(t, x, memory) -> mask`` that ends samples instead.
        **options: the solver's, e.g. ``rtol=1e-6`` or ``steps=100``.

    Returns:
        States ``(num_times, batch, *state)``, statistics, status; where samples may stop, ``stop_times``, ``stopped``.

    Raises:
        SolveFailed: the state became non-finite, or steps too small or too many.

    Example:
        >>> import torch, odeframe
        >>> solution = odeframe.solve(lambda t, x: -x, torch.ones(1, 1, dtype=torch.float64), (0.0, 1.0))
        >>> round(float(solution.final), 5)
        0.36788
    """
    if not callable(field):
        raise InvalidOption(f"field: got {type(field).__name__}, expected a function field(t, x)")
    chosen = word("solver", solver)
    if chosen.object is not None and options:
        raise InvalidOption(
            f"solver options {sorted(options)} have no effect on a built solver; give them to its constructor"
        )
    built = build_part(chosen, Solver, **options)
    times = check_times(times)
    ends = (float(times[0].detach()), float(times[-1].detach()))
    return built.solve(FunctionField(field, horizon=ends), check_state(x0), times, rule_of(event, stop))


def build_part(choice: Any, interface: type, **options: Any) -> Any:
    """The part of a word, checked against its kind's interface."""
    built = choice.build(**options)
    if not isinstance(built, interface):
        raise InvalidOption(
            f"{choice.kind}: got an object of type {type(built).__name__}, expected a name, a mapping with a name, or "
            f"an odeframe.{interface.__name__}"
        )
    return built


@contextlib.contextmanager
def matching(x0: Tensor, tensors: Callable[[], Sequence[Tensor]]) -> Iterator[None]:
    """Says so in a line where torch fails because the state is on another device, or of another dtype, than the rest.

    Args:
        x0: the initial state.
        tensors: gives the parameters and the drive.
    """
    try:
        yield
    except RuntimeError as error:
        for tensor in tensors():
            if tensor.device != x0.device:
                raise InvalidOption(
                    f"x0: got a state on {x0.device}, and a parameter or drive on {tensor.device}; write "
                    f"x0.to({str(tensor.device)!r}), or move the module and the drive"
                ) from error
        for tensor in tensors():
            if tensor.is_floating_point() and x0.is_floating_point() and tensor.dtype != x0.dtype:
                raise InvalidOption(
                    f"x0: got {x0.dtype}, and a parameter or drive of {tensor.dtype}; write x0.to({tensor.dtype}), or "
                    "module.to(x0.dtype)"
                ) from error
        raise
