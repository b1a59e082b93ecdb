"""Events and stop rules: located within steps, per sample, with gradients by the implicit function theorem."""

import math

import pytest
import torch
from torch import nn

import odeframe
from odeframe import Event, Flow, Incompatible, InvalidOption
from odeframe.costs import RunningCost
from odeframe.drive import ConstantDrive
from odeframe.ridders import ridders

GRAVITY = 9.81
ADAPTIVE = ("bosh3", "dopri5", "tsit5", "dopri8", "dop853", "sdirk4", "radau")


@pytest.fixture(autouse=True)
def double_precision():
    """Closed forms are met to 1e-6 and beyond."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def ball(t, x):
    return torch.stack([x[:, 1], torch.full_like(x[:, 1], -GRAVITY)], 1)


def decay(t, x):
    return -x


def words(solver, per_sample):
    low_order = solver in ("bosh3", "sdirk4", "radau")
    return {"steps": 200} if solver == "rk4" else {"rtol": 1e-8 if low_order else 1e-10, "per_sample": per_sample}


CASES = [("dopri5", False), ("dopri5", True), ("dop853", False), ("dop853", True), ("radau", False), ("rk4", False)]
CASES += [
    pytest.param(name, flag, marks=pytest.mark.slow)
    for name in ADAPTIVE
    for flag in (False, True)
    if (name, flag) not in CASES
]


class TestClosedForms:
    @pytest.mark.parametrize(("solver", "per_sample"), CASES)
    def test_a_falling_ball(self, solver, per_sample):
        """From height h with speed v: t* = (v + sqrt(v^2 + 2 g h)) / g, dt*/dh = 1 / sqrt(v^2 + 2 g h)."""
        x0 = torch.tensor([[10.0, 0.0], [5.0, 1.0], [1000.0, 0.0]], requires_grad=True)
        event = Event(lambda t, x: x[:, 0], "falling")
        solution = odeframe.solve(
            ball, x0, (0.0, 1.0, 2.0, 5.0), solver=solver, event=event, **words(solver, per_sample)
        )
        h, v = x0.detach()[:2].unbind(1)
        speed = (v * v + 2 * GRAVITY * h).sqrt()
        assert solution.stopped.tolist() == [True, True, False] and float(solution.stop_times[2].detach()) == 5.0
        torch.testing.assert_close(solution.stop_times[:2], (v + speed) / GRAVITY, rtol=0, atol=1e-9)
        torch.testing.assert_close(solution.final[:2, 1], -speed, rtol=0, atol=1e-8)
        assert torch.equal(solution.states[2, :2], solution.states[3, :2]), "kept from then on"
        assert float(solution.states[1, 0, 0].detach()) == pytest.approx(10 - GRAVITY / 2, abs=1e-9)
        (by_time,) = torch.autograd.grad(solution.stop_times[:2].sum(), x0, retain_graph=True)
        torch.testing.assert_close(by_time[:2, 0], 1 / speed, rtol=0, atol=1e-9)
        torch.testing.assert_close(by_time[:2, 1], (1 + v / speed) / GRAVITY, rtol=0, atol=1e-9)
        (by_speed,) = torch.autograd.grad(solution.final[:2, 1].sum(), x0)
        torch.testing.assert_close(by_speed[:2, 0], -GRAVITY / speed, rtol=0, atol=1e-8)

    @pytest.mark.parametrize(("solver", "per_sample"), CASES)
    def test_decay_to_a_level_that_has_a_gradient(self, solver, per_sample):
        """x' = -x reaches c at t* = log(x0 / c): dt*/dx0 = 1 / x0, dt*/dc = -1 / c, and x(t*) = c."""
        x0, level = torch.tensor([[1.0], [3.0], [0.7]], requires_grad=True), torch.tensor(0.5, requires_grad=True)
        options = words(solver, per_sample)
        solution = odeframe.solve(decay, x0, (0.0, 2.0), solver=solver, event=lambda t, x: x[:, 0] - level, **options)
        torch.testing.assert_close(solution.stop_times, (x0 / level)[:, 0].log(), rtol=0, atol=1e-6)
        grads = torch.autograd.grad(solution.stop_times.sum(), (x0, level), retain_graph=True)
        torch.testing.assert_close(grads[0], 1 / x0, rtol=0, atol=1e-6)
        torch.testing.assert_close(grads[1], -3 / level, rtol=0, atol=1e-6)
        ends = torch.autograd.grad(solution.final.sum(), (x0, level))
        torch.testing.assert_close(ends[0], torch.zeros_like(x0), rtol=0, atol=1e-6)
        torch.testing.assert_close(ends[1], torch.tensor(3.0), rtol=0, atol=1e-6)

    def test_a_bouncing_ball(self):
        """Each flight lasts 2 v / g with v shrinking by the restitution e: t_n is a geometric sum."""
        height, e = torch.tensor(2.0, requires_grad=True), torch.tensor(0.8, requires_grad=True)
        x, t, floor = (
            torch.stack([height, torch.zeros(())])[None],
            torch.zeros(()),
            Event(lambda t, x: x[:, 0], "falling"),
        )
        for _ in range(5):
            end = float(t.detach()) + 10.0
            solution = odeframe.solve(ball, x, torch.stack([t, torch.tensor(end)]), event=floor, rtol=1e-9)
            x, t = torch.stack([solution.final[:, 0], -e * solution.final[:, 1]], 1), solution.stop_times[0]
        fall = (2 * height / GRAVITY).sqrt()
        exact = fall * (1 + 2 * sum(e**k for k in range(1, 5)))
        assert t.item() == pytest.approx(exact.item(), abs=1e-9)
        found, wanted = (torch.autograd.grad(v, (height, e), retain_graph=True) for v in (t, exact))
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("per_sample", [False, True])
    def test_a_learned_end_time(self, per_sample):
        """g = t - T ends each sample at its own T: dx(T)/dT = f."""
        ends, x0 = torch.tensor([0.3, 1.1, 2.0], requires_grad=True), torch.ones(3, 1)
        options = {"rtol": 1e-9, "per_sample": per_sample}
        solution = odeframe.solve(decay, x0, (0.0, 3.0), event=lambda t, x: t - ends, **options)
        torch.testing.assert_close(solution.stop_times, ends, rtol=0, atol=1e-12)
        torch.testing.assert_close(solution.final[:, 0], torch.exp(-ends), rtol=0, atol=1e-7)
        (found,) = torch.autograd.grad(solution.final.sum(), ends)
        torch.testing.assert_close(found, -torch.exp(-ends), rtol=0, atol=1e-6)

    def test_parameters_running_costs_and_drive(self):
        """x' = -k x to the level 1/2 with cost int x dt = (x0 - 1/2) / k; a drive has data for each sample."""

        class Rate(odeframe.Dynamics):
            def __init__(self):
                super().__init__()
                self.k = nn.Parameter(torch.tensor(2.0))

            def forward(self, t, x, u=None, drive=None):
                return -self.k * drive * x

        for per_sample in (False, True):
            flow = Flow(
                Rate(),
                solver={"name": "dopri5", "rtol": 1e-10, "per_sample": per_sample},
                horizon=(0.0, 5.0),
                quadratures=[RunningCost(lambda t, x: x[:, 0], name="area")],
            )
            drive = ConstantDrive(torch.tensor([[1.0], [0.5]]))
            solution = flow.solve(torch.ones(2, 1), drive=drive, stop=Event(lambda t, x: x[:, 0] - 0.5))
            rate = torch.tensor([2.0, 1.0])
            torch.testing.assert_close(solution.stop_times.detach(), math.log(2) / rate, rtol=0, atol=1e-8)
            torch.testing.assert_close(solution.quadratures["area"][-1].detach(), 0.5 / rate, rtol=0, atol=1e-8)
            (found,) = torch.autograd.grad(solution.quadratures["area"][-1].sum(), flow.dynamics.k)
            assert float(found) == pytest.approx(-0.5 * (0.5 + 1.0) / 2.0, abs=1e-6)


class TestSearch:
    def test_directions_and_the_first_of_several_crossings(self):
        """cos crosses zero falling at pi/2 and rising at 3 pi/2."""
        circle = lambda t, x: torch.stack([-x[:, 1], x[:, 0]], 1)  # noqa: E731
        x0 = torch.tensor([[1.0, 0.0]])
        for direction, time in (("any", 0.5), ("falling", 0.5), ("rising", 1.5)):
            event = Event(lambda t, x: x[:, 0], direction)
            solution = odeframe.solve(circle, x0, (0.0, 10.0), event=event, rtol=1e-10)
            assert float(solution.stop_times) == pytest.approx(time * math.pi, abs=1e-8)
        back = odeframe.solve(circle, x0, (10.0, 0.0), event=lambda t, x: x[:, 0], rtol=1e-10)
        assert float(back.stop_times) == pytest.approx(10 - math.pi / 2, abs=1e-8), "backwards in time"

    def test_a_flight_within_one_step_is_seen(self):
        """The parabola is solved exactly, so steps grow until one holds a whole flight from the floor."""
        x0 = torch.tensor([[0.0, 30.0]])
        solution = odeframe.solve(ball, x0, (0.0, 20.0), event=lambda t, x: x[:, 0], first_step=10.0)
        assert solution.stats.accepted == 1 and float(solution.stop_times) == pytest.approx(60 / GRAVITY, abs=1e-9)

    @pytest.mark.parametrize("per_sample", [False, True])
    def test_a_rule_is_located_within_a_step(self, per_sample):
        x0 = torch.tensor([[1.0], [0.5], [1e-3]])
        rule = lambda t, x, memory: x[:, 0] > 2.0  # noqa: E731
        solution = odeframe.solve(lambda t, x: x, x0, (0.0, 3.0), stop=rule, rtol=1e-9, per_sample=per_sample)
        assert solution.stopped.tolist() == [True, True, False]
        torch.testing.assert_close(solution.stop_times[:2], (2.0 / x0[:2, 0]).log(), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("per_sample", [False, True])
    def test_one_that_stops_does_not_hold_the_others_up(self, per_sample):
        """x' = x^2 has its pole at 1 / x0: the sample that would meet it stops before, the other goes on past it."""
        x0 = torch.tensor([[1.0], [0.1]])
        options = {"rtol": 1e-8, "per_sample": per_sample}
        solution = odeframe.solve(lambda t, x: x * x, x0, (0.0, 0.5, 5.0), event=lambda t, x: x[:, 0] - 3.0, **options)
        assert float(solution.stop_times[0]) == pytest.approx(2 / 3, abs=1e-6)
        torch.testing.assert_close(solution.states[:, 1, 0], torch.tensor([0.1, 0.1 / 0.95, 0.2]), rtol=0, atol=1e-7)
        early = odeframe.solve(decay, torch.ones(1, 1), (0.0, 1e3), event=lambda t, x: x[:, 0] - 0.5)
        assert early.stats.accepted < 10, "no step once all have stopped"

    def test_ridders_is_fast_on_smooth_functions_and_sure_on_jumps(self):
        calls = []

        def smooth(x):
            calls.append(1)
            return x**3 - torch.tensor([0.2, 0.5])

        zero, one, on = torch.zeros(2), torch.ones(2), torch.ones(2, dtype=torch.bool)
        tolerance = torch.full((2,), 1e-15)
        root = ridders(smooth, (zero, one), (smooth(zero), smooth(one)), tolerance, on, True)
        torch.testing.assert_close(root**3, torch.tensor([0.2, 0.5]), rtol=0, atol=1e-14)
        assert len(calls) < 20
        jump = lambda x: torch.where(x >= 0.3, 1.0, -1.0)  # noqa: E731
        found = ridders(jump, (zero, one), (jump(zero), jump(one)), tolerance, on, False)
        torch.testing.assert_close(found, torch.full((2,), 0.3), rtol=0, atol=1e-14)

    def test_the_empty_batch_and_single_precision(self):
        empty = odeframe.solve(ball, torch.ones(0, 2), (0.0, 1.0), event=lambda t, x: x[:, 0])
        assert empty.states.shape == (2, 0, 2) and empty.stop_times.shape == (0,)
        single = odeframe.solve(
            decay, torch.ones(2, 1, dtype=torch.float32), (0.0, 2.0), event=lambda t, x: x[:, 0] - 0.5
        )
        assert single.final.dtype == torch.float32
        torch.testing.assert_close(single.stop_times, torch.full((2,), math.log(2)), rtol=0, atol=1e-4)

    def test_gradients_of_the_ends_of_the_interval(self):
        """The event moves with the first time, and outputs after it do not move with theirs."""
        times = torch.tensor([0.5, 2.0, 4.0], requires_grad=True)
        solution = odeframe.solve(decay, torch.ones(1, 1), times, event=lambda t, x: x[:, 0] - 0.5, rtol=1e-9)
        (found,) = torch.autograd.grad(solution.stop_times.sum() + solution.states[1:].sum(), times)
        torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 0.0]), rtol=0, atol=1e-6)


class TestRefusals:
    @pytest.mark.parametrize("value", [torch.zeros(2, 1), torch.zeros(2, dtype=torch.bool), 1.0], ids=str)
    @pytest.mark.parametrize("solver", ["dopri5", "rk4"])
    def test_an_event_returns_a_number_a_sample(self, value, solver):
        with pytest.raises(InvalidOption, match="an event g"):
            odeframe.solve(decay, torch.ones(2, 1), (0.0, 1.0), solver=solver, event=lambda t, x: value)

    def test_options(self):
        with pytest.raises(InvalidOption, match="expected one of any, rising, falling"):
            Event(lambda t, x: t, "up")
        with pytest.raises(InvalidOption, match="expected at least 1"):
            Event(lambda t, x: t, checks=0)
        with pytest.raises(InvalidOption, match="expected a function"):
            odeframe.solve(decay, torch.ones(2, 1), (0.0, 1.0), event=3)
        with pytest.raises(InvalidOption, match="expected one of them"):
            odeframe.solve(decay, torch.ones(2, 1), (0.0, 1.0), event=lambda t, x: t, stop=lambda t, x, m: t > 0)

    def test_non_finite_values_and_second_derivatives(self):
        with pytest.raises(InvalidOption, match="non-finite"):
            odeframe.solve(decay, torch.ones(2, 1), (0.0, 1.0), event=lambda t, x: x[:, 0] * math.nan)
        x0 = torch.ones(1, 1, requires_grad=True)
        time = odeframe.solve(decay, x0, (0.0, 1.0), event=lambda t, x: x[:, 0] - 0.5).stop_times
        with pytest.raises(Incompatible, match="not differentiated twice"):
            torch.autograd.grad(time.sum(), x0, create_graph=True)
        with pytest.raises(Incompatible, match="without a graph"):
            odeframe.solve(decay, x0, (0.0, 1.0), event=lambda t, x: x[:, 0].detach() - 0.5)

    def test_a_scheme_without_one_velocity_and_a_gradient_that_cannot_stop(self):
        event = Event(lambda t, x: x[:, 0])
        with pytest.raises(InvalidOption, match="located by dx/dt"):
            Flow(nn.Linear(2, 2), solver="poly2").solve(torch.ones(1, 2), stop=event)
        for gradient in ("adjoint", "checkpoint"):
            with pytest.raises(InvalidOption, match="stop rules"):
                Flow(nn.Linear(2, 2), solver="dopri5", gradient=gradient).solve(torch.ones(1, 2), stop=event)

    def test_compilation_is_said_to_have_no_effect(self):
        with pytest.warns(UserWarning, match="no effect"):
            odeframe.solve(decay, torch.ones(1, 1), (0.0, 1.0), event=lambda t, x: x[:, 0] - 0.5, compile=True)
