"""What every control must do, as a base class for pytest."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from odeframe.compatibility import compatible
from odeframe.control import Control, ControlLaw
from odeframe.errors import InvalidOption
from odeframe.flow import Flow
from odeframe.network import offer
from odeframe.registry import word
from odeframe.testing.accuracy import fitted_slope, largest
from odeframe.testing.conformance import Conformance, refused
from odeframe.testing.problems import Coupled

STEPS = 8
SLIVER = 1e-6  # of a horizon of length 1: an interval beside a breakpoint


class ControlConformance(Conformance):
    """Set ``control`` to a word, a class, or a function that takes options.

    Override :meth:`dynamics` where the control needs dynamics of another kind: a feedback, dynamics that take ``u``.

    Attributes:
        control: what is tested.
        solver: a step solver of order 4.
    """

    kind = "control"
    interface = Control
    control: ClassVar[Any] = None
    solver: ClassVar[dict[str, Any]] = {"name": "rk4", "steps": STEPS}

    def dynamics(self, width: int = 4) -> nn.Module:
        """Dynamics in float64, nonlinear and non-autonomous, on states ``(batch, width)``."""
        return Coupled(width)

    def flow(self, seed: int = 3, width: int = 4, **words: Any) -> Flow:
        """A flow under a control of its own, in float64."""
        torch.manual_seed(seed)
        words = {"control": self.of_width(width), "solver": self.solver, **words}
        return Flow(self.dynamics(width), **words).double()

    @classmethod
    def of_width(cls, width: int = 4) -> Control:
        """The control, told the size of the state where it takes an option ``width``, as an architecture tells it."""
        choice = cls.choice()
        return cls.make() if inspect.isroutine(choice) else offer(word("control", choice), width=width)

    @staticmethod
    def start(width: int = 4, size: int = 5) -> Tensor:
        """A batch of states."""
        generator = torch.Generator().manual_seed(1)
        return torch.randn(size, width, dtype=torch.float64, generator=generator)

    def test_drives_one_flow_only(self) -> None:
        """A control that is attached cannot be attached again."""
        control = self.of_width()
        Flow(self.dynamics(), control, self.solver)
        hint = "a second flow took an attached control: give build(block, steps), and leave attach() as it is"
        with refused(InvalidOption, "already drives a flow", hint):
            Flow(self.dynamics(), control, self.solver)

    def test_every_parameter_is_trainable_and_gets_a_gradient(self) -> None:
        """Parameters are those of the control, all seen by the flow, all with a gradient, by any gradient that fits."""
        fitting = compatible("gradient", control=self.part, solver=self.solver)
        for gradient in [name for name in ("backprop", "adjoint") if name in fitting]:
            flow = self.flow(gradient=gradient)
            names = [name for name, _ in flow.named_parameters()]
            assert names, "the flow shows no parameters: register them on the control (nn.Parameter, nn.ParameterList)"
            flow(self.start()).sin().sum().backward()
            idle = [name for name, p in flow.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
            assert not idle, (
                f"with gradient={gradient!r} {idle} have no gradient: a template's own parameters are left over (set "
                "them to None by control.empty), a value was detached, or law.tensors does not list all that the law "
                "depends on"
            )

    @pytest.mark.parametrize("horizon", [(0.0, 1.0), (2.0, -1.0)], ids=["forward", "backward"])
    def test_breakpoints_lie_inside_the_horizon(self, horizon: tuple[float, float]) -> None:
        """Jumps are distinct times strictly between the ends, and as many as pieces less one."""
        control = self.flow(horizon=horizon).control
        points = sorted(control.breakpoints())
        assert all(min(horizon) < point < max(horizon) for point in points), f"breakpoints {points} on {horizon}"
        assert len(set(points)) == len(points), f"breakpoints {points} repeat themselves"
        assert control.pieces >= len(points) + 1, f"{len(points)} jumps separate more than pieces = {control.pieces}"

    @pytest.mark.parametrize("horizon", [(0.0, 1.0), (2.0, -1.0)], ids=["forward", "backward"])
    def test_intervals_agree_with_each_other(self, horizon: tuple[float, float]) -> None:
        """Between two breakpoints the control is one function, whichever interval it is asked for, up to both ends."""
        flow, x, size = self.flow(horizon=horizon), self.start(), abs(horizon[1] - horizon[0])
        points = [min(horizon), *sorted(flow.control.breakpoints()), max(horizon)]
        for a, b in itertools.pairwise(points):
            middle, sliver = 0.4 * a + 0.6 * b, SLIVER * size
            whole = self.law(flow, a, b)
            for start, end in ((a, middle), (middle, b), (b, a), (a, a + sliver), (b - sliver, b), (b, b - sliver)):
                law = self.law(flow, start, end)
                for time in (start, end):
                    pairs = zip(self.slopes(flow, law, time, x), self.slopes(flow, whole, time, x), strict=True)
                    difference = max(largest(one - other) for one, other in pairs)
                    assert difference <= 1e-12, (
                        f"at t = {time:g} value or gradient of the law of [{start:g}, {end:g}] differ from those of "
                        f"[{a:g}, {b:g}] by {difference:.1e}: choose the piece by the middle of the interval, not by a "
                        "point; an end belongs to the pieces on both sides"
                    )

    @staticmethod
    def law(flow: Flow, start: float, end: float) -> ControlLaw:
        """The control on an interval."""
        return flow.control.on(*torch.tensor([start, end], dtype=torch.float64))

    @staticmethod
    def slopes(flow: Flow, law: ControlLaw, time: float, x: Tensor) -> list[Tensor]:
        """The dynamics under the control at a time, and the gradient of their sum over all parameters."""
        parameters = [parameter for parameter in flow.parameters() if parameter.requires_grad]
        value = law.call(0, "forward", torch.tensor(time, dtype=torch.float64), x)
        made = torch.autograd.grad(value.sum(), parameters, allow_unused=True)
        return [value, *(torch.zeros(()) if grad is None else grad for grad in made)]

    @staticmethod
    def value(law: ControlLaw, time: float, x: Tensor) -> Tensor:
        """The dynamics under the control at a time."""
        with torch.no_grad():
            return law.call(0, "forward", torch.tensor(time, dtype=torch.float64), x)

    def test_flows_from_one_word_are_independent(self) -> None:
        """Two flows share no parameter, and changing one leaves the other."""
        one, other, x0 = self.flow(3), self.flow(4), self.start()
        shared = {p.data_ptr() for p in one.parameters()} & {p.data_ptr() for p in other.parameters()}
        assert not shared, "two flows from one word share parameters: something is kept on the class or as a default"
        before = other(x0)
        with torch.no_grad():
            for parameter in one.parameters():
                parameter.add_(1.0)
        assert torch.equal(other(x0), before), "changing one flow changed the other: they share a tensor or a module"

    def test_deepcopy_and_state_dict(self) -> None:
        """A copy is the same function and independent; a state dict moves the function to another flow."""
        flow, x0 = self.flow(3), self.start()
        expected, twin, other = flow(x0), copy.deepcopy(flow), self.flow(4)
        assert torch.equal(twin(x0), expected), "a deep copy computes something else: keep no references across modules"
        other.load_state_dict(flow.state_dict())
        assert torch.equal(other(x0), expected), (
            "the state dict is not all of the control: register buffers and parameters"
        )
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.add_(1.0)
        assert torch.equal(flow(x0), expected), "a deep copy shares parameters with its original"
        moved = twin(x0)
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.sub_(1.0)
        assert torch.equal(twin(x0), moved), (
            "a deep copy reads the original's parameters: keep no references past modules"
        )

    def test_modes_and_dtypes_reach_the_dynamics(self) -> None:
        """``.eval()`` and ``.float()`` on the flow reach what the control drives."""
        flow, seen = self.flow(), []
        flow.dynamics.register_forward_hook(lambda module, args, result: seen.append(module.training))
        flow.eval()(self.start())
        for module in flow.dynamics.modules():
            assert not module.training, "the template is not registered on the control: .eval() does not reach it"
        assert not any(seen), "after .eval() the dynamics ran in training mode: the module that runs is another one"
        assert flow.float()(self.start().float()).dtype == torch.float32, "a parameter of the control kept its dtype"

    def test_refine_keeps_the_function(self) -> None:
        """More pieces, the same control as a function of time; refused in words by a control without pieces."""
        flow, x = self.flow(), self.start()
        times = [0.01 + 0.98 * k / 50 for k in range(51)]
        before = [self.value(self.law(flow, t, t), t, x) for t in times]
        pieces, parameters = flow.control.pieces, sum(p.numel() for p in flow.parameters())
        try:
            flow.refine(2)
        except InvalidOption as refusal:
            assert "no pieces to refine" in str(refusal), (
                f"refine(2) is refused with {refusal}: a control without pieces leaves refine() as it is, others take 2"
            )
            return
        self.same(flow, x, times, before, "refine")
        assert pieces == 1 or flow.control.pieces == 2 * pieces, (
            f"refine(2) makes {pieces} pieces {flow.control.pieces}"
        )
        assert sum(p.numel() for p in flow.parameters()) >= parameters, "refine lost parameters: make new ones for all"
        assert flow.solver.steps == 2 * STEPS, "the solver's steps do not follow the pieces"
        flow(x).sin().sum().backward()
        assert all(p.grad is not None for p in flow.parameters()), "a refined control has parameters without gradient"
        if type(flow.control).coarsen is not Control.coarsen:
            flow.coarsen(2)
            self.same(flow, x, times, before, "coarsen")
            assert flow.control.pieces == pieces, "coarsen does not undo refine"
            assert flow.solver.steps == STEPS, "the solver's steps do not follow the pieces"
        with refused(InvalidOption, "", "refine(0) must raise InvalidOption: a factor is at least 1"):
            flow.control.refine(0)

    def same(self, flow: Flow, x: Tensor, times: Sequence[float], before: Sequence[Tensor], what: str) -> None:
        """The control has the values at the times that it had before."""
        after = [self.value(self.law(flow, t, t), t, x) for t in times]
        assert max(largest(a - b) for a, b in zip(after, before, strict=True)) <= 1e-12, f"{what} changed the function"

    def test_jumps_cost_an_adaptive_solve_little(self) -> None:
        """One solve takes at most 1.5 times the evaluations of solves of the smooth pieces."""
        flow, x = self.flow(), self.start()
        points = [0.0, *sorted(flow.control.breakpoints()), 1.0]
        points = points if len(points) > 2 else [k / 4 for k in range(5)]  # a jump that is not told would show here
        solver = word("solver", {"name": "dopri5", "rtol": 1e-6, "atol": 1e-8}).build()
        whole, pieces = solver.solve(flow.field(), x, (0.0, 1.0)), 0
        for start, end in itertools.pairwise(points):
            solution = solver.solve(flow.field(), x, (start, end))
            x, pieces = solution.final, pieces + solution.stats.nfe
        assert largest(whole.final - x) <= 1e-5, "one solve ends elsewhere than its pieces: a step crossed a jump"
        assert whole.stats.nfe <= 1.5 * pieces, (
            f"{whole.stats.nfe} evaluations in one solve, {pieces} piece by piece: a jump, or a kink, is missing in "
            "breakpoints()"
        )

    def test_cost_is_linear_in_depth(self) -> None:
        """Four times the steps, and pieces, cost about four times the work forwards and backwards, not sixteen."""
        works = []
        for steps in (4, 16):
            flow = self.flow(width=16, solver={**self.solver, "steps": steps})
            with Work() as work:
                flow(self.start(16, 2)).sum().backward()
            works.append(work.written)
        assert works[1] <= 5 * works[0], (
            f"4 steps write {works[0]} numbers, 16 steps {works[1]}: a gradient of the full size is made at every "
            "step; unbind stacked pieces once a solve instead of indexing them once a step"
        )

    def test_rk4_keeps_its_order(self) -> None:
        """Order 4 under this control, jumps and all."""
        flow, x0, counts = self.flow(), self.start(), [4 * STEPS, 8 * STEPS, 16 * STEPS]
        solver: Any = flow.solver
        results = []
        for steps in (*counts, 32 * STEPS):  # fine enough for weights that change much from piece to piece
            solver.steps = steps
            with torch.no_grad():
                results.append(flow(x0))
        errors = [largest(result - results[-1]) for result in results[:-1]]
        slope = fitted_slope(counts, errors)
        assert slope >= 3.8, (  # more than 4 is a range in which higher powers of the step still count
            f"rk4's errors {errors} fall with the slope {slope:.2f}: a jump is missing in breakpoints(), or the law of "
            "an interval is not smooth within it"
        )


class Work(TorchDispatchMode):
    """Counts the numbers that operations write, those of a backward pass too."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation and adds the sizes of its results."""
        results = func(*args, **(kwargs or {}))
        self.written += sum(value.numel() for value in tree_leaves(results) if torch.is_tensor(value))
        return results
