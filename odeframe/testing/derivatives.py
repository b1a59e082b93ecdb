"""Derivatives: what a gradient says of a loss, against central differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from odeframe.costs import RunningCost
from odeframe.drive import SequenceDrive
from odeframe.errors import Incompatible, OdeframeError
from odeframe.flow import Flow
from odeframe.gradient import Gradient
from odeframe.testing.accuracy import largest
from odeframe.testing.conformance import Conformance, build, concerns, refused
from odeframe.testing.problems import Coupled

CONTROLS: dict[str, Any] = {"constant": "constant", "piecewise": {"name": "piecewise_constant", "pieces": 4}}


def along(loss: Callable[[], Tensor], group: Sequence[Tensor], directions: Sequence[Tensor], width: float) -> float:
    """The derivative of a loss along a direction of the tensors that it depends on, by a central difference."""
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            torch._foreach_add_(list(group), list(directions), alpha=sign * width)
            values.append(float(loss()))
            torch._foreach_add_(list(group), list(directions), alpha=-sign * width)
    return (values[0] - values[1]) / (2 * width)


class GradientChecks(Conformance):
    """What the checks of gradients share.

    Attributes:
        gradient: what is tested.
        solvers: the solvers it is tested with; the first is used where one is enough.
        differentiates_times: whether output times get gradients.
    """

    kind = "gradient"
    interface = Gradient
    gradient: ClassVar[Any] = None
    solvers: ClassVar[tuple[dict[str, Any], ...]] = (
        {"name": "rk4", "steps": 32},
        {"name": "dopri5", "rtol": 1e-10, "atol": 1e-12},
    )
    differentiates_times: ClassVar[bool] = True

    def dynamics(self) -> nn.Module:
        """Dynamics in float64 that take a drive."""
        return Coupled()

    def flow(self, solver: Any, control: Any = "constant", dynamics: nn.Module | None = None, **words: Any) -> Flow:
        """A flow with this gradient, seeded."""
        torch.manual_seed(3)
        module = self.dynamics() if dynamics is None else dynamics
        return Flow(module, control, build("solver", solver), words.pop("gradient", self.make()), **words).double()

    @staticmethod
    def start(size: int = 3) -> Tensor:
        """A batch of states ``(size, 4)`` that asks for a gradient."""
        generator = torch.Generator().manual_seed(1)
        return torch.randn(size, 4, dtype=torch.float64, generator=generator, requires_grad=True)


class DerivativeChecks(GradientChecks):
    """Losses at the end, along the way and at several times, over all that they depend on."""

    def compare(self, solver: Any, loss: Callable[[], Tensor], tensors: Mapping[str, list[Tensor]]) -> None:
        """Holds the gradient of a loss against central differences, along one random direction for each group."""
        rough = "adaptive" in build("solver", solver).traits  # step sizes that change make the loss a little rough
        width, tolerance = (1e-4, 1e-5) if rough else (1e-5, 1e-7 if "exact" in self.part.traits else 1e-5)
        gradients = torch.autograd.grad(loss(), [v for group in tensors.values() for v in group], allow_unused=True)
        found, generator = list(gradients), torch.Generator().manual_seed(11)
        for name, group in tensors.items():
            mine = [found.pop(0) for _ in group]
            directions = [torch.randn(v.shape, dtype=v.dtype, generator=generator) for v in group]
            expected = along(loss, group, directions, width)
            assert all(g is not None for g in mine), f"{solver}: of {name} some get no gradient, and no error says so"
            got = sum(float((g * d).sum()) for g, d in zip(mine, directions, strict=True))
            assert abs(got - expected) <= tolerance * max(1.0, abs(expected)), (
                f"{solver}: the derivative of the loss along {name} is {expected:.8f} by differences, the gradient "
                f"says {got:.8f}: a sign, a missing term (running cost, jump at an output time), or a law of another "
                "interval"
            )

    @pytest.mark.parametrize("control", CONTROLS)
    @pytest.mark.parametrize("case", ["end", "running cost", "several times", "backwards"])
    def test_parameters_and_start(self, case: str, control: str) -> None:
        """Gradients of parameters and ``x0``, with losses at the end, along the way and at several times."""
        costs = [RunningCost(lambda t, x: (1 + t) * x.square().sum(1), weight=0.7)] if case == "running cost" else []
        times = {"several times": (0.0, 0.25, 0.6, 1.0), "backwards": (1.0, 0.3, 0.0)}.get(case)
        for solver in self.solvers:
            flow, x0 = self.flow(solver, CONTROLS[control], quadratures=costs), self.start()

            def loss(flow: Flow = flow, x0: Tensor = x0) -> Tensor:
                solution = flow.solve(x0, times)
                value = (torch.arange(1, len(solution.states) + 1)[:, None, None] * solution.states).sin().sum()
                return value + (flow.running_cost(solution).sum() if costs else 0)

            self.compare(solver, loss, {"x0": [x0], "the parameters": list(flow.parameters())})

    def test_drive(self) -> None:
        """Gradients of the drive, constant in time and a sequence; a scheme of parts refuses it."""
        generator = torch.Generator().manual_seed(2)
        for solver in self.solvers:
            for shape in ((3, 2), (3, 4, 2)):
                flow, x0 = self.flow(solver), self.start()
                value = torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)

                def loss(flow: Flow = flow, x0: Tensor = x0, value: Tensor = value) -> Tensor:
                    drive = value if value.dim() == 2 else SequenceDrive(value)
                    return flow(x0, drive=drive).sin().sum()

                if not flow.solver.opaque:
                    with refused(Incompatible, "drive", "a scheme of parts took a drive that its parts do not get"):
                        loss()
                    continue
                groups: dict[str, list[Tensor]] = {
                    "the drive": [value],
                    "x0": [x0],
                    "the parameters": list(flow.parameters()),
                }
                self.compare(solver, loss, groups)

    @concerns(lambda kit: any(build("solver", solver).opaque for solver in kit.solvers))  # parts take no drive
    def test_drive_made_by_the_same_weights(self) -> None:
        """A flow driven by its own result: the weights count once along each way, through the field and the drive."""
        opaque = [solver for solver in self.solvers if build("solver", solver).opaque]
        for solver in opaque:
            for items in (0, 4) if solver is opaque[0] else (0,):
                flow, x0 = self.flow(solver), self.start()

                def loss(flow: Flow = flow, x0: Tensor = x0, items: int = items) -> Tensor:
                    first = flow(x0)[:, :2]
                    again = torch.stack([first.sin() * k for k in range(1, items + 1)], 1) if items else first
                    return flow(x0, drive=SequenceDrive(again) if items else again).sin().sum()

                self.compare(solver, loss, {"x0": [x0], "the parameters": list(flow.parameters())})

    def test_times(self) -> None:
        """Gradients of the first, the last and further output times; refused in words where there are none."""
        for solver in self.solvers:
            flow, x0 = self.flow(solver), self.start()
            times = torch.tensor([0.05, 0.4, 0.93], dtype=torch.float64, requires_grad=True)

            def loss(flow: Flow = flow, x0: Tensor = x0, times: Tensor = times) -> Tensor:
                states = flow.solve(x0, times).states
                return (torch.arange(1, len(states) + 1)[:, None, None] * states).sin().sum()

            if self.differentiates_times:
                self.compare(solver, loss, {"times": [times], "x0": [x0]})
            else:
                hint = "times got no gradient, and no error says so: refuse times that require one"
                with refused(OdeframeError, "times", hint):
                    loss()

    def test_evaluations_backwards_are_counted(self) -> None:
        """``nfe_backward`` counts what the backward pass evaluates or differentiates, and ``nfe`` stays."""
        for solver in self.solvers:
            flow, x0 = self.flow(solver), self.start()
            loss = flow(x0).sum()
            stats, forward = flow.stats, flow.stats.nfe
            dynamics: Any = flow.dynamics
            calls = dynamics.calls
            loss.backward()
            assert flow.stats is stats and stats.nfe == forward, (
                "the backward pass changed the count of the forward one"
            )
            assert stats.nfe_backward > 0, "a backward pass costs something: count it in stats.nfe_backward"
            repeated = dynamics.calls - calls
            assert stats.nfe_backward >= repeated, (
                f"{repeated} calls of the dynamics in the backward pass, nfe_backward = {stats.nfe_backward}"
            )

    def test_solves_do_not_mix(self) -> None:
        """Two solves before one backward pass add up; frozen parameters stay without gradient."""
        flow = self.flow(self.solvers[0])
        frozen = next(flow.parameters()).requires_grad_(False)
        one, other = self.start(), (2 * self.start()).detach().requires_grad_(True)
        (flow(one).sum() + flow(other).square().sum()).backward()
        together = [p.grad for p in flow.parameters()]
        flow.zero_grad()
        flow(one).sum().backward()
        flow(other).square().sum().backward()
        assert frozen.grad is None, "a frozen parameter got a gradient"
        for a, p in zip(together, flow.parameters(), strict=True):
            assert (a is None) == (p.grad is None), "a parameter has a gradient in one of two equal backward passes"
            assert a is None or p.grad is None or largest(a - p.grad) <= 1e-12, (
                "state of one solve is kept where the next one overwrites it"
            )
        with torch.no_grad():
            assert not flow(one).requires_grad, "a solve under torch.no_grad() asks for a gradient"
