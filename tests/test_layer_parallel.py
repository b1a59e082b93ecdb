"""Depth in parallel: the iteration equals the scheme, forward and backward, on one process and on several."""

import itertools
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing import start_processes

import odeframe
from odeframe import Dynamics, Flow, Incompatible, InvalidOption, Noise, SolveFailed
from odeframe.costs import RunningCost
from odeframe.testing import SolverConformance
from odeframe_plugins.solvers.layer_parallel_depth import split_depth
from odeframe_plugins.solvers.layer_parallel_iteration import Rule
from odeframe_plugins.solvers.layer_parallel_model import (
    Machine,
    crossing,
    data_parallel,
    evaluations,
    layer_parallel,
    serial_seconds,
)

TIME_OUT = timedelta(seconds=20)


@pytest.mark.slow
class TestEuler(SolverConformance):
    solver = {"name": "layer_parallel", "coarsening": 2, "tolerance": 1e-13}


@pytest.mark.slow
class TestFourthOrder(SolverConformance):
    solver = {"name": "layer_parallel", "of": "rk4", "coarsening": 3, "tolerance": 1e-13, "relaxation": "FCF"}


@pytest.mark.slow
class TestTrainedScheme(SolverConformance):
    solver = {"name": "layer_parallel", "of": "trained_runge_kutta", "coarsening": 2, "tolerance": 1e-13}


class Layer(Dynamics):
    """f(x) = s tanh(W x + b)."""

    def __init__(self, width=4, scale=1.0):
        super().__init__()
        self.linear, self.scale = nn.Linear(width, width), scale

    def reset_parameters(self):
        self.linear.reset_parameters()

    def forward(self, t, x, u=None):
        return self.scale * torch.tanh(self.linear(x))


def network(solver, steps, horizon=(0.0, 1.0), control="piecewise_constant", scale=1.0, **words):
    """A flow with layers of its own at every step, the same for every solver; in float64."""
    torch.manual_seed(0)
    return Flow(Layer(scale=scale), control, {"steps": steps, **solver}, horizon=horizon, **words).double()


def smooth(flow):
    """Gives the layers weights that are a smooth function of depth: the same function for any number of layers."""
    torch.manual_seed(1)
    first, second = (nn.Linear(4, 4).double() for _ in range(2))
    with torch.no_grad():
        for k, block in enumerate(flow.control.blocks):
            t = torch.tensor((k + 0.5) / len(flow.control.blocks)).double()
            weights = zip(block.slots[0].linear.parameters(), first.parameters(), second.parameters(), strict=True)
            for parameter, a, b in weights:
                parameter.copy_(2 * (a * torch.cos(2 * t) + b * torch.sin(3 * t)))
    return flow


def batch():
    return torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def result(flow, times=None, **words):
    """State, gradient of the parameters and of x0."""
    x0 = batch().requires_grad_(True)
    solution = flow.solve(x0, times, **words)
    loss = solution.states.sin().square().mean() + sum(q[-1].sum() for q in solution.quadratures.values())
    gradients = torch.autograd.grad(loss, [x0, *flow.parameters()])
    return solution.states.detach(), torch.cat([g.reshape(-1) for g in gradients])


def differ(a, b):
    return max(float((u - v).abs().max()) for u, v in zip(a, b, strict=True))


@pytest.mark.parametrize("relaxation", ["F", "FCF"])
@pytest.mark.parametrize("of", ["euler", "momentum", pytest.param("fractal", marks=pytest.mark.slow)])
def test_converged_equals_the_scheme_in_state_and_gradient(of, relaxation):
    solver = {"name": "layer_parallel", "of": of, "tolerance": 1e-9, "relaxation": relaxation}
    parallel = network(solver, 24)
    assert differ(result(parallel), result(network({"name": of}, 24))) < 1e-8
    assert 0 < parallel.solver.history.iterations[0] <= 5
    assert max(parallel.solver.history.states[-1], parallel.solver.history.costates[-1]) <= 1e-9


@pytest.mark.parametrize("relaxation, exact", [("F", 5), ("FCF", 3)])
def test_exact_after_as_many_corrections_as_runs_less_one(relaxation, exact):
    """Whatever the coarse map: here one that blows up, at 40 times the field and weights drawn anew at every layer."""
    words = {"name": "layer_parallel", "tolerance": 0.0, "relaxation": relaxation}
    serial = result(network({"name": "euler"}, 24, scale=40.0))
    parallel = network(words, 24, scale=40.0)
    assert differ(result(parallel), serial) <= 1e-11 * float(serial[1].abs().max())
    assert parallel.solver.history.iterations == (exact, exact)
    assert Rule(None, 0.0, relaxation == "FCF").limit(6) == exact
    fewer = network({**words, "iterations": exact - 1}, 24, scale=40.0)
    assert differ(result(fewer), serial) > 1e-3, "one correction fewer is not exact, or the test shows nothing"


@pytest.mark.parametrize("relaxation", ["F", "FCF"])
@pytest.mark.parametrize(
    "levels, coarsening, steps", [(3, 2, 24), pytest.param(4, 2, 24, marks=pytest.mark.slow), (3, 3, 28)]
)
def test_more_levels_converge_to_the_scheme(levels, coarsening, steps, relaxation):
    """In 28 steps by 3 the last run of both coarse levels is a short one."""
    words = {"levels": levels, "coarsening": coarsening, "tolerance": 1e-9, "relaxation": relaxation}
    parallel = network({"name": "layer_parallel", **words}, steps)
    assert differ(result(parallel), result(network({"name": "euler"}, steps))) < 1e-8
    runs = -(-steps // coarsening)
    assert 0 < max(parallel.solver.history.iterations) < runs - 1, "found by converging, not by coming to the end"


@pytest.mark.parametrize("relaxation, exact", [pytest.param("F", 11, marks=pytest.mark.slow), ("FCF", 6)])
def test_more_levels_are_exact_after_as_many_corrections_as_two(relaxation, exact):
    """Whatever the coarse maps, and counted: every evaluation of the V-cycles is in the formula of the model."""
    words = {"name": "layer_parallel", "levels": 3, "coarsening": 2, "tolerance": 0.0, "relaxation": relaxation}
    serial = result(network({"name": "euler"}, 24, scale=40.0))
    parallel = network(words, 24, scale=40.0)
    assert differ(result(parallel), serial) <= 1e-11 * float(serial[1].abs().max())
    assert parallel.solver.history.iterations == (exact, exact)
    assert parallel.stats.nfe == evaluations(24, (12, 6), exact, relaxation == "FCF")


def test_more_levels_with_a_memory_output_times_and_a_warm_start():
    """Momentum's velocity, outputs within runs of both levels, and a second solve that begins where the first ended."""
    times = (0.0, 4 / 26, 0.3, 0.31, 25 / 26, 1.0)
    words = {"name": "layer_parallel", "levels": 3, "coarsening": 2, "tolerance": 1e-10, "warm_start": True}
    for scheme, tolerance in (("euler", 1e-10), ("momentum", 0.0)):
        parallel = network({**words, "of": scheme, "tolerance": tolerance}, 26, control="constant")
        serial = result(network({"name": scheme}, 26, control="constant"), times)
        assert differ(result(parallel, times), serial) < 1e-8
        assert differ(result(parallel, times), serial) < 1e-8
        assert parallel.solver.history.iterations[0] == 0 or tolerance == 0


def test_the_errors_fall_by_the_iteration():
    """Inexact modes: state and gradient get better with each correction, by a factor of five and more."""
    serial = result(smooth(network({"name": "euler"}, 32)))
    errors = [
        differ(result(smooth(network({"name": "layer_parallel", "iterations": k, "tolerance": 0.0}, 32))), serial)
        for k in range(4)
    ]
    assert all(later < 0.2 * earlier for earlier, later in itertools.pairwise(errors)), errors


def test_the_mean_of_the_weights_is_a_better_coarse_law_than_one_of_them():
    counts = {}
    for coarse in ("mean", "pick"):
        flow = network({"name": "layer_parallel", "coarse": coarse, "tolerance": 1e-9}, 32)
        result(flow)
        counts[coarse] = flow.solver.history.iterations
    assert counts["mean"][0] < counts["pick"][0] and counts["mean"][1] < counts["pick"][1], counts


def iterations_to_convergence(steps, coarsening, levels=2):
    words = {"name": "layer_parallel", "coarsening": coarsening, "tolerance": 1e-6, "levels": levels}
    flow = smooth(network(words, steps))
    result(flow)
    return flow.solver.history.iterations


@pytest.mark.slow
def test_iterations_do_not_grow_from_256_to_1024_layers():
    deep, deeper = iterations_to_convergence(256, 8), iterations_to_convergence(1024, 16)
    same_coarsening = iterations_to_convergence(1024, 8)
    assert deeper[0] <= deep[0] and deeper[1] <= deep[1], (deep, deeper)
    assert same_coarsening[0] <= deep[0] and same_coarsening[1] <= deep[1], (deep, same_coarsening)


@pytest.mark.slow
@pytest.mark.parametrize("levels", [3, 4])
def test_more_levels_cost_at_most_two_corrections_at_256_and_at_1024_layers(levels):
    for steps in (256, 1024):
        two, more = iterations_to_convergence(steps, 4), iterations_to_convergence(steps, 4, levels)
        assert all(a <= b <= a + 2 for a, b in zip(two, more, strict=True)), (steps, two, more)


@pytest.mark.parametrize(
    "control",
    [
        "constant",
        {"name": "galerkin", "degree": 3},
        {"name": "piecewise_constant", "pieces": 8},
        {"name": "feedback", "of": "piecewise_constant", "gains": "piecewise_constant", "pieces": 8},
    ],
)
def test_other_controls(control):
    words = {"control": control}
    parallel = network({"name": "layer_parallel", "of": "rk4", "tolerance": 1e-10}, 24, **words)
    assert differ(result(parallel), result(network({"name": "rk4"}, 24, **words))) < 1e-8


def test_output_times_running_costs_and_a_last_short_run():
    """Outputs at ends of runs, inside them and off the grid; 26 steps are six runs of 4 and one of 2."""
    costs = {"quadratures": [RunningCost(lambda t, x: (1 + t) * x.square().sum(1), weight=0.3)]}
    times = (0.0, 4 / 26, 0.3, 0.31, 25 / 26, 1.0)
    parallel = network({"name": "layer_parallel", "tolerance": 1e-10}, 26, control="constant", **costs)
    serial = network({"name": "euler"}, 26, control="constant", **costs)
    assert differ(result(parallel, times), result(serial, times)) < 1e-8


def test_gradients_of_output_times():
    slopes = []
    for solver in ({"name": "rk4"}, {"name": "layer_parallel", "of": "rk4", "tolerance": 0.0}):
        times = torch.tensor([0.0, 0.4, 0.9], dtype=torch.float64, requires_grad=True)
        flow = network(solver, 24, control="constant")
        slopes.append(torch.autograd.grad(flow.solve(batch(), times).states.sin().sum(), times)[0])
    assert torch.allclose(*slopes, atol=1e-12)


def test_a_stochastic_scheme_has_the_same_draws():
    noise = Noise(7, torch.arange(5))
    solver = {"name": "layer_parallel", "of": {"name": "fractal", "columns": 2, "drop_path": "local"}, "tolerance": 0.0}
    parallel, serial = network(solver, 8).train(), network(solver["of"], 8).train()
    assert differ(result(parallel, noise=noise), result(serial, noise=noise)) < 1e-12


def test_a_parameter_in_a_closure_gets_its_gradient():
    weight = torch.full((), 0.7, dtype=torch.float64, requires_grad=True)
    words = {"steps": 16, "tolerance": 1e-12}
    end = odeframe.solve(lambda t, x: -weight * x, batch(), (0.0, 1.0), "layer_parallel", **words).final
    (slope,) = torch.autograd.grad(end.sum(), weight)
    exact = -batch().sum() * (1 - weight.detach() / 16) ** 15
    assert abs(float(slope - exact)) < 1e-10
    plain = odeframe.solve(lambda t, x: -x, batch(), (0.0, 1.0), "layer_parallel", **words)
    assert not plain.states.requires_grad


def test_warm_start_saves_iterations():
    """The second solve of the same batch, after a small change of the weights, begins close to its result."""
    counts = {}
    for warm in (False, True):
        flow = network({"name": "layer_parallel", "tolerance": 1e-8, "warm_start": warm}, 32)
        result(flow)
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.mul_(1 + 1e-6)
        state, _ = result(flow)
        counts[warm] = flow.solver.history.iterations[0]
    assert counts[True] < counts[False], counts
    flow(torch.cat([batch(), batch()]))  # another shape begins anew
    assert state.shape == (2, 5, 4)


def test_history_counts_evaluations():
    """K corrections are (K + 1) sweeps of all layers and (K + 1) of one coarse step a run."""
    flow = network({"name": "layer_parallel", "iterations": 2, "tolerance": 0.0}, 24)
    result(flow)
    assert flow.solver.history.iterations == (2, 2)
    assert flow.stats.nfe == 3 * (24 + 6)


def test_refusals():
    wrong = {"coarsening": 1, "iterations": -1, "tolerance": -1.0, "relaxation": "CF", "coarse": "sum", "of": "dopri5"}
    wrong["levels"] = 1
    for option, value in wrong.items():
        with pytest.raises(InvalidOption):
            odeframe.build("solver", "layer_parallel", **{option: value})
    with pytest.raises(InvalidOption, match="without steps"):
        odeframe.build("solver", "layer_parallel", of={"name": "rk4", "steps": 3})
    with pytest.raises(InvalidOption, match=r"4 levels .* one interval of 8 steps .* at most levels: 3"):
        network({"name": "layer_parallel", "coarsening": 2, "levels": 4}, 8)(batch())
    flow = network({"name": "layer_parallel"}, 8)
    with pytest.raises(InvalidOption, match="no stop rules"):
        flow.solve(batch(), stop=lambda t, x, memory: x[:, 0] > 0)
    with pytest.raises(Incompatible, match=r"torch\.func"):
        torch.func.vmap(flow)(batch()[:, None])
    with pytest.raises(Incompatible, match="twice"):
        torch.autograd.grad(flow(batch()).sum(), list(flow.parameters()), create_graph=True)
    with pytest.raises(Incompatible, match="backprop"):
        network({"name": "layer_parallel"}, 8, gradient="checkpoint")
    with pytest.raises(Incompatible, match="dropout"):
        Flow(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), solver="layer_parallel")
    with pytest.raises(InvalidOption, match="no process group"):
        split_depth(flow)


def reference(steps, horizon=(0.0, 1.0)):
    """State, and gradients of stem, layers and head, of the serial network."""
    torch.manual_seed(3)
    stem, head = (nn.Linear(4, 4).double() for _ in range(2))
    return stem, network({"name": "euler"}, steps, horizon), head


def train(stem, flow, head):
    """One full forward and backward pass: the loss, and the bytes that the flow's layers gave autograd to keep."""
    x0, saved = stem(batch()), []
    with torch.autograd.graph.saved_tensors_hooks(lambda v: saved.append(v.nbytes) or v, lambda v: v):
        end = flow(x0)
    loss = head(end).square().mean()
    loss.backward()
    return loss.detach(), sum(saved)


def on_a_rank(rank, ranks, folder, options, steps):
    """Trains a slice of depth and leaves what it has."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks, timeout=TIME_OUT)
    stem, _, head = reference(steps)
    flow = network({"name": "layer_parallel", **options}, steps)
    own = split_depth(flow)
    loss, saved = train(stem, flow, head)
    layers = [[p.grad for p in flow.control.blocks[k].parameters()] for k in own]
    replicated = [p.grad for p in (*stem.parameters(), *head.parameters())]
    facts = {"size": sum(p.numel() for p in flow.parameters()), "sent": flow.solver.history.sent}
    facts["iterations"] = flow.solver.history.iterations
    sweeps = facts["iterations"][0] * (2 if flow.solver.rule.fcf else 1) + 1
    facts["kept"] = saved // sweeps  # every sweep's graphs replace those of the one before
    torch.save((loss, list(own), layers, replicated, facts), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.timeout(90)
@pytest.mark.parametrize(
    "ranks, options",
    [
        (2, {"tolerance": 1e-10}),
        (4, {"tolerance": 1e-10}),
        pytest.param(4, {"tolerance": 1e-10, "relaxation": "FCF"}, marks=pytest.mark.slow),
        (2, {"tolerance": 1e-10, "levels": 4, "coarsening": 2}),
        (4, {"tolerance": 1e-10, "levels": 3, "coarsening": 2, "relaxation": "FCF"}),
    ],
    ids=["2", "4", "4 FCF", "2 of 4 levels", "4 of 3 levels, FCF"],
)
def test_ranks_equal_one_process(ranks, options, tmp_path):
    """Each rank has its layers alone; stem and head are the same on all; memory is one share, messages as predicted."""
    torch.set_num_threads(1)
    steps = 32
    stem, flow, head = reference(steps)
    loss, saved = train(stem, flow, head)
    expected = [p.grad for p in (*stem.parameters(), *head.parameters())]
    start_processes(on_a_rank, (ranks, str(tmp_path), options, steps), ranks, start_method="fork")
    covered, whole = [], sum(p.numel() for p in flow.parameters())
    for rank in range(ranks):
        found, own, layers, replicated, facts = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert abs(float(found - loss)) < 1e-6
        assert differ(replicated, expected) < 1e-6
        for k, gradients in zip(own, layers, strict=True):
            assert differ(gradients, [p.grad for p in flow.control.blocks[k].parameters()]) < 1e-6
        covered += own
        assert facts["size"] == whole // ranks
        assert facts["kept"] == saved // ranks
        machine = Machine(state_bytes=batch().numel() * 8)
        shape = (options.get("coarsening", 4), facts["iterations"], "relaxation" in options, options.get("levels", 2))
        inside = layer_parallel(machine, steps, ranks, *shape)
        if 0 < rank < ranks - 1:
            assert facts["sent"] == (inside.messages, inside.sent)
    assert covered == list(range(steps))


def on_a_mesh(rank, folder, steps):
    """Two replicas of two slices each: the batch is split between the former, depth between the latter."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=4, timeout=TIME_OUT)
    mesh = dist.device_mesh.init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "depth"))
    flow = network({"name": "layer_parallel", "tolerance": 1e-10}, steps)
    own = split_depth(flow, mesh["depth"].get_group())
    replica = mesh["data"].get_local_rank()
    flow(batch()[:4][2 * replica : 2 * replica + 2]).square().mean().backward()
    for parameter in flow.parameters():
        dist.all_reduce(parameter.grad, group=mesh["data"].get_group())
        parameter.grad /= 2
    torch.save((list(own), [[p.grad for p in flow.control.blocks[k].parameters()] for k in own]), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.timeout(90)
def test_depth_and_data_in_a_mesh(tmp_path):
    torch.set_num_threads(1)
    flow = network({"name": "euler"}, 16)
    flow(batch()[:4]).square().mean().backward()
    start_processes(on_a_mesh, (str(tmp_path), 16), 4, start_method="fork")
    for rank in range(4):
        own, layers = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for k, gradients in zip(own, layers, strict=True):
            assert differ(gradients, [p.grad for p in flow.control.blocks[k].parameters()]) < 1e-6


def on_a_refusing_rank(rank, folder):
    """What cannot be split says so on every rank, before anybody waits."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=TIME_OUT)
    for control in ("constant", {"name": "galerkin", "degree": 3}, {"name": "piecewise_constant", "pieces": 1}):
        with pytest.raises(InvalidOption, match="two ranks"):
            split_depth(network({"name": "layer_parallel"}, 16, control=control))
    with pytest.raises(InvalidOption, match="smaller"):
        split_depth(network({"name": "layer_parallel", "coarsening": 16}, 16))
    with pytest.raises(InvalidOption, match="expected layer_parallel"):
        split_depth(network({"name": "euler"}, 16))
    flow = network({"name": "layer_parallel"}, 16)
    split_depth(flow)
    with pytest.raises(InvalidOption, match="split already"):
        split_depth(flow)
    with pytest.raises(InvalidOption, match="last time"):
        flow.solve(batch(), (0.0, 0.5, 1.0))
    with pytest.raises(InvalidOption, match=r"batches of \[5, 3\] samples .* give all of them the same x0"):
        flow(batch()[: 5 - 2 * rank])
    if rank == 1:
        with torch.no_grad():
            next(iter(flow.parameters())).fill_(float("nan"))
    with pytest.raises(SolveFailed, match="non-finite"):
        flow(batch())
    dist.destroy_process_group()


@pytest.mark.timeout(60)
def test_what_cannot_be_split_is_refused(tmp_path):
    start_processes(on_a_refusing_rank, (str(tmp_path),), 2, start_method="fork")


def test_the_model_adds_up():
    """By hand: 64 layers of 1 s in 16 runs on 4 ranks, 2 corrections, messages of 0.5 s, backward as costly."""
    machine = Machine(1.0, 4.0, 10.0, 5.0, latency=0.1, bandwidth=10.0, backward=1.0, copies=4.0)
    found = layer_parallel(machine, 64, 4, 4, 2)
    one_pass = 3 * (16 + 16 + 3 * 0.5) + 4 * 2 * 0.1 + 2 * 0.5
    assert found.seconds == pytest.approx(2 * one_pass + 4)
    assert found.memory == pytest.approx(16 * 45 + 4 * 5 + 8 * 4)
    assert (found.messages, found.sent) == (6, 24)
    assert found.speed_up == pytest.approx(128 / found.seconds)
    assert layer_parallel(machine, 64, 4, 4, 2, fcf=True).seconds == pytest.approx(
        found.seconds + 2 * 2 * (16 + 4 + 0.5)
    )
    assert layer_parallel(machine, 64, 1, 4, 0).seconds == pytest.approx(2 * (64 + 16) + 16)
    three = layer_parallel(machine, 64, 2, 4, 1, fcf=True, levels=3)
    work = 2 * 32 + 32 + 8 + (1 + 3) * 8 + 2 + 2 * 4  # fine, again for FCF, G there, between, G above, the last level
    assert three.seconds == pytest.approx(2 * (work + (2 + 2) * 0.5 + 3 * 0.1 + 0.5) + 10)
    assert three.memory == pytest.approx(32 * 45 + 10 * (5 + 8))
    assert three.messages == 2 * (2 + 2)
    assert serial_seconds(machine, 64) == 128


def test_the_model_s_crossing_point():
    """Few samples and large weights favour depth, many samples and small weights data."""
    small = Machine(parameter_bytes=1e9, state_bytes=1e3)
    ranks = crossing(small, 1024, 16, 1, batch=1)
    assert ranks is not None
    assert layer_parallel(small, 1024, ranks, 16, 1).seconds < data_parallel(small, 1024, ranks, 1).seconds
    below = ranks // 2
    if below > 1:
        assert layer_parallel(small, 1024, below, 16, 1).seconds >= data_parallel(small, 1024, below, 1).seconds
    assert crossing(Machine(parameter_bytes=1e3, least=0.0), 1024, 16, 1, batch=4096) is None
    with pytest.raises(InvalidOption, match="1025 ranks"):
        layer_parallel(small, 1024, 1025, 16, 1)
