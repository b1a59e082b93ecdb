"""What every gradient must do, as a base class for pytest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from odeframe.drive import SequenceDrive
from odeframe.errors import Incompatible, OdeframeError
from odeframe.field import FunctionField, Law
from odeframe.flow import Flow
from odeframe.noise import Noise
from odeframe.quadrature import RunningCost
from odeframe.solver import Memory, Solver, StepSolver
from odeframe.testing.accuracy import largest
from odeframe.testing.conformance import Conformance, build
from odeframe.testing.problems import Coupled

CONTROLS: dict[str, Any] = {"constant": "constant", "piecewise": {"name": "piecewise_constant", "pieces": 4}}


class GradientConformance(Conformance):
    """Set ``gradient`` to a word, a class, or a function that takes options; ``solvers`` where it needs special ones.

    A gradient with the trait ``"exact"`` is that of the steps that were taken, so it is held against differences of the
    same steps; one of the differential equation agrees with them up to the solver's error, so solvers are fine here:
    32 steps of order 4, or tolerances of 1e-10.

    Attributes:
        gradient: what is tested.
        solvers: the solvers it is tested with; the first is used where one is enough.
        differentiates_times: whether output times get gradients.
    """

    kind = "gradient"
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

    def compare(self, solver: Any, loss: Callable[[], Tensor], tensors: Mapping[str, Sequence[Tensor]]) -> None:
        """Holds the gradient of a loss against central differences, along one random direction for each group."""
        rough = "adaptive" in build("solver", solver).traits  # step sizes that change make the loss a little rough
        width, tolerance = (1e-4, 1e-5) if rough else (1e-5, 1e-7 if "exact" in self.part.traits else 1e-5)
        gradients = torch.autograd.grad(loss(), [v for group in tensors.values() for v in group], allow_unused=True)
        found, generator = list(gradients), torch.Generator().manual_seed(11)
        for name, group in tensors.items():
            mine = [found.pop(0) for _ in group]
            directions = [torch.randn(v.shape, dtype=v.dtype, generator=generator) for v in group]
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    torch._foreach_add_(group, directions, alpha=sign * width)
                    values.append(float(loss()))
                    torch._foreach_add_(group, directions, alpha=-sign * width)
            expected = (values[0] - values[1]) / (2 * width)
            assert all(g is not None for g in mine), f"{solver}: of {name} some get no gradient, and no error says so"
            got = sum(float((g * d).sum()) for g, d in zip(mine, directions, strict=True))
            assert abs(got - expected) <= tolerance * max(1.0, abs(expected)), (
                f"{solver}: the derivative of the loss along {name} is {expected:.8f} by differences, the gradient says "
                f"{got:.8f}: a sign, a missing term (running cost, jump at an output time), or a law of another interval"
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
                    with pytest.raises(Incompatible, match="drive"):
                        loss()
                    continue
                groups = {"the drive": [value], "x0": [x0], "the parameters": list(flow.parameters())}
                self.compare(solver, loss, groups)

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
                with pytest.raises(OdeframeError, match="times"):
                    loss()

    def test_evaluations_backwards_are_counted(self) -> None:
        """``nfe_backward`` counts what the backward pass evaluates or differentiates, and ``nfe`` stays."""
        for solver in self.solvers:
            flow, x0 = self.flow(solver), self.start()
            loss = flow(x0).sum()
            stats, forward = flow.stats, flow.stats.nfe
            calls = flow.dynamics.calls
            loss.backward()
            assert flow.stats is stats and stats.nfe == forward, (
                "the backward pass changed the count of the forward one"
            )
            assert stats.nfe_backward > 0, "a backward pass costs something: count it in stats.nfe_backward"
            assert stats.nfe_backward >= flow.dynamics.calls - calls, (
                f"{flow.dynamics.calls - calls} calls of the dynamics in the backward pass, nfe_backward = {stats.nfe_backward}"
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
            assert (a is None) == (p.grad is None)
            assert a is None or largest(a - p.grad) <= 1e-12, (
                "state of one solve is kept where the next one overwrites it"
            )
        with torch.no_grad():
            assert not flow(one).requires_grad

    def test_autocast_is_the_same_both_ways(self) -> None:
        """Every evaluation runs under the autocast state of the forward pass, wherever the backward pass is called."""
        for inside in (True, False):
            seen: list[bool] = []
            flow = self.flow(self.solvers[0]).float()
            hook = flow.dynamics.register_forward_pre_hook(
                lambda m, a, s=seen: s.append(torch.is_autocast_enabled("cpu"))
            )
            with torch.autocast("cpu", torch.bfloat16, enabled=inside):
                loss = flow(self.start().detach().float()).sum()
            with torch.autocast("cpu", torch.bfloat16, enabled=not inside):
                loss.backward()
            hook.remove()
            assert set(seen) <= {inside}, "the backward pass evaluates the field under another autocast state: store it"
            exact = self.flow(self.solvers[0], gradient="backprop")
            exact(self.start().detach()).sum().backward()
            for a, b in zip(flow.parameters(), exact.parameters(), strict=True):
                assert a.grad is not None and b.grad is not None and a.grad.dtype == torch.float32
                assert largest(a.grad - b.grad) <= 0.05 * max(1.0, largest(b.grad)), "autocast changed the gradient"

    @pytest.mark.parametrize("trait", ["dropout", "batch_norm"])
    def test_random_and_batch_wide_layers(self, trait: str) -> None:
        """Dropout masks and running statistics are those of one forward pass, or the layer is refused."""
        layer = nn.Dropout(0.3) if trait == "dropout" else nn.BatchNorm1d(4)
        results = []
        for gradient in (None, "backprop"):
            torch.manual_seed(5)
            block = nn.Sequential(nn.Linear(4, 4), layer, nn.Tanh(), nn.Linear(4, 4))
            if gradient is None and self.refuses(trait, dynamics=block):
                return
            flow = self.flow(self.solvers[0], dynamics=block, **({} if gradient is None else {"gradient": gradient}))
            torch.manual_seed(9)
            flow(self.start(6)).sin().sum().backward()
            results.append([p.grad for p in flow.parameters()] + list(flow.buffers()))
            layer = nn.Dropout(0.3) if trait == "dropout" else nn.BatchNorm1d(4)
        for mine, theirs in zip(*results, strict=True):
            assert largest((mine - theirs).double()) <= 1e-9, (
                f"with {trait} the gradient or the running statistics are not those of one forward pass: repeat the masks, "
                f"update statistics once, or refuse it: needs = ('dynamics:!{trait}',)"
            )

    def test_stochastic_solvers(self) -> None:
        """The noise of the forward pass is that of the gradient, or the solver is refused."""
        if self.refuses("stochastic", solver=NoisyEuler(steps=8)):
            return
        grads = []
        for gradient in (None, "backprop"):
            flow = self.flow(lambda: NoisyEuler(steps=8), **({} if gradient is None else {"gradient": gradient}))
            flow(self.start(), noise=Noise(1)).sin().sum().backward()
            grads.append([p.grad for p in flow.parameters()])
        for mine, theirs in zip(*grads, strict=True):
            assert largest(mine - theirs) <= 1e-9, "the gradient has seen other noise than the forward pass"

    def refuses(self, trait: str, **words: Any) -> bool:
        """Whether the gradient refuses a flow, by the trait's name and with a way out."""
        words = {"dynamics": self.dynamics(), "solver": build("solver", self.solvers[0]), **words}
        try:
            Flow(gradient=self.make(), **words)
        except Incompatible as error:
            assert trait in str(error) and "fits" in str(error), (
                f"the refusal does not say why, or what would fit: {error}"
            )
            return True
        return False

    def test_closures_are_not_lost(self) -> None:
        """A tensor that the field takes from a closure gets its gradient, or an error says that it would not."""
        weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
        solver: Solver = build("solver", self.solvers[0])
        if not solver.opaque:
            return  # a scheme of parts takes no bare function
        solution = self.make().solve(solver, FunctionField(lambda t, x: -weight * x), self.start(), (0.0, 1.0))
        try:
            solution.final.sum().backward()
        except Incompatible as error:
            assert "backprop" in str(error), f"the refusal does not say what would work: {error}"
            return
        expected = float((-self.start() * torch.exp(-weight)).detach().sum())
        assert weight.grad is not None, "the gradient of a tensor in a closure was lost in silence: refuse it"
        assert abs(float(weight.grad) - expected) <= 1e-5

    def test_second_derivatives(self) -> None:
        """A second derivative is right, or refused."""
        flow, x0 = self.flow(self.solvers[0]), self.start()
        try:
            (first,) = torch.autograd.grad(flow(x0).sin().sum(), x0, create_graph=True)
        except Incompatible as error:
            assert "twice" in str(error), (
                f"the refusal does not say that the gradient cannot be differentiated twice: {error}"
            )
            return
        (second,) = torch.autograd.grad(first.square().sum(), x0)
        self.compare_second(flow, x0, second)

    @staticmethod
    def compare_second(flow: Flow, x0: Tensor, second: Tensor) -> None:
        """Holds a second derivative against differences of the first."""
        direction = torch.ones_like(x0) / x0.numel() ** 0.5
        values = []
        for sign in (1, -1):
            at = (x0 + sign * 1e-5 * direction).detach().requires_grad_(True)
            (first,) = torch.autograd.grad(flow(at).sin().sum(), at)
            values.append(float(first.square().sum()))
        expected = (values[0] - values[1]) / 2e-5
        assert abs(float((second * direction).sum()) - expected) <= 1e-6 * max(1.0, abs(expected)), (
            "the second derivative is wrong in silence: refuse create_graph=True (in a backward pass, torch.is_grad_enabled()), or make it right"
        )


class NoisyEuler(StepSolver):
    """Euler with multiplicative noise, ``x + dt f (1 + n / 2)``, to see whether a gradient repeats it."""

    traits: ClassVar[tuple[str, ...]] = ("step", "stochastic")

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """One step; its mean where there is no noise."""
        scale = 1 if field.noise is None else 1 + 0.5 * field.noise.normal(x, tuple(x.shape[1:]))
        return x + dt * scale * field(t, x), ()
