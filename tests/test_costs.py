"""Costs against closed forms on linear fields; their words; what they do to a network."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import nn

import odeframe
from odeframe import Flow, FlowModule, Noise
from odeframe.assembly import OBJECT
from odeframe.cli.sources import MODEL_KEYS
from odeframe.cost_words import COSTS, resolve_costs
from odeframe.costs import ControlSmoothness, KineticEnergy, RunningCost, StateTracking, WeightDecay
from odeframe.errors import CheckpointError, InvalidOption, SolveFailed
from odeframe.jacobian_costs import JacobianFrobenius
from problems import Linear, batch

TIGHT = {"name": "dopri5", "rtol": 1e-9, "atol": 1e-11}
SOLVERS = [{"name": "rk4", "steps": 60}, TIGHT]
A = torch.tensor([[-0.3, 1.0, 0.2], [-1.1, 0.2, 0.0], [0.4, -0.5, -0.6]], dtype=torch.float64)
T = 1.5


def quadratic_integral(matrix, x0, shift=None):
    """``int_0^T |M e^{At} x0 - r|^2 dt`` by Gauss's rule with 40 nodes, exact here to round-off."""
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(40)
    total = torch.zeros(len(x0), dtype=torch.float64)
    for node, weight in zip(nodes, weights, strict=True):
        x = x0 @ torch.linalg.matrix_exp(A * (0.5 * T * (node + 1))).mT
        total += 0.5 * T * weight * (x @ matrix.mT - (0 if shift is None else shift)).square().sum(1)
    return total


@pytest.mark.parametrize("solver", SOLVERS, ids=["rk4", "dopri5"])
def test_running_costs_of_a_linear_field(solver):
    x0, shift = batch(4, 3), torch.tensor([0.5, -1.0, 0.0], dtype=torch.float64)
    tracking = StateTracking(target=lambda t: shift)
    costs = [KineticEnergy(), JacobianFrobenius(exact=True), tracking, RunningCost(lambda t, x: t * torch.ones(len(x)))]
    found = Flow(Linear(A), solver=solver, horizon=(0.0, T), quadratures=costs).solve(x0).quadratures
    unit = torch.eye(3, dtype=torch.float64)
    expected = {
        "kinetic_energy": 0.5 * quadratic_integral(A, x0),
        "jacobian_frobenius": torch.full((4,), T * float(A.square().sum()), dtype=torch.float64),
        "state_tracking": 0.5 * quadratic_integral(unit, x0, shift),
        "running_cost": torch.full((4,), 0.5 * T**2, dtype=torch.float64),
    }
    for name, value in expected.items():
        assert torch.allclose(found[name][-1], value, rtol=1e-5, atol=1e-8), name


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_probe_of_the_jacobian_is_unbiased_and_the_same_along_a_path(probe):
    x0 = torch.zeros(20000, 3, dtype=torch.float64)
    flow = Flow(Linear(A), solver="euler", horizon=(0.0, T), quadratures=[JacobianFrobenius(probe=probe)]).eval()
    found = flow.solve(x0).quadratures["jacobian_frobenius"][-1].detach()
    scatter = float(found.std()) / math.sqrt(len(found))
    assert abs(float(found.mean()) - T * float(A.square().sum())) <= 4 * scatter
    v = flow.quadratures[0].drawn(None, x0)._probe
    # one probe a sample: the integral of a constant, not an average over the steps
    assert torch.allclose(found, T * (v @ A).square().sum(1), rtol=1e-10)
    assert torch.equal(found, flow.solve(x0).quadratures["jacobian_frobenius"][-1]), "evaluation draws by a fixed seed"
    flow.train()
    assert not torch.equal(found, flow.solve(x0).quadratures["jacobian_frobenius"][-1]), "training draws anew"
    part = flow.solve(x0[5:9], noise=Noise(3, torch.arange(5, 9))).quadratures["jacobian_frobenius"][-1]
    whole = flow.solve(x0, noise=Noise(3)).quadratures["jacobian_frobenius"][-1]
    assert torch.allclose(part, whole[5:9], rtol=1e-12), "a sample's probe does not depend on its batch"


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
def test_jacobian_norm_is_differentiated(gradient):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    solver = TIGHT if gradient == "adjoint" else {"name": "rk4", "steps": 4}
    flow = Flow(net, solver=solver, gradient=gradient, quadratures=[JacobianFrobenius(weight=1.0)])
    x0, noise = batch(2, 3), Noise(1)

    def cost():
        return flow.running_cost(flow.solve(x0, noise=noise)).sum()

    cost().backward()
    weight, eps = net[0].weight, 1e-5
    found = float(weight.grad[1, 2])
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            weight[1, 2] += sign * eps
            values.append(float(cost()))
            weight[1, 2] -= sign * eps
    assert found == pytest.approx((values[0] - values[1]) / (2 * eps), rel=1e-5)


class Sine(nn.Module):
    """Samples of different size need steps of different length."""

    def forward(self, t, x):
        return torch.sin(x @ A.mT)


def test_steps_of_each_sample_keep_their_probes():
    solver = {"name": "dopri5", "rtol": 1e-8, "atol": 1e-8, "per_sample": True}
    x0 = batch(6, 3) * torch.tensor([[1.0], [40.0], [1e-3], [7.0], [1.0], [0.1]], dtype=torch.float64)
    flow = Flow(Sine(), solver=solver, quadratures=[JacobianFrobenius()]).eval()
    together = flow.solve(x0, noise=Noise(0)).quadratures["jacobian_frobenius"][-1]
    for i in range(6):
        alone = flow.solve(x0[i : i + 1], noise=Noise(0, torch.tensor([i]))).quadratures["jacobian_frobenius"][-1]
        assert torch.allclose(alone, together[i], rtol=1e-6), i


def test_step_maps_carry_the_probed_cost():
    torch.manual_seed(0)
    flow = Flow(
        nn.Linear(3, 3).double(), solver={"name": "rk4", "steps": 3}, quadratures=[JacobianFrobenius(0.7)]
    ).eval()
    z = (batch(2, 3),)
    for step in flow.steps():
        z = step(z)
    solution = flow.solve(batch(2, 3))
    assert torch.allclose(z[1], flow.running_cost(solution), rtol=1e-12)


def test_tracking_refuses_a_reference_of_another_size():
    flow = Flow(Linear(A), quadratures=[StateTracking(target=[1.0, 2.0])])
    with pytest.raises(InvalidOption, match=r"option target: got the shape \(2,\).*expected a number or 3 components"):
        flow.solve(batch(2, 3))


# -- costs of the control


def test_weight_decay_is_that_of_an_optimiser():
    torch.manual_seed(0)
    flow = Flow(nn.Linear(2, 2), {"name": "piecewise_constant", "pieces": 3}, {"name": "euler", "steps": 3})
    twin = copy.deepcopy(flow)
    by_cost, by_torch = (torch.optim.SGD(f.parameters(), 0.1, weight_decay=w) for f, w in ((flow, 0), (twin, 0.3)))
    x0 = torch.randn(4, 2)
    (flow(x0).square().mean() + 0.3 * WeightDecay()(flow.control)).backward()
    twin(x0).square().mean().backward()
    by_cost.step()
    by_torch.step()
    for p, q in zip(flow.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-7)


def control_of(word, horizon=(0.0, 2.0), steps=4):
    torch.manual_seed(1)
    return Flow(nn.Linear(2, 2).double(), word, {"name": "rk4", "steps": steps}, horizon=horizon).control.double()


@pytest.mark.parametrize("horizon", [(0.0, 2.0), (2.0, 0.0)], ids=["forward", "backward"])
def test_smoothness_of_pieces_and_knots(horizon):
    pieces = control_of({"name": "piecewise_constant", "pieces": 4}, horizon)
    values = [nn.utils.parameters_to_vector(block.parameters()) for block in pieces.blocks]
    expected = sum((b - a).square().sum() for a, b in itertools.pairwise(values)) / 0.5
    assert torch.allclose(ControlSmoothness()(pieces), expected, rtol=1e-12)
    knots = control_of({"name": "piecewise_linear", "pieces": 4}, horizon)
    values = [nn.utils.parameters_to_vector(list(each)) for each in knots.coefficients]
    expected = sum((b - a).square().sum() for a, b in itertools.pairwise(values)) / 0.5
    assert torch.allclose(ControlSmoothness()(knots), expected, rtol=1e-9)


def test_smoothness_of_a_series_is_the_integral_of_the_slope():
    control = control_of({"name": "galerkin", "basis": "legendre", "degree": 1})
    slope = torch.randn(6, dtype=torch.float64)  # theta = c_0 + c_1 (t - 1) on (0, 2)
    nn.utils.vector_to_parameters(slope, list(control.coefficients[1]))
    assert torch.allclose(ControlSmoothness()(control), 2 * slope.square().sum(), rtol=1e-9)


def test_smoothness_sees_open_loop_and_gains_of_a_feedback():
    word = {"name": "feedback", "of": {"name": "piecewise_constant", "pieces": 4}, "gains": "constant"}
    flow = Flow(nn.Linear(2, 2), word, {"name": "euler", "steps": 4})
    alone = ControlSmoothness()(flow.control.open_loop)
    assert torch.allclose(ControlSmoothness()(flow.control), alone) and float(alone.detach()) > 0
    varied = {**word, "of": "constant", "gains": {"name": "piecewise_linear", "pieces": 2}}
    assert float(ControlSmoothness()(Flow(nn.Linear(2, 2), varied, {"name": "euler", "steps": 4}).control).detach()) > 0


def test_cost_without_effect_is_told():
    with pytest.warns(UserWarning, match="'control_smoothness' has no effect on Constant"):
        odeframe.compose("neural_ode", "two_moons", costs={"control_smoothness": 0.1})


# -- words


WORDS = {"kinetic_energy": 0.02, "state_tracking": {"weight": 0.1, "target": [1.0]}, "control_smoothness": 1e-3}


def objective_of(costs):
    torch.manual_seed(0)
    run = odeframe.compose({"name": "resnet", "width": 4}, {"name": "two_moons", "n": 40}, costs=costs)
    x, y = run.data.dataset("train")[:8]
    return run.module, float(run.module.objective((x, y)).loss.detach())


def test_objective_has_every_cost_with_its_weight_once():
    module, total = objective_of(WORDS)
    bare, plain_loss = objective_of(None)
    (flow,) = module.network.flows
    assert [cost.name for cost in module.control_costs] == ["control_smoothness"]
    x, _ = odeframe.compose("resnet", {"name": "two_moons", "n": 40}).data.dataset("train")[:8]
    solution = flow.solve(module.network.stages["stem"](x))
    running = {name: float(q[-1].mean().detach()) for name, q in solution.quadratures.items()}
    expected = plain_loss + 0.02 * running["kinetic_energy"] + 0.1 * running["state_tracking"]
    expected += 1e-3 * float(ControlSmoothness()(flow.control).detach())
    assert total == pytest.approx(expected, rel=1e-5)
    assert bare.control_costs == () and float(bare.control_cost()) == 0


def test_every_flow_of_a_network_has_the_costs():
    costs = {"kinetic_energy": 0.1, "weight_decay": 0.1}
    run = odeframe.compose("resnet", {"name": "digits", "limit": 16}, costs=costs)
    flows = run.module.network.flows
    assert len(flows) == 2 and all([q.name for q in flow.quadratures] == ["kinetic_energy"] for flow in flows)
    half_squares = sum(0.5 * float(p.detach().square().sum()) for flow in flows for p in flow.control.parameters())
    assert float(run.module.control_cost()) == pytest.approx(0.1 * half_squares, rel=1e-5)


def test_words_are_resolved_and_kept():
    found = resolve_costs({"weight_decay": 0.1, "mine": lambda t, x: x[:, 0], "other": KineticEnergy(0.2)})
    assert [q.name for q in found.running] == ["mine", "kinetic_energy"] and found.running[0].weight == 1.0
    assert [c.weight for c in found.control] == [0.1]
    assert [q.name for q in resolve_costs([KineticEnergy(0.1), WeightDecay(0.2)]).running] == ["kinetic_energy"]
    assert resolve_costs(None).words == {} and resolve_costs({}).running == ()


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        ({"kinetic_enrgy": 0.1}, "none named 'kinetic_enrgy'. Did you mean 'kinetic_energy'"),
        ({"kinetic_energy": -0.1}, "'kinetic_energy': got the weight -0.1, expected a finite number of at least 0"),
        ({"kinetic_energy": math.inf}, "got the weight inf"),
        ({"kinetic_energy": "a lot"}, "expected float"),
        ({"state_tracking": {"target": 1.0}}, "'state_tracking': has no weight; write state_tracking: 0.01"),
        ({"state_tracking": {"weight": 1.0, "targt": 1.0}}, "no option 'targt'.*Did you mean 'target'"),
        ({"jacobian_frobenius": {"weight": 1.0, "probe": "uniform"}}, "option probe|expected"),
        ("kinetic_energy", "got 'kinetic_energy', expected a mapping of names to weights"),
        ([KineticEnergy(0.1), KineticEnergy(0.2)], "two have one name"),
        ({"a": KineticEnergy(0.1), "kinetic_energy": 0.2}, "two have the name 'kinetic_energy'"),
    ],
)
def test_wrong_costs_are_refused(costs, message):
    with pytest.raises(InvalidOption, match=message):
        odeframe.compose("resnet", {"name": "two_moons", "n": 40}, costs=costs)


def test_costs_are_in_checkpoints_as_words(tmp_path):
    run = odeframe.compose("resnet", {"name": "two_moons", "n": 40}, costs=WORDS, output=tmp_path)
    run.fit(max_epochs=1, enable_progress_bar=False, logger=False)
    module = FlowModule.load(tmp_path / "checkpoints" / "last.ckpt")
    assert module.hparams["costs"] == WORDS
    assert [q.name for q in module.network.flows[0].quadratures] == ["state_tracking", "kinetic_energy"]


def test_lost_object_is_asked_for(tmp_path):
    run = odeframe.compose(
        "resnet", {"name": "two_moons", "n": 40}, costs={"mine": lambda t, x: x.square().sum(1)}, output=tmp_path
    )
    assert run.module.hparams["costs"]["mine"].startswith(OBJECT)
    run.fit(max_epochs=1, enable_progress_bar=False, logger=False)
    path = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(CheckpointError, match=r"costs of this model was given as an object.*costs=\.\.\."):
        FlowModule.load(path)
    assert FlowModule.load(path, costs={"mine": lambda t, x: x.square().sum(1)}).network.flows[0].quadratures


def test_costs_that_differentiate_work_in_lightnings_evaluation():
    costs = {"jacobian_frobenius": {"weight": 0.01, "exact": True}}
    run = odeframe.compose({"name": "neural_ode", "width": 3}, {"name": "two_moons", "n": 40}, costs=costs)
    run.fit(max_epochs=1, enable_progress_bar=False, logger=False, enable_checkpointing=False)
    x, y = run.data.dataset("test")[:]
    run.module.eval()
    assert run.test()["test_loss"] == pytest.approx(float(run.module.objective((x, y)).loss.detach()), rel=1e-5)


def test_help_names_every_cost():
    from odeframe.cli.help import run_help

    assert "costs" in MODEL_KEYS and all(name in run_help("fit") for name in COSTS)


# -- what they do


@pytest.mark.slow
def test_fewer_evaluations_as_kinetic_energy_is_penalised():
    """Two moons: the straighter the paths, the longer the steps."""
    counts = {}
    for weight in (0.0, 0.03, 0.3):
        torch.manual_seed(0)
        solver = {"name": "dopri5", "rtol": 1e-6, "atol": 1e-6}
        run = odeframe.compose(
            {"name": "neural_ode", "width": 16},
            "two_moons",
            solver=solver,
            costs={"kinetic_energy": weight} if weight else None,
            learning_rate=3e-2,
        )
        run.fit(max_epochs=15, enable_progress_bar=False, logger=False, enable_checkpointing=False)
        found = run.test()
        counts[weight] = found["test_nfe"]
        assert found["test_accuracy"] >= 0.95, (weight, found)
    assert counts[0.3] < counts[0.03] < counts[0.0], counts


@pytest.mark.slow
def test_neighbouring_layers_get_closer_under_smoothness():
    """Two moons: the jumps between the eight blocks of a ResNet, at the same accuracy."""
    jumps = {}
    for weight in (0.0, 1e-3, 1e-2):
        torch.manual_seed(0)
        run = odeframe.compose(
            {"name": "resnet", "width": 8, "blocks": 8},
            "two_moons",
            costs={"control_smoothness": weight} if weight else None,
            learning_rate=1e-2,
        )
        run.fit(max_epochs=12, enable_progress_bar=False, logger=False, enable_checkpointing=False)
        assert run.test()["test_accuracy"] >= 0.97
        jumps[weight] = float(ControlSmoothness()(run.module.network.flows[0].control).detach())
    assert jumps[1e-2] < 0.5 * jumps[1e-3] < 0.5 * jumps[0.0], jumps


@pytest.mark.parametrize("solver", ["rk4", "dopri5", {"name": "dopri5", "per_sample": True}, "torchdiffeq", "ab2"])
def test_a_cost_that_is_not_finite_is_blamed_by_name(solver):
    """The state is finite throughout; the root of a negative number is the cost's."""
    costs = [RunningCost(lambda t, x: x[:, 0].abs(), name="fine"), RunningCost(_root, name="height")]
    flow = Flow(Linear([[0.0, 1.0], [-1.0, 0.0]]), solver=solver, quadratures=costs)
    with pytest.raises(SolveFailed, match=r"the running cost 'height' is nan.*worst sample 1") as raised:
        flow.solve(torch.tensor([[4.0, 0.0], [1.0, 0.0]]))
    assert raised.value.worst_sample == 1
    flow.solve(torch.tensor([[4.0, 0.0]]))


def _root(t, x):
    return torch.where(x[:, 0] < 1.1, 0.5 - t, torch.ones_like(x[:, 0])).sqrt()


def test_a_state_that_is_not_finite_is_not_blamed_on_a_cost():
    """Its costs are not finite either."""
    flow = Flow(Quadratic(), solver={"name": "rk4", "steps": 40}, quadratures=[KineticEnergy()], horizon=(0.0, 4.0))
    with pytest.raises(SolveFailed, match="the state became non-finite"):
        flow.solve(torch.ones(1, 2))


class Quadratic(nn.Module):
    """``x' = x^2``, which ends at ``t = 1`` from 1."""

    def forward(self, t, x):
        return x.square()


def test_a_cost_of_the_times_keeps_the_dtype_of_the_state():
    """Times of each sample are float64."""
    flow = Flow(
        Linear([[0.0, 1.0], [-1.0, 0.0]]).float(),
        solver={"name": "dopri5", "per_sample": True},
        quadratures=[RunningCost(_time_cost)],
    )
    solution = flow.solve(torch.ones(2, 2))
    assert solution.states.dtype == torch.float32
    assert torch.allclose(solution.quadratures["running_cost"][-1], torch.full((2,), 0.5), atol=1e-4)


def _time_cost(t, x):
    return t.expand(len(x))
