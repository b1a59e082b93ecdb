"""Optimal control proper: known optima, what residuals say, open loop against feedback, words and refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import odeframe
from odeframe import Flow, FlowModule, Noise, plots_control
from odeframe.costs import LagrangeTerm
from odeframe.drive import SequenceDrive
from odeframe.errors import DataError, Incompatible, InvalidOption
from odeframe.system import ControlSystem
from odeframe_plugins.dynamics.linear_quadratic import DoubleIntegrator, LinearQuadratic
from odeframe_plugins.dynamics.mean_field import MeanFieldLinearQuadratic
from odeframe_plugins.dynamics.pendulum import PendulumSwingUp
from odeframe_plugins.dynamics.riccati import riccati
from odeframe_plugins.tasks.optimality import bellman_residual, pontryagin_residual

DOUBLE = torch.float64
LINEAR = {"name": "feedback", "hidden": 0, "gains": {"name": "piecewise_linear", "pieces": 6}}


def at(t):
    return torch.tensor(t, dtype=DOUBLE)


def composed(data, control, steps=12, spread=0.0, **options):
    """Module in double precision, and initial states: one, or disturbed ones."""
    torch.manual_seed(0)
    word = {"name": data, "spread": spread, "n": 40}
    run = odeframe.compose({"name": "controlled_system", "steps": steps}, word, control=control, **options)
    x0 = run.data.dataset("train")[:][0].double()
    return run.module.double(), x0[:1] if spread == 0 else x0


def minimise(module, x0, iterations=30):
    optimizer = torch.optim.LBFGS(
        module.parameters(), max_iter=iterations, line_search_fn="strong_wolfe", tolerance_change=1e-9
    )

    def closure():
        optimizer.zero_grad()
        loss = module.objective((x0,)).loss
        loss.backward()
        return loss

    optimizer.step(closure)
    return scores(module, x0)


def scores(module, x0):
    metrics = module.task.metrics(module.spec)
    with torch.no_grad():
        module.task.score(metrics, module.objective((x0,)).outcome, None)
    return {name: float(value) for name, value in metrics.compute().items()}


def put_optimal(module, gain, offset=None):
    """Sets a linear feedback with piecewise-linear gains to ``u = -K(t) x + k(t)`` at its knots, and ``u(t)`` to 0."""
    (flow,) = module.network.flows
    knots = flow.control.gains.coefficients
    with torch.no_grad():
        for p in flow.control.open_loop.parameters():
            p.zero_()
        for j, (weight, bias) in enumerate(knots):
            t = at(flow.horizon[1] * j / (len(knots) - 1))
            weight.copy_(-gain(t))
            bias.copy_(torch.zeros_like(bias) if offset is None else offset(t))


# -- the systems


def test_riccati_solves_its_equation():
    system = LinearQuadratic(
        ((0.1, 1.0, 0.0), (-0.5, 0.3, 0.2), (0.0, 0.4, -1.0)), ((0.0, 1.0), (1.0, 0.0), (0.0, 0.5))
    )
    A, B, Q = (each.double() for each in (system.A, system.B, system.Q))
    assert torch.allclose(system.riccati(at(2.0)), system.S.double(), atol=1e-14)
    for t in (0.0, 0.7, 1.9):
        h = 1e-4
        rate = (system.riccati(at(t + h)) - system.riccati(at(t - h))) / (2 * h)
        P = system.riccati(at(t))
        assert torch.allclose(P, P.mT, atol=1e-10)
        assert torch.allclose(-rate, A.mT @ P + P @ A - P @ B @ B.mT @ P + Q, atol=1e-6)
    several = system.riccati(torch.tensor([0.0, 0.7], dtype=DOUBLE))
    assert torch.allclose(several[1], system.riccati(at(0.7)), atol=1e-12)
    scalar = riccati(*(torch.full((1, 1), v, dtype=DOUBLE) for v in (0.0, 1.0, 0.0, 0.25, 1.0)), at(1.0))
    assert float(scalar) == pytest.approx(0.2, abs=1e-12)  # P' = 4 P^2, P(1) = 1


def test_double_integrator_tends_to_the_transfer_of_least_energy():
    x0 = torch.tensor([[1.0, 0.0], [0.3, -0.8]], dtype=DOUBLE)
    p, v = x0.unbind(1)
    for horizon in (1.0, 2.0):
        least = 6 * p**2 / horizon**3 + 6 * p * v / horizon**2 + 2 * v**2 / horizon
        value = DoubleIntegrator(1e7, horizon).double().value(at(0.0), x0)
        assert torch.allclose(value, least, rtol=1e-5)


def test_mean_field_value_is_riccati_of_the_whole_population():
    """N members are one linear-quadratic problem in N dimensions, whose matrices couple all of them."""
    n, m = 4, MeanFieldLinearQuadratic().double()
    one, eye = torch.ones(n, n, dtype=DOUBLE) / n, torch.eye(n, dtype=DOUBLE)
    drift = m.a * eye + m.a_mean * one
    spread = eye - one
    whole = riccati(
        drift, m.b * eye, m.q * eye + m.q_spread * spread, m.r * eye, m.s * eye + m.s_spread * spread, at(1.1)
    )
    x = torch.tensor([[0.3], [-1.0], [2.0], [0.7]], dtype=DOUBLE)
    expected = 0.5 * (x.mT @ whole @ x) / n
    assert float(m.value(at(m.horizon - 1.1), x).mean()) == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize("cls", [LinearQuadratic, DoubleIntegrator, PendulumSwingUp, MeanFieldLinearQuadratic])
@pytest.mark.parametrize("size", [0, 1, 5])
def test_systems_keep_shape_and_type(cls, size):
    for dtype in (torch.float32, DOUBLE):
        system = cls().to(dtype)
        x = torch.randn(size, *system.state_shape, dtype=dtype)
        for t in (at(0.2), torch.full((size,), 0.2, dtype=DOUBLE)):
            dx, cost = system(t, x), system.running_cost(t, x)
            assert dx.shape == x.shape and dx.dtype == dtype
            assert cost.shape == system.terminal_cost(x).shape == (size,) and cost.dtype == dtype
            value = system.value(t, x)
            assert value is None or (value.shape == (size,) and value.dtype == dtype)
        assert torch.allclose(system(at(0.2), x, drive=torch.ones_like(x)), system(at(0.2), x) + 1)


@pytest.mark.parametrize("solver", [{"name": "rk4", "steps": 20}, {"name": "dopri5", "rtol": 1e-9, "atol": 1e-11}])
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
def test_lagrange_term_sees_the_control_and_is_differentiated(solver, gradient):
    """x' = u: J = int (x^2 + u^2) / 2 for a constant u is 1/2 (x0^2 + x0 u + u^2/3 + u^2) on (0, 1)."""
    system = LinearQuadratic(((0.0,),), ((1.0,),)).double()
    flow = Flow(system, "constant", solver, gradient, quadratures=[LagrangeTerm()])
    x0 = torch.tensor([[0.4], [-1.0]], dtype=DOUBLE)
    cost = flow.running_cost(flow.solve(x0))
    cost.sum().backward()
    u, x = system.u.detach(), x0[:, 0]
    assert torch.allclose(cost.detach(), 0.5 * (x**2 + x * u + u**2 * 4 / 3), rtol=1e-7)
    assert torch.allclose(system.u.grad, (0.5 * x + u * 4 / 3).sum(), rtol=1e-6)


# -- residuals


def test_riccati_feedback_is_the_optimum():
    word = {"name": "feedback", "hidden": 0, "gains": {"name": "piecewise_linear", "pieces": 24}}
    module, x0 = composed("linear_quadratic", word, steps=24, spread=0.5)
    (flow,) = module.network.flows
    put_optimal(module, flow.dynamics.gain)
    found = scores(module, x0)
    assert abs(found["gap"]) < 1e-5 and found["hjb_residual"] < 1e-5 and found["pmp_residual"] < 2e-3, found


def test_population_feedback_is_the_optimum():
    word = {"name": "feedback", "hidden": 0, "gains": {"name": "piecewise_linear", "pieces": 24}}
    module, x0 = composed("mean_field_linear_quadratic", word, steps=24, spread=0.5)
    (flow,) = module.network.flows
    m = flow.dynamics
    deviation = lambda t: m.riccati(t)[0][None] * m.b / m.r  # noqa: E731

    # the mean of the optimal population, m' = (a + a_mean) m - b^2 / r G m, by the midpoint rule on small steps
    fine = 2400
    h = m.horizon / fine
    rates = m.a + m.a_mean - m.b**2 / m.r * m.riccati((torch.arange(fine, dtype=DOUBLE) + 0.5) * h)[1][:, 0]
    means = float(x0.mean()) * torch.cat([torch.zeros(1, dtype=DOUBLE), rates.cumsum(0) * h]).exp()

    def offset(t):
        P, G = m.riccati(t)
        return (P - G) * m.b / m.r * means[round(float(t) / h)]

    put_optimal(module, deviation, offset)
    found = scores(module, x0)
    assert abs(found["gap"]) < 1e-5 and found["hjb_residual"] < 1e-5 and found["pmp_residual"] < 2e-3, found


@pytest.mark.parametrize("data", ["linear_quadratic", "mean_field_linear_quadratic"])
@pytest.mark.parametrize("control", ["piecewise_constant", "feedback", "galerkin"])
def test_bellman_residual_is_the_gap_of_any_control(data, control):
    """The verification identity J - V = int (V_t + L + V_x f) dt: neither side is computed by the other's code."""
    module, x0 = composed(data, control, spread=0.5, solver={"name": "rk4", "steps": 24})
    found = scores(module, x0)
    assert found["gap"] > 0.05, "an untrained control is not optimal"
    assert found["hjb_residual"] == pytest.approx(found["gap"], rel=5e-3)


def test_pontryagin_residual_is_the_slope_of_the_objective():
    """Constant pieces: dJ/du_k is minus the integral over the piece of the mean of H_u, so both vanish together."""
    module, x0 = composed("pendulum_swing_up", "piecewise_constant", steps=40, spread=0.2)
    (flow,) = module.network.flows
    module.objective((x0,)).loss.backward()
    slope = torch.cat([block.slots[0].u.grad for block in flow.control.blocks])
    inputs = torch.cat([block.slots[0].u.detach() for block in flow.control.blocks])
    h = flow.horizon[1] / 40
    effort = flow.dynamics.effort * inputs
    pulled = effort - slope / h  # f_u^T p of each piece, averaged over it
    size = pulled.square().mean().sqrt() + effort.square().mean().sqrt()
    expected = (slope / h).square().mean().sqrt() / size
    assert float(pontryagin_residual(flow, x0)) == pytest.approx(float(expected), rel=1e-2)


def test_residuals_in_inference_mode_and_without_samples():
    torch.manual_seed(0)
    flow, x0 = Flow(LinearQuadratic(), control="constant", solver="rk4"), torch.ones(3, 2)
    for residual in (bellman_residual, pontryagin_residual):
        with torch.inference_mode():
            found = residual(flow, x0 + 0.0)
        assert torch.equal(found, residual(flow, x0))
        with pytest.raises(InvalidOption, match="means over samples: got none"):
            residual(flow, x0[:0])
    with pytest.raises(InvalidOption, match="option points: got 0"):
        bellman_residual(flow, x0, points=0)


def test_residuals_need_a_system_and_a_value():
    flow = Flow(torch.nn.Linear(2, 2))
    with pytest.raises(Incompatible, match=r"are those of an odeframe\.ControlSystem, got"):
        pontryagin_residual(flow, torch.ones(1, 2))
    module, x0 = composed("pendulum_swing_up", "constant")
    assert set(scores(module, x0)) == {"cost", "pmp_residual"}
    with pytest.raises(Incompatible, match="does not know its value function"):
        bellman_residual(module.network.flows[0], x0)


# -- optima


def test_open_loop_reaches_riccati_from_one_start():
    module, x0 = composed("linear_quadratic", "piecewise_constant", steps=12)
    found = minimise(module, x0, 15)
    assert 0 <= found["gap"] < 0.01 and found["pmp_residual"] < 0.02, found


@pytest.mark.slow
def test_neither_form_depends_on_anything_but_the_seed():
    first, second = (minimise(*composed("double_integrator", LINEAR, spread=0.3), 3) for _ in range(2))
    assert first == second


OPEN_LOOP = [
    {"name": "piecewise_constant"},
    {"name": "piecewise_constant", "pieces": 12},
    {"name": "piecewise_linear", "pieces": 6},
    {"name": "galerkin", "basis": "legendre", "degree": 4},
    {"name": "galerkin", "basis": "chebyshev", "degree": 4},
    {"name": "galerkin", "basis": "bspline"},
    {"name": "galerkin", "basis": "fourier", "degree": 20},
    {"name": "hypernetwork"},
    {"name": "box", "of": "piecewise_linear", "low": -5.0, "high": 5.0},
]


@pytest.mark.slow
@pytest.mark.parametrize("control", OPEN_LOOP, ids=lambda word: "-".join(map(str, word.values())))
def test_every_open_loop_control_reaches_riccati_within_one_percent(control):
    """A Fourier series is the same at both ends, where the optimum is not: it needs most terms."""
    steps = 48 if control.get("basis") == "fourier" else 12
    module, x0 = composed("linear_quadratic", control, steps=steps)
    found = minimise(module, x0, 40)
    assert -1e-6 <= found["gap"] < 0.01, found


@pytest.mark.slow
@pytest.mark.parametrize("data", ["linear_quadratic", "mean_field_linear_quadratic"])
def test_feedback_matches_the_riccati_gain_within_two_percent(data):
    module, x0 = composed(data, LINEAR, spread=0.5)
    found = minimise(module, x0, 120)
    (flow,) = module.network.flows
    system = flow.dynamics
    assert abs(found["gap"]) < 2e-3, found
    error, size = [], []
    for j in range(60):
        t = at((j + 0.5) / 60 * flow.horizon[1])
        law = flow.control.gains.on(t - 1e-6, t + 1e-6)
        K = -law.parameters(t)["slots.0.outer.weight"].detach()
        exact = system.gain(t) if hasattr(system, "gain") else system.riccati(t)[0][None] * system.b / system.r
        error.append((K - exact).square().sum())
        size.append(exact.square().sum())
    assert float((torch.stack(error).sum() / torch.stack(size).sum()).sqrt()) < 0.02


@pytest.mark.slow
def test_feedback_beats_open_loop_under_disturbance_and_noise():
    """Trained on the undisturbed problem and on disturbed starts; held under disturbed starts and white noise."""
    costs = {}
    for name, control in (("open loop", "piecewise_constant"), ("feedback", LINEAR)):
        module, x0 = composed("linear_quadratic", control, spread=0.3)
        minimise(module, x0, 40)
        (flow,) = module.network.flows
        fresh = torch.tensor([1.0, 0.0], dtype=DOUBLE) + 0.3 * Noise(1).on(0).normal(
            torch.ones(200, 1, dtype=DOUBLE), (2,)
        )
        pushes = 0.2 * math.sqrt(12 / 2.0) * Noise(2).on(0).normal(fresh, (12, 2))
        with torch.no_grad():
            solution = flow.solve(fresh, drive=SequenceDrive(pushes, flow.horizon))
            cost = flow.dynamics.terminal_cost(solution.final) + flow.running_cost(solution)
        costs[name] = float(cost.mean())
    assert costs["feedback"] < 0.6 * costs["open loop"], costs


@pytest.mark.slow
def test_pendulum_swings_up():
    module, x0 = composed("pendulum_swing_up", {"name": "piecewise_linear", "pieces": 25}, steps=25)
    minimise(module, x0, 200)  # 100 leave a residual of 0.05 to 0.4, by the processor
    angle, speed = module.network(x0)[0].detach()
    assert math.cos(float(angle)) > 0.999 and abs(float(speed)) < 0.05
    assert float(pontryagin_residual(module.network.flows[0], x0)) < 0.15


# -- words, refusals, Lightning


def test_command_line_words_are_enough(tmp_path, capsys):
    from odeframe.cli import main

    words = ["--model.architecture=controlled_system", "--data.name=linear_quadratic", "--data.n=20"]
    arguments = ["fit", *words, "--trainer.max_epochs=1", f"--output={tmp_path}", "--trainer.accelerator=cpu"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "task control, dynamics linear_quadratic, control piecewise_constant" in shown
    assert "val_gap" in shown and (tmp_path / "figures" / "control.png").stat().st_size > 5000
    module = FlowModule.load(tmp_path / "checkpoints" / "last.ckpt")
    assert isinstance(module.network.flows[0].dynamics, ControlSystem)


def test_picture_of_a_module_in_double_precision(tmp_path):
    """Data are float32: ``precision: 64-true`` turns the batches of a fit, and the picture after it needs the same."""
    made = odeframe.compose("controlled_system", {"name": "linear_quadratic", "n": 20}, control=LINEAR)
    run = odeframe.Run(made.module.double(), made.data, tmp_path)
    assert [path.name for path in run.draw()] == ["control.png"]


class Drift(ControlSystem):
    """A user's own system, of which nothing is registered."""

    state_shape = (2,)

    def __init__(self):
        super().__init__(2, 1.0)

    def velocity(self, t, x, u):
        return u - x

    def lagrangian(self, t, x, u):
        return u.square().sum(1)

    def terminal_cost(self, x):
        return (x - 1).square().sum(1)


def test_system_of_ones_own():
    run = odeframe.compose("controlled_system", {"name": "linear_quadratic", "n": 20}, dynamics=Drift())
    x0 = run.data.dataset("train")[:][0]
    assert set(run.module.task.metrics(run.module.spec)) == {"cost", "pmp_residual"}
    run.module.objective((x0,)).loss.backward()
    assert all(p.grad is not None for p in run.module.parameters())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"architecture": "resnet"}, "task 'control' needs a.? architecture with the trait 'bare'"),
        ({"dynamics": "mlp"}, "with the trait 'control_system', which dynamics 'mlp' lacks"),
        ({"dynamics": "mean_field_linear_quadratic"}, "with the trait 'population'"),
        ({"control": "time_concat"}, "control 'time_concat' .*control_system"),
        ({"data": "digits"}, "the data are initial states of no system that they name"),
        ({"data": "digits", "dynamics": "linear_quadratic", "task": "control"}, "with the trait 'initial_states'"),
        ({"task": "regression"}, "regression"),
    ],
)
def test_parts_that_do_not_go_together(words, message):
    chosen = {"architecture": "controlled_system", "data": "linear_quadratic", **words}
    with pytest.raises(Incompatible, match=message):
        odeframe.compose(**chosen)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearQuadratic(horizon=0.0), "option horizon: got 0.0"),
        (lambda: LinearQuadratic(B=((0.0, 1.0),)), r"option B: got the shape \(1, 2\), expected \(2, 2\)"),
        (lambda: LinearQuadratic(A=((0.0, 1.0), (1.0,))), "option A: got .* expected rows of equal length"),
        (lambda: LinearQuadratic(R=((0.0,),)), "option R: got .* expected symmetric positive definite"),
        (lambda: LinearQuadratic(Q=((0.0, 1.0), (0.0, 0.0))), "option Q: got .* semi-definite"),
        (lambda: DoubleIntegrator(-1.0), "option weight: got -1.0"),
        (lambda: PendulumSwingUp(damping=-1.0), "option damping: got -1.0"),
        (lambda: MeanFieldLinearQuadratic(r=0.0), "option r: got 0.0"),
        (lambda: MeanFieldLinearQuadratic(b=0.0), "b other than 0"),
        (lambda: odeframe.build("architecture", "controlled_system", steps=0), "option steps: got 0"),
        (lambda: odeframe.build("data", "linear_quadratic", spread=-1.0), "option spread: got -1.0"),
        (lambda: odeframe.build("data", "pendulum_swing_up", n=3), "option n: got 3"),
    ],
)
def test_wrong_options_are_refused(make, message):
    with pytest.raises(InvalidOption, match=message):
        make()


def test_data_are_fixed_disturbed_starts():
    one, other = (odeframe.build("data", "pendulum_swing_up", seed=4) for _ in range(2))
    for split, size in (("train", 448), ("val", 64), ("test", 128)):
        (x,) = one.dataset(split)[:]
        assert x.shape == (size, 2) and torch.equal(x, other.dataset(split)[:][0])
    assert torch.allclose(x.mean(0), torch.tensor([math.pi, 0.0]), atol=0.02)
    (same,) = odeframe.build("data", "linear_quadratic", spread=0.0).dataset("test")[:]
    assert torch.equal(same, torch.tensor([1.0, 0.0]).expand(128, 2))


def test_lagrange_term_is_of_a_flow_of_a_system():
    with pytest.raises(Incompatible, match=r"is that of a Flow of an odeframe\.ControlSystem"):
        LagrangeTerm().rate(at(0.0), torch.ones(1, 2), torch.ones(1, 2))
    with pytest.raises(Incompatible, match="bare function has none"):
        from odeframe.field import FunctionField
        from odeframe.quadrature import PackedField

        field = PackedField(FunctionField(lambda t, x: -x), [LagrangeTerm()], torch.Size((2,)))
        field.on(at(0.0), at(1.0))(at(0.0), torch.ones(1, 3))


# -- pictures


def test_weights_over_depth_are_those_of_the_control():
    torch.manual_seed(0)
    flow = Flow(torch.nn.Linear(2, 2), {"name": "piecewise_constant", "pieces": 3}, {"name": "euler", "steps": 3})
    times, values = plots_control.weights(flow)
    edges = np.array([0, 1, 1, 2, 2, 3]) / 3
    assert np.allclose(times, edges) and set(values) == {"slots.0.module.weight", "slots.0.module.bias"}
    for row, piece in enumerate([0, 0, 1, 1, 2, 2]):
        expected = flow.control.blocks[piece].slots[0].module.bias.detach().numpy()
        assert np.allclose(values["slots.0.module.bias"][row], expected)
    figure = plots_control.weights_over_depth({"pieces": flow}, most=4)
    (axes,) = figure.axes
    assert len(axes.lines) == 4 and "4 of 6 weights" in axes.get_title()
    changes = [np.ptp(line.get_ydata()) for line in axes.lines]
    assert min(changes) > 0
    with pytest.raises(DataError, match="got no flow"):
        plots_control.weights_over_depth({})


def test_paths_are_those_of_the_flow_with_its_inputs():
    module, x0 = composed("double_integrator", LINEAR, spread=0.3)
    (flow,) = module.network.flows
    paths = plots_control.controlled_paths("feedback", flow, x0[:4], points=7)
    assert paths.states.shape == (7, 4, 2) and paths.inputs.shape == (7, 4, 1)
    assert np.allclose(paths.states[-1], module.network(x0[:4]).detach(), atol=1e-3)  # nodes at the output times too
    with torch.no_grad():
        u = flow.field().on(at(0.5 - 1e-7), at(0.5 + 1e-7)).observe("input", at(0.5), torch.tensor(paths.states[3]))
    assert np.allclose(paths.inputs[3], u, atol=1e-6)
    figure = plots_control.paths_over_time([paths, paths])
    assert [axes.get_title() for axes in figure.axes[:3]] == [
        "feedback: position", "feedback: velocity", "feedback: input"
    ]  # fmt: skip
    assert len(figure.axes) == 6 and len(figure.axes[0].lines) == 4
    with pytest.raises(DataError, match="got no paths"):
        plots_control.paths_over_time([])
    with pytest.raises(Incompatible, match=r"expected an odeframe\.ControlSystem"):
        plots_control.controlled_paths("", Flow(torch.nn.Linear(2, 2)), x0)
