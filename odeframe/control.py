"""The control u on an interval: what the parameters (open loop) or the input (feedback) are between two times."""

from __future__ import annotations

import functools
import inspect
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from odeframe.block import Block
from odeframe.errors import Incompatible, InvalidOption


class ControlLaw(ABC):
    """The control between two times, as the field uses it.

    Attributes:
        tensors: what it depends on.
        module: the module that owns those tensors; a step map is a function of its parameters.
        block: the block that runs under it.
        num_slots: blocks a step.
        steady: whether its parameters are the same at all times of the interval.
    """

    tensors: tuple[Tensor, ...]
    module: nn.Module
    block: Block
    num_slots: int = 1
    steady: bool = False

    @abstractmethod
    def call(self, slot: int, method: str, *args: Any, **kwargs: Any) -> Any:
        """Calls the dynamics of a slot, or a named part of them, under this control."""

    def forward(self, slot: int) -> Callable[..., Any]:
        """The dynamics of a slot under this control as a function ``(t, x)``, for the inner loop."""
        return functools.partial(self.call, slot, "forward")

    @abstractmethod
    def stepper(self, solver: Any) -> Any:
        """The solver with the coefficients it has under this control."""

    def parameters(self, t: Tensor) -> dict[str, Tensor]:
        """The block's parameters at a time, by name: what a control that wraps another one starts from."""
        raise Incompatible(f"{type(self).__name__} has no parameters() that a control around it could change")


class BlockLaw(ControlLaw):
    """A control that is one block's own parameters throughout the interval."""

    steady = True

    def __init__(self, block: Block) -> None:
        self.module, self.block = block, block
        self._slots = tuple(block.slots)  # looked up once an interval rather than at each evaluation
        self.num_slots = len(self._slots)

    @property
    def tensors(self) -> tuple[Tensor, ...]:  # type: ignore[override]
        """The block's parameters, read when asked for: a step map may have swapped them."""
        return tuple(self.block.parameters())

    def call(self, slot: int, method: str, *args: Any, **kwargs: Any) -> Any:
        """The block's slot itself."""
        target = self._slots[slot]
        return target(*args, **kwargs) if method == "forward" else getattr(target, method)(*args, **kwargs)

    def forward(self, slot: int) -> Callable[..., Any]:
        """The module itself."""
        return self._slots[slot]

    def stepper(self, solver: Any) -> Any:
        """The block's own solver where it has coefficients."""
        return solver if self.block.solver is None else self.block.solver

    def parameters(self, t: Tensor) -> dict[str, Tensor]:
        """The block's own."""
        return dict(self.block.named_parameters())


class FunctionalLaw(ControlLaw):
    """Parameters that are a function of time within the interval, fed to an empty block.

    Args:
        block: the block, its parameters set to ``None`` (:func:`empty`).
        parameters: ``t -> {name: tensor}`` for all of the block's parameters.
        owner: the module whose parameters the values are computed from.
        start: time at which a solver's coefficients are read, and parts that take no time (``matvec``).
        steady: whether ``parameters`` gives the same at all times of the interval.
    """

    def __init__(
        self,
        block: Block,
        parameters: Callable[[Tensor], dict[str, Tensor]],
        owner: nn.Module,
        start: Tensor,
        steady: bool = False,
    ) -> None:
        self.block, self.module, self.num_slots = block, owner, len(block.slots)
        self._parameters, self._start, self.steady = parameters, start, steady
        self._kept: tuple[Any, dict[str, Tensor]] | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:  # type: ignore[override]
        """The owner's parameters."""
        return tuple(self.module.parameters())

    def call(self, slot: int, method: str, *args: Any, **kwargs: Any) -> Any:
        """The slot with the parameters of the time that is the first argument, or of the start for parts without."""
        owner: Any = type(self.block.slots[slot])
        timed = method == "forward" or _takes_time(owner, method)
        values = self._named(args[0] if timed else self._start)
        return functional_call(self.block, values, (slot, method, *args), kwargs)

    def parameters(self, t: Tensor) -> dict[str, Tensor]:
        """The computed values; kept for the next call at the same time, as a scheme's stages often are.

        What was kept is dropped as soon as a backward pass has gone through it, since that frees its graph.
        """
        if torch.compiler.is_compiling() or (t.dim() and not self.steady):
            return self._parameters(t)
        key = (None if self.steady else float(t.detach()), torch.is_grad_enabled())
        if self._kept is None or self._kept[0] != key:
            values = self._parameters(t)
            self._kept, law = (key, values), weakref.ref(self)  # weak: a graph must not keep itself alive
            for value in values.values():
                if value.grad_fn is not None:
                    value.register_hook(functools.partial(_forget, law))
        return self._kept[1]

    def _named(self, t: Tensor) -> dict[str, Tensor]:
        values = self.parameters(t)
        return {**values, **{other: values[name] for other, name in self.block.aliases.items()}}

    def stepper(self, solver: Any) -> Any:
        """A solver that runs under the coefficients of the interval's start."""
        return solver if self.block.solver is None else _BoundSolver(self)

    def call_solver(self, method: str, *args: Any) -> Any:
        """A method of the block's solver under the control."""
        return functional_call(self.block, self._named(self._start), ("solver", method, *args))


def _forget(law: weakref.ref[FunctionalLaw], grad: Tensor) -> None:
    kept = law()
    if kept is not None:
        kept._kept = None


@functools.cache
def _takes_time(owner: type, method: str) -> bool:
    return "t" in inspect.signature(getattr(owner, method)).parameters


class _BoundSolver:
    """The methods of a solver, each run under the coefficients of one interval."""

    def __init__(self, law: FunctionalLaw) -> None:
        self._law = law

    def init(self, *args: Any) -> Any:
        return self._law.call_solver("init", *args)

    def step(self, *args: Any) -> Any:
        return self._law.call_solver("step", *args)

    def attempt(self, *args: Any) -> Any:
        return self._law.call_solver("attempt", *args)

    def reverse_step(self, *args: Any) -> Any:
        return self._law.call_solver("reverse_step", *args)


def check_factor(factor: Any, what: str) -> None:
    """Refuses what is no factor to refine or to coarsen by.

    Raises:
        InvalidOption: it is no whole number of at least 1; ``what`` begins the message.
    """
    if isinstance(factor, bool) or not isinstance(factor, int) or factor < 1:
        raise InvalidOption(f"{what}: got factor {factor!r}, expected a whole number of at least 1")


class Control(nn.Module, ABC):
    """How weights depend on depth, and on the state.

    A control is built by its options alone and then attached, once, to a block and a horizon.  Subclasses give
    :meth:`build` and :meth:`on`.
    """

    pieces: int = 1
    horizon: tuple[float, float] = (0.0, 1.0)

    def attach(self, block: Block, horizon: tuple[float, float], steps: int | None = None) -> None:
        """Takes over a block on a horizon; ``steps`` is the number of equal steps, where the solver has one.

        Raises:
            InvalidOption: it drives another flow already, or needs shapes that lazy modules do not have yet.
        """
        if hasattr(self, "_attached"):
            raise InvalidOption(
                f"control {type(self).__name__}: already drives a flow; build one control for each flow, or pass the "
                "control by its word"
            )
        self.horizon = (float(horizon[0]), float(horizon[1]))
        lazy = [name for name, value in block.named_parameters() if nn.parameter.is_lazy(value)]
        try:
            self.build(block, steps)
        except ValueError as error:  # torch's own, of a shape that is not known yet
            if not lazy:
                raise
            raise InvalidOption(
                f"control {type(self).__name__}: needs the shapes of the dynamics' parameters, and {', '.join(lazy)} "
                "have none yet; call the dynamics once on a batch before, or write e.g. nn.Linear for nn.LazyLinear"
            ) from error
        self._attached = True

    @abstractmethod
    def build(self, block: Block, steps: int | None) -> None:
        """Makes the parameters in the shape of the block's; ``steps`` as in :meth:`attach`."""

    @abstractmethod
    def on(self, t: Tensor, t_next: Tensor) -> ControlLaw:
        """The control between two times that no breakpoint separates."""

    @property
    @abstractmethod
    def block(self) -> Block:
        """The block that shows the shape of the control (of a piecewise control: its first piece)."""

    def breakpoints(self) -> tuple[float, ...]:
        """Times where the control jumps."""
        return ()

    @property
    def refinable(self) -> bool:
        """Whether there are pieces, or functions, that :meth:`refine` makes more of."""
        return type(self).refine is not Control.refine

    def refine(self, factor: int) -> None:
        """Gives the control ``factor`` times as many pieces without changing the function it is.

        The parameters are new ones: an optimiser must be built anew.
        """
        raise InvalidOption(f"control {type(self).__name__}: has no pieces to refine")

    def coarsen(self, factor: int) -> None:
        """Gives the control ``factor`` times fewer pieces: the inverse of :meth:`refine`, or the nearest function."""
        raise InvalidOption(f"control {type(self).__name__}: has no pieces to coarsen")

    def project(self) -> None:
        """Puts the parameters back where the control allows them to be; called after every step of an optimiser."""
