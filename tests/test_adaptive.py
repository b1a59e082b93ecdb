"""Adaptive steps: control, tolerances, output times, steps of each sample, failure, stiffness, compilation."""

import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import odeframe
from odeframe import Dynamics, Flow, Incompatible, InvalidOption, SolveFailed, Status
from odeframe.costs import KineticEnergy, RunningCost
from odeframe.drive import ConstantDrive, SequenceDrive
from odeframe.stepsize import CONTROLLERS, StepController

PAIRS = ("bosh3", "dopri5", "tsit5", "dopri8", "dop853")


@pytest.fixture(autouse=True)
def double_precision():
    """Identities are claimed to round-off."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def pendulum(t, x):
    a, b = x.unbind(-1)
    return torch.stack([b, -torch.sin(a) + 0.2 * torch.cos(t)], -1)


class Layer(Dynamics):
    """f(t, x) = tanh(W x + b + t v) with a drive that is added where there is one."""

    def __init__(self, width=3):
        super().__init__()
        self.linear, self.v = nn.Linear(width, width), nn.Parameter(torch.randn(width))

    def forward(self, t, x, u=None, drive=None):
        time = t[:, None] if t.dim() else t
        y = self.linear(x) + time * self.v
        return torch.tanh(y if drive is None else y + drive)


class TestController:
    @pytest.mark.parametrize("name", CONTROLLERS)
    def test_constant_ratios_settle_at_the_target_whatever_the_controller(self, name):
        """On x' = lambda x a step has the ratio c h^k: the recursion must find c h^k = 0.9^k."""
        control, c, dt, ratios = StepController(name, 5), 37.0, 0.3, (1.0, 1.0)
        for _ in range(200):
            ratio = c * dt**5
            dt *= control.after_accept(ratio, *ratios)
            ratios = (ratio, ratios[0])
        assert c * dt**5 == pytest.approx(0.9**5, rel=1e-6)

    def test_numbers_and_samples_get_the_same_factors(self):
        control, ratios = StepController("pid", 5), np.array([1e-30, 1e-3, 0.5, 1.0])
        grow = np.array([True, False, True, False])
        together = control.after_accept(ratios, 0.5 * ratios, 2 * ratios, grow)
        values = zip(ratios.tolist(), grow.tolist(), strict=True)
        alone = [control.after_accept(r, 0.5 * r, 2 * r, g) for r, g in values]
        np.testing.assert_allclose(together, alone, rtol=1e-14, atol=0)
        assert all(f <= 1 for f in alone[1::2]) and alone[0] > 1

    def test_a_rejected_step_shrinks_by_at_most_five(self):
        control = StepController("pi", 5)
        assert control.after_reject(1e30) == 0.2 and control.after_reject(1.0) == 0.9

    def test_an_unknown_controller_is_refused(self):
        with pytest.raises(InvalidOption, match="expected one of i, pi, pid"):
            odeframe.build("solver", "dopri5", controller="lqr")


class TestTolerances:
    def test_defaults_by_dtype_and_the_floor(self):
        solver = odeframe.build("solver", "dopri5")
        assert solver.tolerances(torch.float32) == (1e-4, 1e-6)
        assert solver.tolerances(torch.float64) == (1e-6, 1e-8)
        tight = odeframe.build("solver", "dopri5", rtol=1e-12)
        assert tight.tolerances(torch.float32)[0] == pytest.approx(10 * torch.finfo(torch.float32).eps)
        assert tight.tolerances(torch.complex128)[0] == 1e-12

    @pytest.mark.parametrize("solver", PAIRS)
    def test_output_times_neither_shorten_steps_nor_cost_accuracy(self, solver):
        x0, times = torch.tensor([[1.0, 0.0], [0.2, -0.4]]), torch.linspace(0, 5, 41)
        plain = odeframe.solve(pendulum, x0, (0.0, 5.0), solver=solver, rtol=1e-7)
        many = odeframe.solve(pendulum, x0, times, solver=solver, rtol=1e-7)
        exact = odeframe.solve(pendulum, x0, times, solver="dop853", rtol=1e-13)
        assert many.stats.accepted == plain.stats.accepted and torch.equal(many.final, plain.final)
        extra = 3 * plain.stats.accepted if solver == "dop853" else 0
        assert plain.stats.nfe <= many.stats.nfe <= plain.stats.nfe + extra
        assert float((many.states - exact.states).abs().max()) < 3e-6

    def test_backwards_in_time_undoes_the_solve(self):
        x0 = torch.tensor([[1.0, 0.0]])
        there = odeframe.solve(pendulum, x0, (0.0, 3.0), rtol=1e-10).final
        back = odeframe.solve(pendulum, there, (3.0, 0.0), rtol=1e-10).final
        assert float((back - x0).abs().max()) < 1e-8

    def test_first_step_is_taken_as_given(self):
        seen = []
        odeframe.solve(lambda t, x: seen.append(float(t)) or -x, torch.ones(1, 1), (0.0, 1.0), first_step=0.125)
        assert seen[:3] == pytest.approx([0.0, 0.025, 0.0375])  # no evaluation for an estimate

    def test_empty_batch_and_one_time(self):
        for per_sample in (False, True):
            empty = odeframe.solve(pendulum, torch.ones(0, 2), (0.0, 1.0), per_sample=per_sample)
            assert empty.states.shape == (2, 0, 2)
            one = odeframe.solve(pendulum, torch.ones(3, 2), (0.5,), per_sample=per_sample)
            assert one.states.shape == (1, 3, 2) and one.stats.nfe == 0


class TestFailure:
    @pytest.mark.parametrize("solver", [*PAIRS, "sdirk4", "radau"])
    def test_a_pole_ends_soon_with_a_status(self, solver):
        """y' = y^2 from 1 has its pole at t = 1: steps shrink by a constant factor, so few of them reach the floor."""
        x0 = torch.tensor([[1.0], [0.25]], dtype=torch.float64)
        for per_sample in (False, True) if solver in PAIRS else (False,):
            options = {"per_sample": per_sample, "rtol": 1e-3, "on_failure": "return"}
            found = odeframe.solve(lambda t, x: x * x, x0, (0.0, 2.0), solver, **options)
            assert found.status in (Status.STEP_TOO_SMALL, Status.NON_FINITE)
            assert found.stats.accepted + found.stats.rejected < 400 and found.stats.nfe < 3_000
            assert torch.isnan(found.final).flatten().tolist() == [True, not per_sample]

    @pytest.mark.slow
    def test_a_pole_also_without_asserts(self):
        """`python -O` drops asserts; the solve must not rely on one to end."""
        code = (
            "import torch, odeframe\n"
            "assert False, 'asserts are on'\n"
            "for per_sample in (False, True):\n"
            "    options = dict(per_sample=per_sample, rtol=1e-3, on_failure='return')\n"
            "    s = odeframe.solve(lambda t, x: x * x, torch.ones(1, 1), (0.0, 2.0), **options)\n"
            "    print(s.status.name, s.stats.nfe < 1_600)\n"
        )
        run = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, timeout=110)
        assert run.stdout.split() == ["STEP_TOO_SMALL", "True"] * 2, run.stderr

    @pytest.mark.parametrize("per_sample", [False, True])
    def test_a_failure_names_time_sample_and_status(self, per_sample):
        x0 = torch.tensor([[0.1], [1.0], [0.2]])
        with pytest.raises(SolveFailed) as caught:
            odeframe.solve(lambda t, x: x * x, x0, (0.0, 2.0), per_sample=per_sample)
        assert caught.value.worst_sample == 1 and caught.value.t == pytest.approx(1.0, abs=1e-6)

    @pytest.mark.parametrize("per_sample", [False, True])
    def test_too_many_steps(self, per_sample):
        with pytest.raises(SolveFailed, match="the limit max_steps was reached") as caught:
            odeframe.solve(pendulum, torch.ones(2, 2), (0.0, 1e3), max_steps=20, per_sample=per_sample)
        assert caught.value.status is Status.TOO_MANY_STEPS and caught.value.nfe <= 20 * 6 + 2

    def test_a_field_that_is_not_finite_is_reported_as_such(self):
        def field(t, x):
            return torch.where(t < 0.5, -x, x * float("nan")) if t.dim() == 0 else -x * (1 / (t < 0.5))[:, None]

        with pytest.raises(SolveFailed, match="became non-finite"):
            odeframe.solve(field, torch.ones(1, 2), (0.0, 1.0))


class TestStiffness:
    @pytest.mark.parametrize("per_sample", [False, True])
    @pytest.mark.parametrize("solver", PAIRS)
    def test_a_stiff_problem_is_told_and_a_smooth_one_is_not(self, solver, per_sample):
        def stiff(t, x):
            return -1000.0 * (x - torch.cos(t)[..., None])

        options = {"solver": solver, "rtol": 1e-4, "per_sample": per_sample}
        assert odeframe.solve(stiff, torch.ones(2, 1), (0.0, 1.5), **options).stats.stiff
        assert not odeframe.solve(pendulum, torch.ones(2, 2), (0.0, 30.0), **options).stats.stiff

    def test_the_error_says_so(self):
        def field(t, x):
            return -1e5 * (x - torch.cos(t))

        with pytest.raises(SolveFailed, match=r"max_steps was reached, .* the problem looks stiff"):
            odeframe.solve(field, torch.zeros(1, 1), (0.0, 10.0), max_steps=400)

    def test_the_estimate_is_the_eigenvalue(self):
        """On x' = -lambda x, h |f(y) - f(z)| / |y - z| is h lambda whatever y and z are."""
        for name in PAIRS:
            solver = odeframe.build("solver", name)
            law = odeframe.field.FunctionField(lambda t, x: -7.0 * x).on(torch.tensor(0.0), torch.tensor(1.0))
            x = torch.tensor([[1.0, 2.0]])
            attempt = solver.attempt(law, torch.tensor(0.0), 0.1, x, solver.init(law, torch.tensor(0.0), x))
            found = solver.stiffness(torch.linalg.vector_norm, 0.1, x, attempt, torch.ones_like(x))
            assert float(found) == pytest.approx(0.7, rel=1e-6)


RATES = torch.logspace(-1, 0.5, 32).reshape(32, 1)


def relaxation(rates):
    """x' = -k (x - cos t), elementwise: what a sample does is the same to the last digit in every batch."""
    return lambda t, x: -rates * (x - torch.cos(t).reshape(-1, 1))


class TestPerSample:
    @pytest.mark.parametrize("solver", PAIRS)
    def test_one_stiff_sample_changes_nothing_for_the_others(self, solver):
        """The other 31 take exactly the steps that each takes alone; together the batch takes the sum of all steps."""
        rates = RATES.clone()
        rates[7] = 800.0
        x0, options = torch.rand(32, 2), {"solver": solver, "rtol": 1e-5, "per_sample": True}
        times = (0.0, 0.4, 1.0)
        batch = odeframe.solve(relaxation(rates), x0, times, **options)
        alone = [odeframe.solve(relaxation(rates[i : i + 1]), x0[i : i + 1], times, **options) for i in range(32)]
        assert batch.stats.accepted == sum(s.stats.accepted for s in alone)
        assert batch.stats.rejected == sum(s.stats.rejected for s in alone)
        # The stiff sample itself runs at the limit of stability, which amplifies the last digit of a vectorised cosine.
        difference = (batch.states - torch.cat([s.states for s in alone], 1)).abs().amax((0, 2))
        assert float(difference[7]) < 1e-5 and float(difference[torch.arange(32) != 7].max()) < 1e-13
        assert max(s.stats.accepted for s in alone) > 5 * sorted(s.stats.accepted for s in alone)[-2]
        assert batch.stats.nfe <= max(s.stats.nfe for s in alone) + 6  # dense output of others may ask once more

    def test_finished_samples_leave_the_batch_where_the_field_is_a_plain_module(self):
        sizes = []

        class Watched(Dynamics):
            def forward(self, t, x, u=None):
                sizes.append(len(x))
                assert t.shape == (len(x),) and t.dtype == torch.float64
                return -(1 + 50 * x[:, 1:] ** 2) * x

        x0 = torch.tensor([[1.0, 0.0], [1.0, 4.0], [1.0, 0.1]])
        solution = Flow(Watched(), solver={"name": "dopri5", "per_sample": True}).solve(x0)
        assert sizes[0] == 3 and sizes[-1] == 1 and sizes == sorted(sizes, reverse=True)
        shared = Flow(Watched(), solver="dopri5")
        shared.dynamics.forward = lambda t, x, u=None: -(1 + 50 * x[:, 1:] ** 2) * x
        torch.testing.assert_close(solution.final, shared(x0), rtol=1e-4, atol=1e-6)

    def test_a_drive_for_each_sample_keeps_the_batch_whole(self):
        flow = Flow(Layer(), solver={"name": "tsit5", "per_sample": True, "rtol": 1e-9})
        x0, drive = torch.randn(4, 3), 3 * torch.randn(4, 3)
        together = flow.solve(x0, drive=ConstantDrive(drive))
        alone = [flow.solve(x0[i : i + 1], drive=ConstantDrive(drive[i : i + 1])) for i in range(4)]
        torch.testing.assert_close(together.final, torch.cat([s.final for s in alone]), rtol=1e-9, atol=1e-10)
        assert together.stats.accepted == sum(s.stats.accepted for s in alone)

    def test_all_samples_stop_at_breakpoints(self):
        control = {"name": "piecewise_constant", "pieces": 4, "init": "copy"}
        flow = Flow(Layer(), control, {"name": "dopri5", "per_sample": True})
        shared = Flow(Layer(), control, {"name": "dopri5", "rtol": 1e-10})
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter += torch.randn_like(parameter)
        shared.load_state_dict(flow.state_dict())
        x0, times = torch.randn(5, 3), (0.0, 0.1, 0.25, 0.6, 1.0)
        found, exact = flow.solve(x0, times), shared.solve(x0, times)
        torch.testing.assert_close(found.states, exact.states, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("shape", [(), (2,), (2, 3, 3)])
    def test_any_state_shape_running_costs_and_reversed_time(self, shape):
        class Square(Dynamics):
            def forward(self, t, x, u=None):
                return -x * x.abs()

        x0 = torch.rand(6, *shape) + 0.1
        for horizon in ((0.0, 1.0), (1.0, 0.5)):
            costs = (KineticEnergy(), RunningCost(lambda t, x: (1 + t) * x.reshape(len(x), -1).sum(1)))
            solver = {"name": "dopri5", "per_sample": True, "rtol": 1e-9}
            one = Flow(Square(), solver=solver, horizon=horizon, quadratures=costs).solve(x0)
            two = Flow(Square(), solver={**solver, "per_sample": False}, horizon=horizon, quadratures=costs).solve(x0)
            torch.testing.assert_close(one.final, two.final, rtol=1e-7, atol=1e-8)
            for name, cost in one.quadratures.items():
                torch.testing.assert_close(cost, two.quadratures[name], rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("drive", [None, "sequence"])
    def test_gradients_agree_with_central_differences(self, drive):
        flow = Flow(Layer(), solver={"name": "dop853", "per_sample": True, "rtol": 1e-11, "atol": 1e-12})
        x0 = torch.randn(3, 3, requires_grad=True)
        w = torch.randn(3, 2, 3)
        times = torch.tensor([0.1, 0.45, 0.9], requires_grad=True)
        weights = torch.randn(3, 3, 3)

        def loss(x, at):
            return (flow.solve(x, at, drive=SequenceDrive(w) if drive else None).states * weights).sum()

        inputs = [x0, times, flow.dynamics.linear.weight, flow.dynamics.v]
        found = torch.autograd.grad(loss(x0, times), inputs)
        for tensor, gradient in zip(inputs, found, strict=True):
            direction = torch.randn_like(tensor)
            with torch.no_grad():
                values = []
                for sign in (1, -1):
                    tensor += sign * 1e-5 * direction
                    values.append(float(loss(x0.detach(), times.detach())))
                    tensor -= sign * 1e-5 * direction
            expected = (values[0] - values[1]) / 2e-5
            assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-6, abs=1e-8)

    def test_gradients_that_need_one_step_for_the_batch_refuse_it(self):
        for gradient in ("adjoint", "checkpoint"):
            with pytest.raises(Incompatible, match="'per_sample'"):
                Flow(Layer(), solver={"name": "dopri5", "per_sample": True}, gradient=gradient)

    def test_an_attempt_that_overflows_does_not_poison_the_gradient_of_the_others(self):
        class Explosive(Dynamics):
            def __init__(self):
                super().__init__()
                self.rate = nn.Parameter(torch.tensor(1.0))

            def forward(self, t, x, u=None):
                return -self.rate * torch.exp(x * x) * x

        flow = Flow(Explosive(), solver={"name": "dopri5", "per_sample": True, "first_step": 0.5, "rtol": 1e-8})
        x0 = torch.tensor([[0.1], [4.0]])
        flow(x0).sum().backward()
        assert flow.stats.rejected > 0 and bool(torch.isfinite(flow.dynamics.rate.grad))

    def test_batch_norm_and_unfit_solvers_and_controls_are_refused(self):
        class Normed(Dynamics):
            def __init__(self):
                super().__init__()
                self.norm = nn.BatchNorm1d(3)

            def forward(self, t, x, u=None):
                return self.norm(x)

        with pytest.raises(Incompatible, match=r"per_sample=True refuses .* 'batch_norm'"):
            Flow(Normed(), solver={"name": "dopri5", "per_sample": True})


class TestCompiled:
    """`compile=True`: equal results, one compilation a batch size at most, and a warning where it cannot be."""

    @pytest.fixture(autouse=True)
    def fresh_compiler(self):
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    @pytest.mark.parametrize(
        "solver", [{"name": "rk4", "steps": 5}, {"name": "dopri5"}, {"name": "dopri5", "per_sample": True}]
    )
    def test_results_gradients_counts_and_no_recompilation(self, solver):
        flow = Flow(Layer(), solver={**solver, "compile": True})
        plain = Flow(Layer(), solver=solver)
        plain.load_state_dict(flow.state_dict())
        for batch in (5, 7, 5, 12, 7):
            x0 = torch.randn(batch, 3)
            for each in (flow, plain):
                each.zero_grad()
                each(x0).square().sum().backward()
            torch.testing.assert_close(flow(x0), plain(x0), rtol=1e-10, atol=1e-12)
            assert flow.stats.nfe == plain.stats.nfe and flow.stats.accepted == plain.stats.accepted
            for a, b in zip(flow.parameters(), plain.parameters(), strict=True):
                torch.testing.assert_close(a.grad, b.grad, rtol=1e-8, atol=1e-10)
        compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        with torch.compiler.set_stance("fail_on_recompile"):
            for batch in (5, 7, 31, 64):
                flow(torch.randn(batch, 3)).square().sum().backward()
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled

    @pytest.mark.slow
    @pytest.mark.timeout(300)
    def test_cuda_graphs_on_a_cpu_say_that_they_are_none(self):
        with pytest.raises(InvalidOption, match="compile"):
            Flow(Layer(), solver={"name": "rk4", "compile": "overhead"})
        flow = Flow(Layer(), solver={"name": "rk4", "steps": 4, "compile": "reduce-overhead"})
        plain = Flow(Layer(), solver={"name": "rk4", "steps": 4})
        plain.load_state_dict(flow.state_dict())
        x0 = torch.randn(5, 3)
        with pytest.warns(UserWarning, match="no CUDA device: it does what compile=True does"):
            found = flow(x0)
        torch.testing.assert_close(found, plain(x0), rtol=1e-10, atol=1e-12)

    @pytest.mark.gpu
    @pytest.mark.timeout(300)
    @pytest.mark.parametrize("solver", [{"name": "rk4", "steps": 5}, {"name": "dopri5"}])
    def test_cuda_graphs_change_nothing(self, solver):
        flow = Flow(Layer(), solver={**solver, "compile": "reduce-overhead"}).cuda()
        plain = Flow(Layer(), solver=solver).cuda()
        plain.load_state_dict(flow.state_dict())
        for _ in range(3):
            x0 = torch.randn(5, 3, device="cuda")
            for each in (flow, plain):
                each.zero_grad()
                each(x0).square().sum().backward()
            for a, b in zip(flow.parameters(), plain.parameters(), strict=True):
                torch.testing.assert_close(a.grad, b.grad)

    def test_a_field_that_does_not_compile_warns_once_and_is_solved(self):
        class Stubborn(Dynamics):
            def forward(self, t, x, u=None):
                if torch.compiler.is_compiling():
                    raise RuntimeError("this field does not compile")
                return -x

        flow = Flow(Stubborn(), solver={"name": "rk4", "steps": 4, "compile": True})
        with pytest.warns(UserWarning, match="solver RK4: compile=True has no effect"):
            first = flow(torch.ones(2, 3))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again = flow(torch.ones(2, 3))
        assert torch.equal(first, again) and flow.stats.nfe == 16
        assert float(first[0, 0]) == pytest.approx(math.exp(-1), abs=1e-4)
