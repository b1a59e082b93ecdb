"""Orders by fitted slopes: with jumps and ramps of the control, unequal steps, running costs, between steps."""

from __future__ import annotations

import torch

from odeframe.adaptive import AdaptiveSolver
from odeframe.costs import RunningCost
from odeframe.solver import StepSolver
from odeframe.testing.accuracy import PIECES, SolverChecks, fitted_slope, largest, march
from odeframe.testing.conformance import concerns
from odeframe.testing.problems import Liouville, Power, Ramp


class OrderChecks(SolverChecks):
    """Orders, on Liouville's equation in a time of its own, and exactness on polynomials."""

    @concerns(lambda kit: kit.takes_steps() and kit.claim() is not None)
    def test_order(self) -> None:
        """The error on a smooth problem falls by the claimed order."""
        x0 = Liouville.start(device=self.device)

        def error(n: int) -> float:
            return largest(self.flow(Liouville(), steps=n)(x0) - self.exact(1.0))

        self.expect_order(error, self.claim() or 0, "check the weights, and that each stage gets its own time t + c h")

    @concerns(lambda kit: isinstance(kit.part, StepSolver) and kit.claim() is not None)
    def test_order_across_jumps_of_the_control(self) -> None:
        """With a piecewise-constant control the order stays; a memory that is never dropped there may leave 1."""
        x0 = Liouville.start(device=self.device)

        def error(n: int) -> float:
            torch.manual_seed(5)
            flow = self.flow(Liouville(), {"name": "piecewise_constant", "pieces": PIECES}, steps=n)
            speeds = [float(v.detach()) for name, v in flow.named_parameters() if name.endswith("speed")]
            s = Liouville.elapsed(flow.control.breakpoints(), speeds, 1.0)
            return largest(flow(x0) - Liouville.exact(x0, s))

        if self.remembers() and self.part.restart == "never":
            slope = fitted_slope(self.counts(), [error(n) for n in self.counts()])
            assert slope >= 0.8, f"across jumps the error falls with the slope {slope:.2f}: the scheme is inconsistent"
            return
        self.expect_order(
            error,
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

        def error(n: int) -> float:
            return largest(self.flow(Liouville(), Ramp(), steps=n)(x0) - Liouville.exact(x0, s))

        self.expect_order(error, self.claim() or 0, "read the control at each stage's own time, not once a step")

    @concerns(lambda kit: isinstance(kit.part, StepSolver) and kit.claim() is not None)
    def test_order_with_unequal_steps(self) -> None:
        """Output times that cut every step in two keep the order, or leave the one that is claimed for them."""
        x0 = Liouville.start(device=self.device)

        def error(n: int) -> float:
            times = (0.0, *((k + 0.3) / n for k in range(n)), 1.0)
            return largest(self.flow(Liouville(), steps=n).solve(x0, times).final - self.exact(1.0))

        order = self.claim() or 0
        self.expect_order(
            error,
            order if self.unequal_order is None else min(order, self.unequal_order),
            "a multistep scheme needs the lengths of its past steps in its memory",
        )

    @concerns(lambda kit: kit.claim() is not None)
    def test_exact_on_polynomials(self) -> None:
        """A scheme of order p solves ``x' = k t^(k-1)`` for ``k <= p`` to round-off."""
        x0 = Liouville.start(device=self.device)
        order = self.claim() or 0
        for degree in range((order if self.exact_degree is None else min(order, self.exact_degree)) + 1):
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

        def error(n: int) -> float:
            solution = self.flow(Liouville(), quadratures=[cost], steps=n).solve(x0)
            return largest(solution.quadratures["running_cost"][-1] - exact)

        order = min(self.claim() or 0, 4) if not self.part.opaque else self.claim() or 0
        self.expect_order(
            error, order, "the running cost falls behind: opaque = True promises that state and cost are one vector"
        )

    @concerns(lambda kit: isinstance(kit.part, AdaptiveSolver))
    def test_order_of_attempts_and_of_dense_output(self) -> None:
        """With equal steps the end is of the claimed order, and the interpolation in a step of ``dense_order``."""
        x0 = Liouville.start(device=self.device)
        inner: dict[int, float] = {}

        def error(n: int) -> float:
            end, inner[n] = march(self.make(), n, x0, self.exact)
            return end

        self.expect_order(error, self.claim() or 0, "check the weights of the propagated solution")
        dense = self.order_between()
        slope = fitted_slope(list(inner)[:4], list(inner.values())[:4])
        assert slope >= dense + 0.5, (
            f"within one step the interpolation's error falls with the slope {slope:.2f}, that of an interpolant of "
            f"order {dense} with {dense + 1}: check interpolate(), or say which order it has: dense_order = ..."
        )
