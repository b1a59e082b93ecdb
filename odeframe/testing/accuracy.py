"""How exact a solver is: orders by fitted slopes, identities, output times, tolerances."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from odeframe.adaptive import AdaptiveSolver
from odeframe.errors import InvalidOption
from odeframe.field import FunctionField
from odeframe.flow import Flow
from odeframe.options import options_of
from odeframe.registry import word
from odeframe.solver import Solver
from odeframe.testing.conformance import Conformance, concerns, refused
from odeframe.testing.problems import Liouville

PIECES = 4
PLANE = 2  # the size of most states here
FINEST = 1024  # steps
ROUND_OFF = 1e-12


class SolverChecks(Conformance):
    """What the checks of solvers share.

    Attributes:
        solver: a name, a mapping, a class or a function that takes options.
        order: the order to hold it against, where its class declares none.
        dense_order: order of an adaptive scheme's interpolation between steps, where its class does not say it and it
            is not ``order - 1``.
        device: where the states live.
        options: what the checks build it with over its defaults, as the tolerance of an iteration within a step.
        exact_degree: of ``t`` up to which states are exact, where a start of lower order makes it less than ``order``.
        unequal_order: the order where every step has another length than the last, where it is less than ``order``.
    """

    kind = "solver"
    interface = Solver
    solver: ClassVar[Any] = None
    order: ClassVar[int | None] = None
    dense_order: ClassVar[int | None] = None
    device: ClassVar[str] = "cpu"
    options: ClassVar[Mapping[str, Any]] = {}
    exact_degree: ClassVar[int | None] = None
    unequal_order: ClassVar[int | None] = None

    @classmethod
    def make(cls, **options: Any) -> Any:
        """A new solver; one that must know the size of the state, an option ``width``, is told it."""
        if cls.takes_width():
            options = {"width": PLANE, **options}
        chosen = cls.choice()
        given = chosen if isinstance(chosen, Mapping) else {}
        return super().make(**{name: v for name, v in cls.options.items() if name not in given}, **options)

    @classmethod
    def takes_width(cls) -> bool:
        """Whether it cannot be built without the size of the state along dimension 1."""
        chosen = cls.choice()
        target = word(cls.kind, chosen).component if isinstance(chosen, str | Mapping) else None
        known = options_of(chosen if target is None else target.load())[0]
        return any(option.name == "width" and option.required for option in known)

    @classmethod
    def claim(cls) -> int | None:
        """The order that is claimed for ``x' = f``; a scheme for ``x'' = F`` claims its own for another problem."""
        if not cls.is_first_order():
            return None
        return cls.order if cls.order is not None else cls.part.order

    @classmethod
    def is_first_order(cls) -> bool:
        """Whether it solves ``x' = f``, not ``x'' = F``."""
        return "second_order" not in cls.part.traits

    @classmethod
    def is_adaptive(cls) -> bool:
        """Whether it chooses its steps by tolerances."""
        return "adaptive" in cls.part.traits

    @classmethod
    def is_one_way(cls) -> bool:
        """Whether it goes forward in time alone, as what has an Ito integral in it does."""
        return "one_way" in cls.part.traits

    @classmethod
    def takes_steps(cls) -> bool:
        """Whether it takes a number of equal steps."""
        return not cls.is_adaptive() and hasattr(cls.part, "steps")

    def flow(self, dynamics: nn.Module, control: Any = "constant", **options: Any) -> Flow:
        """A flow of the dynamics by the solver, in evaluation: a stochastic scheme is its mean there."""
        words: dict[str, Any] = {name: options.pop(name) for name in ("horizon", "quadratures") if name in options}
        if "forward_only" in self.part.traits:
            words["gradient"] = "adjoint"  # which asks for solves alone
        if self.takes_width():
            options.setdefault("width", getattr(dynamics, "width", PLANE))
        if not self.takes_steps():
            options.pop("steps", None)
        if self.is_adaptive() and "rtol" not in options:
            options |= {"rtol": self.rtol(), "atol": self.rtol() / 10}
        return Flow(dynamics, control, self.make(**options), **words).to(self.device).eval()

    def rtol(self) -> float:
        """A relative tolerance that takes few steps: loose for schemes of low order."""
        return 1e-4 if (self.claim() or 5) < 4 else 1e-6

    def counts(self) -> list[int]:
        """Numbers of steps in the asymptotic range, each twice the one before."""
        order = self.claim() or 1
        first = 16 if order <= 3 else 8 if order <= 6 else PIECES
        return [first * 2**i for i in range(4)]

    def expect_order(self, error: Callable[[int], float], order: int, hint: str) -> None:
        """The error of a number of steps falls with the order, within 0.2."""
        above = 0.2 if order <= 6 else 0.5  # round-off comes too early
        found, counts, errors, slope = self.settled(error, lambda slope: order - 0.2 <= slope <= order + above)
        assert found, (
            f"order {order} is claimed, the errors {', '.join(f'{e:.2e}' for e in errors)} at {counts} steps "
            f"have the slope {slope:.2f}: {hint}"
        )

    def settled(
        self, error: Callable[[int], float], fits: Callable[[float], bool]
    ) -> tuple[bool, list[int], list[float], float]:
        """Whether the slope of the errors over :meth:`counts` fits, or, as an order is a limit, at finer steps.

        There, as far as errors are above round-off, it has to fit twice in a row, so that a slope which only passes by
        does not count.  With it come the counts, errors and slope of the last try.
        """
        counts = self.counts()
        errors = [error(count) for count in counts]
        slope = fitted_slope(counts, errors)
        good = 2 if fits(slope) else 0
        while good < 2 and 2 * counts[-1] <= FINEST and errors[-1] > 100 * ROUND_OFF:
            counts = [*counts[1:], 2 * counts[-1]]
            errors = [*errors[1:], error(counts[-1])]
            slope = fitted_slope(counts, errors)
            good = good + 1 if fits(slope) else 0
        return good == 2, counts, errors, slope

    def exact(self, t: float, speed: float = 1.0) -> Tensor:
        """The solution from ``Liouville.start`` at a time."""
        return Liouville.exact(Liouville.start(device=self.device), speed * Liouville.clock(t))

    def order_between(self) -> int:
        """The order of an adaptive scheme's states between its steps."""
        return self.dense_order or getattr(self.part, "dense_order", None) or max((self.claim() or 2) - 1, 1)


def fitted_slope(counts: Sequence[int], errors: Sequence[float]) -> float:
    """The order by least squares on log error over log step, from the finest three errors above round-off."""
    points = [(math.log(n), math.log(e)) for n, e in zip(counts, errors, strict=True) if e > ROUND_OFF][-3:]
    assert len(points) >= 2, f"errors {list(errors)} are round-off: nothing to fit an order to"
    mean_n, mean_e = (sum(column) / len(points) for column in zip(*points, strict=True))
    spread = sum((n - mean_n) ** 2 for n, _ in points)
    return -sum((n - mean_n) * (e - mean_e) for n, e in points) / spread


def largest(difference: Tensor) -> float:
    """The maximum norm, as a number."""
    return float(difference.detach().abs().max())


class AccuracyChecks(SolverChecks):
    """Exactness, reversal, output times and tolerances, on Liouville's equation in a time of its own."""

    @concerns(lambda kit: kit.is_first_order() and not kit.is_one_way())
    def test_solving_back_returns(self) -> None:
        """From the end to the start, steps are negative and the initial state comes back, to the scheme's order."""
        x0, order = Liouville.start(device=self.device), self.claim() or 1

        def error(n: int) -> float:
            flow = self.flow(Liouville(), steps=n)
            return largest(flow.solve(flow(x0), (1.0, 0.0)).final - x0)

        missed = error(64)
        if missed <= (100 * self.rtol() if self.is_adaptive() else max(20 * 64.0**-order, 1e-10)):
            return
        # the constant of a scheme may be larger than that; what it leaves falls with its order all the same
        assert self.takes_steps() and self.settled(error, lambda slope: slope >= order - 0.2)[0], (
            f"solving to 1 and back to 0 misses the start by {missed:.1e}: dt is negative on the way back; "
            "use it as it is, and abs(dt) nowhere but in comparisons"
        )

    @concerns(lambda kit: kit.is_one_way())
    def test_solving_back_is_refused(self) -> None:
        """A scheme with the trait ``one_way`` says, where times fall, that it goes forward in time alone."""
        flow, x0 = self.flow(Liouville(), steps=4), Liouville.start(device=self.device)
        with refused(InvalidOption, "forward", "falling times were taken: refuse a negative dt, or drop 'one_way'"):
            flow.solve(x0, (1.0, 0.0))

    @concerns(lambda kit: kit.takes_steps())
    def test_output_times_on_the_grid_change_nothing(self) -> None:
        """Times at nodes are read off; the states there are those of a solve that ends there."""
        torch.manual_seed(5)
        x0, flow = Liouville.start(device=self.device), self.flow(Liouville(), steps=16)
        states = flow.solve(x0, (0.0, 0.25, 0.5, 1.0)).states
        assert torch.equal(states[0], x0), "the state at the first time is x0 itself"
        assert torch.equal(states[-1], flow(x0)), "output times on the grid must not change the steps"
        torch.manual_seed(5)  # a scheme of several blocks draws their weights
        half = self.flow(Liouville(), steps=8).solve(x0, (0.0, 0.5)).final
        assert largest(states[2] - half) <= 1e-12, "the state at an output time is not that of the step that ends there"

    @concerns(lambda kit: kit.is_first_order())
    def test_output_times_off_the_grid(self) -> None:
        """Wherever times lie, the states there are as exact as the end."""
        x0, flow = Liouville.start(device=self.device), self.flow(Liouville(), steps=16)
        times = (0.0, 0.03, 0.3, 0.59, 0.77, 1.0)
        states = flow.solve(x0, times).states
        plain = [largest(flow.solve(x0, (0.0, t)).final - self.exact(t)) for t in (0.25, 0.5, 0.75, 1.0)]
        errors = [largest(state - self.exact(t)) for state, t in zip(states, times, strict=True)]
        # an interpolation of lower order than the steps may lose a factor of ten for each order
        allowed = 10 ** max(1, (self.claim() or 1) - self.order_between()) if self.is_adaptive() else 2
        promised = 10 * self.rtol() if self.is_adaptive() and self.claim() is None else ROUND_OFF
        fine = max(errors) <= max(allowed * max(plain), promised)
        assert fine or self.starts_anew(times), (
            f"errors at {times} are {[f'{e:.1e}' for e in errors]}, those of solves that end there up to "
            f"{max(plain):.1e}: steps of unequal length, or the interpolation between steps, are wrong"
        )

    def starts_anew(self, times: Sequence[float]) -> bool:
        """Whether a few changes of the step's length leave the order, of a scheme that says what many of them cost."""
        if self.unequal_order is None or not self.takes_steps():
            return False
        x0 = Liouville.start(device=self.device)

        def error(n: int) -> float:
            return largest(self.flow(Liouville(), steps=n).solve(x0, times).final - self.exact(1.0))

        return self.settled(error, lambda slope: slope >= (self.claim() or 0) - 0.2)[0]

    @concerns(lambda kit: kit.is_adaptive())
    def test_error_falls_with_the_tolerance(self) -> None:
        """Tighter tolerances give smaller errors, of the size of the tolerance."""
        x0, errors = Liouville.start(device=self.device), []
        for rtol in (1e3 * self.rtol(), 10 * self.rtol(), self.rtol() / 10):
            flow = self.flow(Liouville(), rtol=rtol, atol=rtol / 10)
            errors.append(largest(flow(x0) - self.exact(1.0)))
            assert errors[-1] <= 100 * rtol, (
                f"rtol = {rtol} gives the error {errors[-1]:.1e}: the error estimate is too small (its weights "
                "b - b_hat, or its scale atol + rtol |x|)"
            )
        assert errors == sorted(errors, reverse=True), f"the error does not fall with the tolerance: {errors}"

    @concerns(lambda kit: kit.is_adaptive())
    def test_breakpoints_are_respected(self) -> None:
        """A piecewise field costs at most 1.5 times what its smooth pieces cost, and loses no accuracy."""
        torch.manual_seed(5)
        x0 = Liouville.start(device=self.device)
        flow = self.flow(
            Liouville(), {"name": "piecewise_constant", "pieces": PIECES}, rtol=self.rtol() / 10, atol=self.rtol() / 100
        )
        whole = flow.solve(x0)
        x, pieces = x0, 0
        for start, end in zip((0.0, *flow.control.breakpoints()), (*flow.control.breakpoints(), 1.0), strict=True):
            part = flow.solve(x, (start, end))
            x, pieces = part.final, pieces + part.stats.nfe
        speeds = [float(v.detach()) for name, v in flow.named_parameters() if name.endswith("speed")]
        exact = Liouville.exact(x0, Liouville.elapsed(flow.control.breakpoints(), speeds, 1.0))
        assert largest(whole.final - exact) <= 10 * self.rtol(), "a step has crossed a breakpoint of the control"
        assert whole.stats.nfe <= 1.5 * pieces, (
            f"{whole.stats.nfe} evaluations where the pieces alone take {pieces}: end steps at field.breakpoints() and "
            "start anew there, with the law of the next interval"
        )


def march(solver: Solver, count: int, x0: Tensor, exact: Callable[[float], Tensor]) -> tuple[float, float]:
    """Errors of an adaptive scheme with ``count`` equal steps on (0, 1): at the end, and within a single step."""
    assert isinstance(solver, AdaptiveSolver)
    dynamics, x, dt, between = Liouville().to(x0.device), x0, 1.0 / count, 0.0
    with torch.no_grad():
        law = FunctionField(dynamics).on(*torch.tensor([0.0, 1.0], dtype=torch.float64))
        memory = solver.init(law, law.t, x)
        for k in range(count):
            attempt = solver.attempt(law, torch.tensor(k * dt, dtype=torch.float64), dt, x, memory)
            for theta in (0.25, 0.5, 0.75):
                s = Liouville.clock((k + theta) * dt) - Liouville.clock(k * dt)
                between = max(between, largest(solver.interpolate(theta, dt, x, attempt) - Liouville.exact(x, s)))
            x, memory = attempt.x, attempt.memory
    return largest(x - exact(1.0)), between
