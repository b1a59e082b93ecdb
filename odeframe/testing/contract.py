"""What every solver owes its user: dtypes and shapes, refusals, counts, failures that speak."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from odeframe.errors import InvalidOption, SolveFailed
from odeframe.flow import Flow
from odeframe.solution import Solution, Status
from odeframe.solver import StepSolver
from odeframe.testing.accuracy import SolverChecks, largest
from odeframe.testing.conformance import concerns, refused, said
from odeframe.testing.derivatives import along
from odeframe.testing.problems import Decay, Explosion, Liouville

POLE = 0.5  # of the second sample
BAD_TIMES = {
    "unsorted": (0.0, 0.7, 0.3),
    "duplicate": (0.0, 0.5, 0.5, 1.0),
    "not a number": (0.0, float("nan"), 1.0),
    "infinite": (0.0, float("inf")),
    "none": (),
    "complex": (0.0, 1j),
    "two dimensions": ((0.0, 1.0),),
}


class ContractChecks(SolverChecks):
    """Checks of behaviour, on states of many shapes."""

    def decaying(self, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[nn.Module, torch.Tensor]:
        """A field for states of any shape where the scheme takes one, else one of two halves; and a state."""
        generator = torch.Generator().manual_seed(1)
        x0 = torch.rand(shape, dtype=torch.float64, generator=generator).to(self.device, dtype)
        dynamics = Decay() if self.part.opaque else Liouville()
        dynamics.width = shape[1] if len(shape) > 1 else 1
        return dynamics, x0

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    @pytest.mark.parametrize("shape", [(3,), (3, 2), (2, 4, 3, 3), (0, 2), (1, 2), (0, 4, 3, 3)], ids=str)
    def test_shape_dtype_and_device_are_kept(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """States are like ``x0``: vectors, images, scalars, batches of no and of one sample."""
        if len(shape) == 1 and not self.part.opaque:
            shape = (3, 4)  # a scheme for halves has no use for scalars
        dynamics, x0 = self.decaying(shape, dtype)
        solution = self.flow(dynamics, steps=4).solve(x0, (0.0, 0.5, 1.0))
        states = solution.states
        assert states.shape == (3, *shape), f"states are (num_times, batch, *state): got {tuple(states.shape)}"
        assert (states.dtype, states.device) == (x0.dtype, x0.device), (
            f"x0 is {x0.dtype} on {x0.device}, the states {states.dtype} on {states.device}: a coefficient is a tensor "
            "of another dtype or device; keep coefficients plain numbers, and times 0-d"
        )
        assert solution.times.dtype == torch.float64 and solution.times.shape == (3,), "times are those asked for"
        assert solution.status is Status.SUCCESS, f"a solve that went well has the status {solution.status}"

    @concerns(lambda kit: "forward_only" not in kit.part.traits)
    def test_gradients_agree_with_differences(self) -> None:
        """Backpropagation through the solve is the derivative of what it computed, by the start and by the weights."""
        flow = self.flow(Liouville(), steps=8).double()
        x0 = Liouville.start(device=self.device).requires_grad_(True)
        width, tolerance = (1e-3, 1e-3) if self.is_adaptive() else (1e-5, 1e-6)  # steps that change are a little rough
        groups: dict[str, list[torch.Tensor]] = {"x0": [x0], "the weights": list(flow.parameters())}
        for name, group in groups.items():
            with said(f"the backward pass of a solve, for {name},"):
                gradients = torch.autograd.grad(flow(x0).sin().sum(), group)
            directions = [torch.cos(torch.arange(v.numel(), device=v.device)).reshape(v.shape).to(v) for v in group]
            expected = along(lambda: flow(x0).sin().sum(), group, directions, width)
            got = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
            assert abs(got - expected) <= tolerance * max(1.0, abs(expected)), (
                f"the derivative along {name} is {expected:.6f} by differences, the gradient {got:.6f}: a slope or "
                "a state was detached (.detach(), .data, torch.no_grad()), or read as a number (float, .item())"
            )

    def test_one_sample_as_in_a_larger_batch(self) -> None:
        """A batch of one is no special case."""
        x0, flow = Liouville.start(device=self.device), self.flow(Liouville(), steps=8)
        tolerance = 100 * self.rtol() if self.is_adaptive() else 1e-12
        assert largest(flow(x0)[:1] - flow(x0[:1])) <= tolerance, "one sample alone is solved differently"

    def test_a_single_time_is_the_start(self) -> None:
        """No interval, no step: the state at the only time is ``x0``."""
        x0 = Liouville.start(device=self.device)
        solution = self.flow(Liouville()).solve(x0, (0.5,))
        assert torch.equal(solution.states, x0[None]), "one time asks for one state, the initial one"

    @pytest.mark.parametrize("name", BAD_TIMES)
    def test_bad_times_are_refused(self, name: str) -> None:
        """Times that are no strictly monotone finite sequence are refused, in words."""
        flow, x0 = self.flow(Liouville()), Liouville.start(device=self.device)
        hint = "bad times were taken: start solve() with times = odeframe.grid.check_times(times)"
        with refused(InvalidOption, "times", hint):
            flow.solver.solve(flow.field(), x0, BAD_TIMES[name])

    def test_integer_states_are_refused(self) -> None:
        """An integer state would be rounded at every step."""
        flow = self.flow(Liouville())
        hint = "integers were taken: start solve() with x0 = odeframe.solver.check_state(x0)"
        with refused(InvalidOption, "floating-point", hint):
            flow.solver.solve(flow.field(), torch.ones(3, 2, dtype=torch.int64), (0.0, 1.0))

    def test_unknown_failure_mode_is_refused(self) -> None:
        """``on_failure`` is one of three words."""
        hint = "any word was taken: hand on_failure on by super().__init__(on_failure, ...)"
        with refused(InvalidOption, "on_failure", hint):
            self.make(on_failure="ignore")

    def test_evaluations_are_counted(self) -> None:
        """``stats.nfe`` is the number of calls of the dynamics."""
        dynamics = Liouville()
        flow = self.flow(dynamics, steps=8)
        slots: Any = flow.control.block.slots
        for expected in (1, 2):
            solution = flow.solve(Liouville.start(device=self.device), (0.0, 0.5, 1.0))
            calls = sum(slot.calls for slot in slots)
            assert solution.stats.nfe * expected == calls, (
                f"{calls} calls of the dynamics after {expected} equal solves, stats.nfe = {solution.stats.nfe}: "
                "call the law that is given, which counts, and count nothing twice; stats are of one solve"
            )
        solution = flow.solve(Liouville.start(device=self.device), (0.0, 0.5, 1.0))
        assert flow.stats is solution.stats, "the stats of the flow are not those of its last solution"
        if isinstance(flow.solver, StepSolver):
            counted = (solution.stats.accepted, solution.stats.rejected)
            assert counted == (8, 0), f"8 steps are counted as {counted} accepted and rejected ones"
        if self.is_adaptive():
            assert solution.stats.nfe >= solution.stats.accepted, "more steps than evaluations"

    def exploding(self, on_failure: str) -> tuple[Flow, torch.Tensor]:
        """Three samples of which the second has its pole at 1/2, on a horizon to 4, in float32."""
        x0 = torch.tensor([0.1, 1 / POLE, 0.2], device=self.device)[:, None].expand(3, 2).contiguous()
        return self.flow(Explosion(), horizon=(0.0, 4.0), steps=40, on_failure=on_failure), x0

    def test_a_pole_is_reported(self) -> None:
        """Past its pole, ``SolveFailed`` says with which status, where, at what cost and for which sample."""
        flow, x0 = self.exploding("raise")
        hint = "the pole was passed without an error: end solve() by self.failed(...) where the state is not finite"
        with refused(SolveFailed, "", hint) as caught:
            flow(x0)
        error = caught.value
        assert isinstance(error.status, Status) and error.status is not Status.SUCCESS, f"status is {error.status!r}"
        assert error.t is not None and 0 <= error.t < 4, f"t = {error.t}, the pole is at {POLE}"
        assert error.t > 0, "the solve has got somewhere before it failed: report the time that it reached"
        assert error.dt is not None and 0 < error.dt < 4, f"dt = {error.dt} is no step"
        assert error.nfe is not None and error.nfe > 0, f"nfe = {error.nfe}"
        assert error.worst_sample == 1, (
            f"worst_sample = {error.worst_sample}, the second of the batch has the pole: give failed() the state or "
            "the error that went wrong as suspect"
        )
        assert error.status.message in str(error), "the message does not hold the status's sentence"

    def test_a_failure_is_returned_where_asked(self) -> None:
        """``on_failure="return"`` gives the status, and what was computed before."""
        flow, x0 = self.exploding("return")
        solution = flow.solve(x0, (0.0, 4.0))
        assert solution.status is not Status.SUCCESS, "the pole was passed, and the status says success"
        assert solution.states.shape == (2, 3, 2) and torch.equal(solution.states[0], x0), (
            "a failed solve gives states of the full shape, the first of them x0"
        )
        assert not bool(torch.isfinite(solution.states[-1]).all()), "a failed state must not look like a result"

    def test_the_last_finite_state_where_asked(self) -> None:
        """``on_failure="last"`` gives finite states, with a status that says not to trust them."""
        flow, x0 = self.exploding("last")
        solution: Solution = flow.solve(x0, (0.0, 2.0, 4.0))
        assert solution.status is not Status.SUCCESS, "the last finite state was given for a success: keep the status"
        assert bool(torch.isfinite(solution.states).all()), "on_failure='last' leaves no non-finite value"

    @concerns(lambda kit: kit.is_adaptive())
    def test_max_steps_is_a_limit(self) -> None:
        """Too many steps are a failure with its own status."""
        options: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-11, "max_steps": 2}
        flow = self.flow(Liouville(), **options)
        hint = "more steps than max_steps were taken: count accepted and rejected ones against self.max_steps"
        with refused(SolveFailed, "", hint) as caught:
            flow(Liouville.start(device=self.device))
        assert caught.value.status is Status.TOO_MANY_STEPS, f"max_steps = 2 gives the status {caught.value.status!r}"
        assert caught.value.t is not None and 0 <= caught.value.t < 1, f"t = {caught.value.t} is not the time reached"
