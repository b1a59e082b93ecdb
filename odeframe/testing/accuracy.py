"""How exact a solver is: orders by fitted slopes, identities, output times, tolerances."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from odeframe.adaptive import AdaptiveSolver
from odeframe.costs import RunningCost
from odeframe.field import FunctionField
from odeframe.flow import Flow
from odeframe.solver import Solver, StepSolver
from odeframe.testing.conformance import Conformance, concerns
from odeframe.testing.problems import Liouville, Power, Ramp

PIECES = 4
ROUND_OFF = 1e-12


class SolverChecks(Conformance):
    """What the checks of solvers share.

    Attributes:
        solver: a name, a mapping, a class or a function that takes options.
        order: the order to hold it against, where its class declares none.
        dense_order: order of an adaptive scheme's interpolation between steps, where its class does not say it and it
            is not ``order - 1``.
        device: where the states live.
    """

    kind = "solver"
    interface = Solver
    solver: ClassVar[Any] = None
    order: ClassVar[int | None] = None
    dense_order: ClassVar[int | None] = None
    device: ClassVar[str] = "cpu"

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
    def takes_steps(cls) -> bool:
        """Whether it takes a number of equal steps."""
        return not cls.is_adaptive() and hasattr(cls.part, "steps")

    def flow(self, dynamics: nn.Module, control: Any = "constant", **options: Any) -> Flow:
        """A flow of the dynamics by the solver, in evaluation: a stochastic scheme is its mean there."""
        words = {name: options.pop(name) for name in ("horizon", "quadratures") if name in options}
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

    def expect_order(self, errors: Sequence[float], order: int, hint: str) -> None:
        """The slope of the errors over :meth:`counts` is the order, within 0.2."""
        slope, above = fitted_slope(self.counts(), errors), 0.2 if order <= 6 else 0.5  # round-off comes too early
        assert order - 0.2 <= slope <= order + above, (
            f"order {order} is claimed, the errors {', '.join(f'{e:.2e}' for e in errors)} at {self.counts()} steps "
            f"have the slope {slope:.2f}: {hint}"
        )


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
    """Orders, exactness, reversal and output times, on Liouville's equation in a time of its own."""

    def exact(self, t: float, speed: float = 1.0) -> Tensor:
        """The solution from ``Liouville.start`` at a time."""
        return Liouville.exact(Liouville.start(device=self.device), speed * Liouville.clock(t))

    @concerns(lambda kit: kit.takes_steps() and kit.claim() is not None)
    def test_order(self) -> None:
        """The error on a smooth problem falls by the claimed order."""
        x0 = Liouville.start(device=self.device)
        errors = [largest(self.flow(Liouville(), steps=n)(x0) - self.exact(1.0)) for n in self.counts()]
        self.expect_order(errors, self.claim() or 0, "check the weights, and that each stage gets its own time t + c h")

    @concerns(lambda kit: isinstance(kit.part, StepSolver) and kit.claim() is not None)
    def test_order_across_jumps_of_the_control(self) -> None:
        """With a piecewise-constant control the order stays; a memory that is never dropped there may leave 1."""
        x0, errors = Liouville.start(device=self.device), []
        for n in self.counts():
            torch.manual_seed(5)
            flow = self.flow(Liouville(), {"name": "piecewise_constant", "pieces": PIECES}, steps=n)
            speeds = [float(v.detach()) for name, v in flow.named_parameters() if name.endswith("speed")]
            s = Liouville.elapsed(flow.control.breakpoints(), speeds, 1.0)
            errors.append(largest(flow(x0) - Liouville.exact(x0, s)))
        if self.remembers() and self.part.restart == "never":
            slope = fitted_slope(self.counts(), errors)
            assert slope >= 0.8, f"across jumps the error falls with the slope {slope:.2f}: the scheme is inconsistent"
            return
        self.expect_order(
            errors,
            self.claim() or 0,
            "across jumps a stage has read the control of the next piece, or a memory was carried over: evaluate the "
            "law that step() is given and no other, and write restart = 'breakpoints' for a scheme with memory",
        )

    def remembers(self) -> bool:
        """Whether the scheme carries memory from step to step."""
        flow, x = self.flow(Liouville()), Liouville.start(device=self.device)
        t = torch.tensor([0.0, 0.1], dtype=torch.float64)
        law = flow.field().on(t[0], t[1])
        stepper = law.stepper(flow.solver)
        memory = stepper.init(law, t[0], x)
        return bool(memory) or bool(stepper.step(law, t[0], 0.1, x, memory)[1])

    @concerns(lambda kit: isinstance(kit.part, StepSolver) and kit.claim() is not None)
    def test_order_with_a_smooth_control(self) -> None:
        """A control that varies within the steps keeps the order: it is read at the stages' times."""
        x0 = Liouville.start(device=self.device)
        s = Liouville.clock(1.0) + 0.5 * Liouville.weighted_clock(1.0)
        errors = [largest(self.flow(Liouville(), Ramp(), steps=n)(x0) - Liouville.exact(x0, s)) for n in self.counts()]
        self.expect_order(errors, self.claim() or 0, "read the control at each stage's own time, not once a step")

    @concerns(lambda kit: isinstance(kit.part, StepSolver) and kit.claim() is not None)
    def test_order_with_unequal_steps(self) -> None:
        """Output times that cut every step in two keep the order."""
        x0, errors = Liouville.start(device=self.device), []
        for n in self.counts():
            times = (0.0, *((k + 0.3) / n for k in range(n)), 1.0)
            errors.append(largest(self.flow(Liouville(), steps=n).solve(x0, times).final - self.exact(1.0)))
        self.expect_order(
            errors, self.claim() or 0, "a multistep scheme needs the lengths of its past steps in its memory"
        )

    @concerns(lambda kit: kit.claim() is not None)
    def test_exact_on_polynomials(self) -> None:
        """A scheme of order p solves ``x' = k t^(k-1)`` for ``k <= p`` to round-off."""
        x0 = Liouville.start(device=self.device)
        for degree in range((self.claim() or 0) + 1):
            error = largest(self.flow(Power(degree), steps=5)(x0) - x0 - float(degree > 0))
            fault = "the weights violate sum b c^k = 1/(k+1), or the nodes c do not enter as times t + c h"
            fault = "in float64 this is the rounding of float32: a coefficient is a tensor" if error < 1e-6 else fault
            assert error <= 1e-12, f"x' = {degree} t^{degree - 1} is solved with the error {error:.1e}: {fault}"

    @concerns(lambda kit: kit.takes_steps() and kit.claim() is not None)
    def test_order_of_running_costs(self) -> None:
        """A running cost is integrated with the order of the scheme."""
        x0 = Liouville.start(device=self.device)
        cost = RunningCost(lambda t, x: Liouville.pace(t) * x[:, 1])  # its integral is the way of y
        exact = (self.exact(1.0) - x0)[:, 0]
        solutions = [self.flow(Liouville(), quadratures=[cost], steps=n).solve(x0) for n in self.counts()]
        errors = [largest(solution.quadratures["running_cost"][-1] - exact) for solution in solutions]
        order = min(self.claim() or 0, 4) if not self.part.opaque else self.claim() or 0
        self.expect_order(
            errors, order, "the running cost falls behind: opaque = True promises that state and cost are one vector"
        )

    @concerns(lambda kit: kit.is_first_order())
    def test_solving_back_returns(self) -> None:
        """From the end to the start, steps are negative and the initial state comes back."""
        x0, flow = Liouville.start(device=self.device), self.flow(Liouville(), steps=64)
        back = flow.solve(flow(x0), (1.0, 0.0)).final
        tolerance = 100 * self.rtol() if self.is_adaptive() else max(20 * 64.0 ** -(self.claim() or 1), 1e-10)
        assert largest(back - x0) <= tolerance, (
            f"solving to 1 and back to 0 misses the start by {largest(back - x0):.1e}: dt is negative on the way back; "
            "use it as it is, and abs(dt) nowhere but in comparisons"
        )

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
        assert max(errors) <= max(allowed * max(plain), ROUND_OFF), (
            f"errors at {times} are {[f'{e:.1e}' for e in errors]}, those of solves that end there up to "
            f"{max(plain):.1e}: steps of unequal length, or the interpolation between steps, are wrong"
        )

    def order_between(self) -> int:
        """The order of an adaptive scheme's states between its steps."""
        return self.dense_order or getattr(self.part, "dense_order", None) or max((self.claim() or 2) - 1, 1)

    @concerns(lambda kit: isinstance(kit.part, AdaptiveSolver))
    def test_order_of_attempts_and_of_dense_output(self) -> None:
        """With equal steps the end is of the claimed order, and the interpolation in a step of ``dense_order``."""
        x0 = Liouville.start(device=self.device)
        ends, inner = zip(*(march(self.make(), n, x0, self.exact) for n in self.counts()), strict=True)
        order = self.claim() or 0
        self.expect_order(ends, order, "check the weights of the propagated solution")
        dense = self.order_between()
        slope = fitted_slope(self.counts(), inner)
        assert slope >= dense + 0.5, (
            f"within one step the interpolation's error falls with the slope {slope:.2f}, that of an interpolant of "
            f"order {dense} with {dense + 1}: check interpolate(), or say which order it has: dense_order = ..."
        )

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
