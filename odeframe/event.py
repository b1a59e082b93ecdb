"""Events: a function of time and state whose zero ends a sample, found between the ends of a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from odeframe.errors import Incompatible, InvalidOption
from odeframe.ridders import ridders
from odeframe.transforms import refuse_mps

Direction = Literal["any", "rising", "falling"]
DIRECTIONS = ("any", "rising", "falling")
CHECKS = 4


class Event:
    """Ends each sample where ``g(t, x)`` crosses zero.

    The crossing is found on the interpolant of the step that holds it, to round-off in ``t``, so its error is that of
    the interpolant.  From then on the sample keeps the state ``x(t*)``.  Gradients go through the event time by the
    implicit function theorem, ``dt*/dtheta = -(g_x dx/dtheta + g_theta) / (g_t + g_x dx/dt)`` at ``t*``, with what
    ``g`` itself depends on (a learned end time ``T``: ``g = t - T``).

    Args:
        function: ``g(t, x) -> (batch,)`` with ``t`` ``(batch,)`` in float64 and ``x`` ``(batch, *state)``.
        direction: which crossings count, seen in the direction of the solve: ``"rising"`` from negative to zero or
            more, ``"falling"`` from positive to zero or less, ``"any"``.  A sample that starts at zero has no event
            before it has left it.
        checks: at how many places of an adaptive step the sign is looked at, its end among them: two crossings between
            two of them are missed.  With a step solver the ends of steps are.

    Source: Hairer, Norsett, Wanner 1993, II.6 (events on dense output); Ridders 1979 (the iteration); Chen, Amos,
    Nickel 2021, Learning Neural Event Functions for Ordinary Differential Equations (gradients).
    """

    def __init__(
        self, function: Callable[[Tensor, Tensor], Tensor], direction: Direction = "any", checks: int = CHECKS
    ) -> None:
        if not callable(function):
            raise InvalidOption(f"event: got {type(function).__name__}, expected a function g(t, x) -> (batch,)")
        if direction not in DIRECTIONS:
            raise InvalidOption(f"event: option direction: got {direction!r}, expected one of {', '.join(DIRECTIONS)}")
        if checks < 1:
            raise InvalidOption(f"event: option checks: got {checks}, expected at least 1")
        self.function, self.direction, self.checks = function, direction, checks

    def __call__(self, t: Tensor, x: Tensor, memory: Any = ()) -> Tensor:
        """``g(t, x)``, ``(batch,)``; anything but real numbers is refused."""
        value = self.function(t, x)
        if not torch.is_tensor(value) or value.shape != x.shape[:1] or not value.is_floating_point():
            got = f"{value.dtype} {tuple(value.shape)}" if torch.is_tensor(value) else type(value).__name__
            raise InvalidOption(
                f"an event g(t, x) returns real numbers of shape {tuple(x.shape[:1])} (a rule that returns a bool mask "
                f"is given as stop=rule, with the arguments t, x, memory), got {got}"
            )
        return value

    def crossed(self, before: Tensor, now: Tensor) -> Tensor:
        """Whether zero lies between two values, in a direction that counts."""
        rising, falling = (before < 0) & (now >= 0), (before > 0) & (now <= 0)
        return rising if self.direction == "rising" else falling if self.direction == "falling" else rising | falling

    def of(self, view: Callable[[Tensor], Tensor]) -> Event:
        """The same event on states that ``view`` turns into those that the function knows."""
        return Event(lambda t, z: self.function(t, view(z)), self.direction, self.checks)


@dataclass(frozen=True)
class Passage:
    """One step that was taken, with the states within it.

    Attributes:
        t: its start, ``(batch,)`` float64 on the device of the state.
        dt: its signed length, likewise.
        start: ``(batch, *state)``.
        end: likewise.
        between: the state at ``t + theta dt``, ``theta`` ``(batch,)``.
        memory: the scheme's, for rules that look at it.
        cheap: whether states within the step come without evaluations, so that signs are looked at there too.
    """

    t: Tensor
    dt: Tensor
    start: Tensor
    end: Tensor
    between: Callable[[Tensor], Tensor]
    memory: tuple[Tensor, ...] = ()
    cheap: bool = True

    def state(self, theta: float) -> Tensor:
        """The state at a number ``theta``."""
        if theta in (0.0, 1.0):
            return self.end if theta else self.start
        return self.between(torch.full_like(self.t, theta))

    def keep(self) -> None:
        """Has the scheme evaluate what its interpolant needs and keeps, with a graph where one is recorded."""
        if torch.is_grad_enabled():
            self.between(torch.full_like(self.t, 0.5))


class StopWatch:
    """Who has stopped in one solve, when and where.

    Attributes:
        done: ``(batch,)`` who has.
        times: ``(batch,)`` when, float64; the last time of the solve where not.
        kept: ``(batch, *state)`` the states there.

    Args:
        rule: an event, or a rule ``(t, x, memory) -> mask``.
        x0: ``(batch, *state)``.
        times: first and last time of the solve.
    """

    def __init__(self, rule: Any, x0: Tensor, times: tuple[float, float]) -> None:
        refuse_mps(x0.device, "a stop rule")
        self.rule, self.kept = rule, x0
        self.direction = 1.0 if times[1] >= times[0] else -1.0
        self.done = torch.zeros(x0.shape[0], dtype=torch.bool, device=x0.device)
        self.times = torch.full((x0.shape[0],), times[1], dtype=torch.float64, device=x0.device)

    @property
    def all_done(self) -> bool:
        """Whether nobody goes on."""
        return bool(self.done.all())

    def frozen(self, time: float) -> Tensor:
        """Who had stopped by a time, ``(batch,)``."""
        return self.done & ((self.times.detach() - time) * self.direction <= 0)

    def hold(self, x: Tensor, time: float) -> Tensor:
        """States at a time, with those kept that had stopped by then."""
        return where(self.frozen(time), self.kept, x)

    def look(self, passage: Passage, active: Tensor, ids: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Looks for stops within a step.

        Args:
            passage: the step.
            active: who took it and has not stopped yet.
            ids: the place in the batch of each of its samples; by default all.

        Returns:
            who stops, when, and the states there, each for the samples of the passage.
        """
        theta, hit = located(self.rule, passage, active)
        if not bool(hit.any()):
            return hit, passage.t + passage.dt, passage.end
        theta = differentiable(self.rule, passage, theta, hit)
        x, t = where(hit, passage.between(theta), passage.end), passage.t + theta * passage.dt
        ids = torch.arange(len(hit), device=hit.device) if ids is None else ids
        self.done = self.done.index_put((ids[hit],), hit[hit])
        self.times = self.times.index_put((ids[hit],), t[hit])
        self.kept = self.kept.index_put((ids[hit],), x[hit])
        return hit, t, x


def rule_of(event: Any, stop: Any) -> Any:
    """What ends samples: an event, a bare function ``g(t, x)`` as one, or a rule ``(t, x, memory) -> mask``."""
    if event is not None and stop is not None:
        raise InvalidOption("got event= and stop=, expected one of them")
    return stop if event is None else event if isinstance(event, Event) else Event(event)


def check_mask(mask: Any, batch: int) -> Tensor:
    """What a stop rule returned, refused where it is no mask of the batch."""
    if not torch.is_tensor(mask) or mask.shape != (batch,) or mask.dtype != torch.bool:
        got = f"{mask.dtype} {tuple(mask.shape)}" if torch.is_tensor(mask) else type(mask).__name__
        raise InvalidOption(f"a stop rule returns a bool mask of shape {(batch,)}, got {got}")
    return mask


def values(rule: Any, passage: Passage, theta: Any) -> Tensor:
    """What changes its sign where a sample stops, ``(batch,)``, at ``theta``, a number or ``(batch,)``."""
    x = passage.between(theta) if torch.is_tensor(theta) else passage.state(theta)
    t = passage.t + theta * passage.dt
    if isinstance(rule, Event):
        return rule(t, x).double()
    if not torch.is_tensor(theta) and theta == 0:
        return -torch.ones_like(t)
    return torch.where(check_mask(rule(t, x, passage.memory), len(t)), 1.0, -1.0).double()


def located(rule: Any, passage: Passage, active: Tensor) -> tuple[Tensor, Tensor]:
    """Where each sample first stops within a step, as ``theta`` in (0, 1], and whether it does."""
    checks, smooth = (rule.checks, True) if isinstance(rule, Event) else (CHECKS, False)
    checks = checks if passage.cheap else 1
    if passage.cheap:
        passage.keep()
    with torch.no_grad():
        before = values(rule, passage, 0.0)
        low, high, hit = torch.zeros_like(before), torch.ones_like(before), torch.zeros_like(active)
        f_low, f_high = before, before
        for k in range(1, checks + 1):
            now = values(rule, passage, k / checks)
            if not bool(torch.isfinite(now[active]).all()):
                raise InvalidOption(f"an event g(t, x) returned non-finite values near t = {float(passage.t[0]):g}")
            change = rule.crossed(before, now) if smooth else now > before
            change = change & active & ~hit
            low, high = torch.where(change, (k - 1) / checks, low), torch.where(change, k / checks, high)
            f_low, f_high = torch.where(change, before, f_low), torch.where(change, now, f_high)
            before, hit = now, hit | change
    if not bool(hit.any()):
        return high, hit
    passage.keep()
    with torch.no_grad():
        precision = torch.finfo(passage.end.dtype).eps
        length = torch.where(passage.dt == 0, torch.ones_like(passage.dt), passage.dt).abs()
        tolerance = 4 * (precision + torch.finfo(torch.float64).eps * passage.t.abs() / length)
        function, goal = (lambda theta: values(rule, passage, theta)), (tolerance, hit, smooth)
        theta = ridders(function, (low, high), (f_low, f_high), *goal)
        return torch.where(hit, theta, torch.ones_like(theta)), hit


def differentiable(rule: Any, passage: Passage, theta: Tensor, hit: Tensor) -> Tensor:
    """The same ``theta`` with its dependence on state and parameters; a bool rule gives it none."""
    if not isinstance(rule, Event) or not torch.is_grad_enabled():
        return theta
    leaf = theta.detach().requires_grad_(True)
    value = values(rule, passage, leaf)
    if not value.requires_grad:
        raise Incompatible(
            "an event g(t, x) returned a value without a graph, so its time has no gradient: write it in torch without "
            "detach(), give a bool rule as stop=rule, or solve under torch.no_grad()"
        )
    (slope,) = torch.autograd.grad(value.sum(), leaf)
    residual = values(rule, passage, theta)
    slope = torch.where(slope == 0, torch.full_like(slope, torch.finfo(slope.dtype).tiny), slope)
    return EventTime.apply(residual, theta, torch.where(hit, slope, torch.full_like(slope, float("inf"))))


class EventTime(torch.autograd.Function):
    """``theta`` of ``g(theta, p) = 0``: ``dtheta/dp = -g_p / g_theta``."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, theta: Tensor, slope: Tensor) -> Tensor:
        """Its value is ``theta``, the solution; ``residual`` is there for its graph."""
        ctx.save_for_backward(slope)
        return theta.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """The implicit function theorem."""
        if torch.is_grad_enabled():
            raise Incompatible(
                "an event time is not differentiated twice: got a backward pass with create_graph=True, expected one "
                "without"
            )
        (slope,) = ctx.saved_tensors
        return -gradient / slope, None, None


def where(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """``torch.where`` by samples: the mask ``(batch,)`` gets trailing axes."""
    return torch.where(mask.reshape(-1, *[1] * (new.dim() - 1)), new, old)
