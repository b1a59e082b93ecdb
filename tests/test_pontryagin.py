"""Pontryagin's principle on step maps: every costate and Hamiltonian gradient against autograd, float64."""

from contextlib import contextmanager

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringModel
from torch import nn

import odeframe
from odeframe import Flow, Network
from odeframe.compatibility import traits_of
from odeframe.component import components
from odeframe.costs import KineticEnergy, RunningCost
from odeframe.drive import ConstantDrive
from odeframe.errors import DataError, Incompatible, InvalidOption
from odeframe.module import FlowModule
from odeframe.monitor import PontryaginMonitor, largest_jump
from odeframe.plots_pontryagin import along_depth
from odeframe.pontryagin import cost_slots, costate_norms, hamiltonians, residuals, step_length, sweep
from odeframe.specification import DataSpec, NetworkSpec
from odeframe.stepmap import ModuleStep
from odeframe.testing.problems import Ramp
from odeframe.testing.trainers import QUIET, SmallData
from problems import Driven, batch

SPECS = {
    "two_moons": NetworkSpec((5,), (5,)),  # of one size, as densities have it
    "linear_quadratic": NetworkSpec((2,), (2,), "linear_quadratic"),
    "digits_rows": NetworkSpec((2, 3), (3,)),
    "digits": NetworkSpec((1, 6, 6), (3,)),
}
EXAMPLES = {part.name: dict(part.part.example) for part in components("solver")}


QUICK = ("euler", "rk4", "ab2")
SWEPT = odeframe.compatible("architecture", trainer="msa")
SINGULAR = {("controlled_system", "implicit_euler")}  # I - h A has no inverse at the step of 1 that the tests take


def spec_of(architecture, data):
    """A small one where the data leave the shapes open, else that of the data themselves."""
    if data in SPECS:
        shape = SPECS[data].input_shape
        return NetworkSpec(shape, shape) if "density" in traits_of("architecture", architecture) else SPECS[data]
    module = odeframe.compose(architecture, data=data).module
    return module.spec.network(module.task.output_shape(module.spec))


def networks(architecture, data, solvers):
    """The network of an architecture with each of the solvers that it goes with, and dynamics that both go with."""
    recipe, spec = odeframe.build("architecture", architecture), spec_of(architecture, data)
    for solver in solvers:
        fitting = odeframe.compatible("dynamics", architecture=architecture, data=data, solver=solver)
        if not fitting:
            continue
        torch.manual_seed(0)
        default = recipe.default("dynamics", spec)
        named = default["name"] if isinstance(default, dict) else default
        word = {} if named in fitting else {"dynamics": fitting[0]}
        network = recipe.build(spec, solver={"name": solver, **EXAMPLES[solver], "steps": 2}, **word).double().eval()
        for flow in {id(flow): flow for flow in network.flows}.values():  # one may be crossed several times
            flow.add_costs([RunningCost(lambda t, x: (1 + t) * x.flatten(1).square().sum(1), weight=0.3)])
        yield solver, network


def terminal(z):
    """A ``J`` that is a mean over the samples, running costs included."""
    return (z[0].flatten(1).sin().sum(1) + sum(z[1:])).mean()


def graph_of_all(steps, z, controls):
    """Every state on one graph, under a control of its own at each step, each a tensor of its own."""
    trail = [tuple(value.clone().requires_grad_(True) for value in z)]
    for step, u in zip(steps, controls, strict=True):
        after = (value.clone() for value in step.step(trail[-1], u))
        trail.append(tuple(value if value.requires_grad else value.requires_grad_(True) for value in after))
    return trail


def check(network, x):
    """The sweep against one backward over the whole network, and against the network's own pass."""
    steps = network.steps(x)
    swept = sweep(steps, (x,), terminal)
    outcome = network.run(x)
    J = (outcome.output.flatten(1).sin().sum(1) + (0 if outcome.cost is None else outcome.cost)).mean()
    assert torch.allclose(swept.objective, J, atol=1e-12)
    expected = torch.autograd.grad(J, list(network.parameters()), allow_unused=True, materialize_grads=True)
    ascent = swept.ascent()
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        assert float((ascent[parameter] + gradient).detach().abs().max()) <= 1e-10
    controls = [{name: value.requires_grad_(True) for name, value in step.read().items()} for step in steps]
    trail = graph_of_all(steps, (x,), controls)
    pairs = [both for z, p in zip(trail, swept.costates, strict=True) for both in zip(z, p, strict=True)]
    for u, gradient in zip(controls, swept.gradients, strict=True):
        pairs += [(u[name], slope) for name, slope in gradient.items()]
    slopes = torch.autograd.grad(
        terminal(trail[-1]), [value for value, _ in pairs], allow_unused=True, materialize_grads=True
    )
    for (_, found), slope in zip(pairs, slopes, strict=True):
        assert found.shape == slope.shape
        assert float((found + slope).abs().max()) <= 1e-10
    return swept


def kinds_of_data(architecture):
    fitting = odeframe.compatible("data", architecture=architecture)
    found = [d for d in [*SPECS, *fitting] if d in fitting]
    return [d for d in found if odeframe.compatible("dynamics", architecture=architecture, data=d)]


#: the one solver of a network that asks for a scheme of second order in time
ALONE = ("leapfrog",)


def check_all(architecture, data, solvers=None):
    fitting = set(odeframe.compatible("solver", architecture=architecture, data=data, trainer="msa"))
    wanted = [solver for solver in solvers or sorted(fitting & EXAMPLES.keys()) if solver in fitting]
    wanted = [solver for solver in wanted if (architecture, solver) not in SINGULAR]
    done = []
    for solver, network in networks(architecture, data, wanted):
        with naming(f"{architecture}, {data}, {solver}"):
            check(network, batch(2, *spec_of(architecture, data).input_shape))
        done.append(solver)
    return done


@contextmanager
def naming(case):
    """Says which combination of a loop it was."""
    try:
        yield
    except Exception as error:
        error.add_note(case)
        raise


@pytest.mark.parametrize("architecture", SWEPT)
def test_identity_for_every_architecture(architecture):
    """``p_k = -dJ/dz_k`` and ``dH_k/du = -dJ/du_k`` with a running cost, stem, transitions and head included."""
    data = kinds_of_data(architecture)[0]
    assert check_all(architecture, data, (*QUICK, *ALONE)), "none of the usual solvers goes with it"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("architecture", SWEPT)
def test_identity_for_every_architecture_and_step_solver(architecture):
    """The same for every registered step solver, on the first kind of data that it takes; on images for some."""
    found = kinds_of_data(architecture)
    alone = odeframe.compatible("solver", architecture=architecture) == list(ALONE)
    assert len(check_all(architecture, found[0])) >= (1 if alone else 10), "the registry has lost its solvers"
    if "digits" in found[1:]:
        assert check_all(architecture, "digits", ALONE if alone else QUICK)


class Lift(nn.Module):
    """A stem that makes a start and a drive of it."""

    def __init__(self):
        super().__init__()
        self.start, self.drive = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x):
        return self.start(x), ConstantDrive(self.drive(x))


@pytest.mark.parametrize("solver", ["euler", "rk4", "ab2", "reversible_midpoint"])
@pytest.mark.parametrize("control", ["constant", "piecewise_constant", Ramp])
def test_identity_with_a_stem_that_makes_a_drive(solver, control):
    """What is made upstream and read at every step has a costate, or the stem would get too little gradient."""
    torch.manual_seed(1)
    control = control() if isinstance(control, type) else control
    flow = Flow(Driven(), control, {"name": solver, "steps": 4}, quadratures=[RunningCost(lambda t, x: x[:, 0] ** 4)])
    late = Flow(nn.Linear(2, 2), "piecewise_constant", {"name": "heun", "steps": 2}, quadratures=[KineticEnergy(0.2)])
    network = Network({"stem": Lift(), "flow": flow, "turn": nn.Linear(2, 2), "late": late, "head": nn.Linear(2, 3)})
    swept = check(network.double(), batch(4, 3))
    slots = cost_slots(swept.steps, swept.states)
    assert all(slot == frozenset() for slot in slots[:1])
    assert slots[-1] == {1, 2}, "the head leaves its output and the running costs of both flows"
    assert slots[1] == {len(swept.states[2]) - 2}, "q lies between the memory and the drive"


def test_frozen_parameters_are_no_control():
    network = Network({"stem": nn.Linear(3, 2), "head": nn.Linear(2, 1)}).double()
    network.stages["stem"].bias.requires_grad_(False)
    swept = sweep(network.steps(), (batch(4, 3),), terminal)
    assert set(swept.gradients[0]) == {"module.weight"}
    assert len(swept.ascent()) == 3


def test_one_layer_s_graph_at_a_time():
    """What autograd is given to keep in a sweep: nothing in the forward pass, and a step's graph at a time backward."""
    torch.manual_seed(0)
    flow = Flow(nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 4)), "constant", {"name": "rk4", "steps": 32})
    alive, most = set(), 0

    class Kept:
        def __init__(self, value):
            nonlocal most
            self.value = value.detach()  # or it would be part of a cycle, and live on
            alive.add(id(self))
            most = max(most, len(alive))

        def __del__(self):
            alive.discard(id(self))

    def peak(run):
        nonlocal most
        most = 0
        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.value):
            run()
        return most

    x = batch(5, 4).float()
    of_one = peak(lambda: flow.steps()[1]((x.requires_grad_(True),)))
    assert of_one > 0
    assert peak(lambda: sweep(flow.steps(), (x,), terminal)) <= of_one + 4  # and the graph of J
    assert peak(lambda: flow(x)) > 20 * of_one


class Swirl(nn.Module):
    """``x' = tanh(W x)``: autonomous."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, t, x):
        return torch.tanh(self.linear(x))


def hamiltonian_of(control, steps, quadratures=()):
    torch.manual_seed(2)
    flow = Flow(Swirl(), control, {"name": "rk4", "steps": steps}, horizon=(0.0, 2.0), quadratures=quadratures).double()
    swept = sweep(flow.steps(), (batch(6, 3),), terminal)
    return torch.stack(list(hamiltonians(swept).values()))


@pytest.mark.parametrize("cost", [[], [KineticEnergy(0.5)]], ids=["terminal", "running"])
def test_the_hamiltonian_of_an_autonomous_flow_is_constant_along_depth(cost):
    """Up to ``h^2``, whatever the control's quality; a control that jumps makes it jump."""
    spread = {steps: float(H.max() - H.min()) for steps in (16, 32) for H in [hamiltonian_of("constant", steps, cost)]}
    size = float(hamiltonian_of("constant", 32, cost).abs().mean())
    assert spread[16] < 1e-3 * size
    assert spread[16] / spread[32] == pytest.approx(4, rel=0.1)
    jumps = hamiltonian_of({"name": "piecewise_constant", "pieces": 2}, 32, cost).diff().abs()
    assert int(jumps.argmax()) == 15
    assert float(jumps.max()) > 20 * float(jumps.sort().values[-2])


def test_residuals_and_norms():
    """The residual is the gradient's norm by step; a costate's norm is that of a sample, however many there are."""
    torch.manual_seed(0)
    flow = Flow(Swirl(), "constant", {"name": "euler", "steps": 3})
    network = Network({"stem": nn.Linear(2, 3), "flow": flow, "head": nn.Tanh()}).double()
    x = batch(4, 2)
    swept = sweep(network.steps(), (x,), terminal)
    J = terminal((network(x),))
    stem, linear = network.stages["stem"], flow.dynamics.linear
    grads = torch.autograd.grad(J, [*stem.parameters(), *linear.parameters()])
    found = residuals(swept)
    assert float(found[0]) == pytest.approx(float(torch.cat([g.reshape(-1) for g in grads[:2]]).norm()))
    tied = float(torch.cat([g.reshape(-1) for g in grads[2:]]).norm())
    assert [float(value) for value in found[1:5]] == [pytest.approx(tied)] * 4, (
        "a tied control is stationary as a whole"
    )
    assert float(found[5]) == 0
    shifted = residuals(swept, {stem.weight: -grads[0], stem.bias: -grads[1]})
    assert float(shifted[0]) == pytest.approx(0, abs=1e-14)
    twice = sweep(network.steps(), (x.repeat(2, 1),), terminal)
    assert torch.allclose(torch.stack(costate_norms(swept)), torch.stack(costate_norms(twice)))


def test_lengths_of_steps():
    flow = Flow(Swirl(), "constant", {"name": "rk4", "steps": 4}, horizon=(2.0, 0.0))
    assert [step_length(step) for step in [ModuleStep(nn.Linear(3, 3)), *flow.steps()]] == [1, 1, *[0.5] * 4]


@pytest.mark.parametrize(("layer", "named"), [(nn.BatchNorm1d(3), "batch norm"), (nn.Dropout(0.1), "dropout")])
def test_layers_that_change_by_being_evaluated_are_refused_in_training_alone(layer, named):
    network = Network({"stem": nn.Sequential(nn.Linear(3, 3), layer)}).double()
    with pytest.raises(Incompatible, match=f"{named} in training mode.*module.1"):
        sweep(network.steps(), (batch(4, 3),), terminal)
    check(network.eval(), batch(4, 3))


def test_a_solver_without_step_maps_is_refused():
    with pytest.raises(Incompatible, match="step maps need a step solver"):
        sweep(Flow(Swirl(), solver="dopri5").steps(), (batch(4, 3),), terminal)


def test_an_empty_objective_has_no_slope():
    """A last state that ``J`` does not depend on leaves zero costates, no error."""
    network = Network({"stem": nn.Linear(3, 3)}).double()
    swept = sweep(network.steps(), (batch(4, 3),), lambda z: torch.zeros((), dtype=torch.float64))
    assert all(float(p[0].abs().max()) == 0 for p in swept.costates)


class Twist(nn.Module):
    """A step map of one's own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3).double()

    def forward(self, z):
        return (self.layer(z[0]).tanh(),)


def half_square(z):
    return 0.5 * z[0].square().sum() / len(z[0])


def test_inference_mode_does_not_take_the_gradients_away():
    torch.manual_seed(0)
    steps, x = [Twist(), Twist()], batch(4, 3)
    expected = sweep(steps, (x,), half_square)
    with torch.inference_mode():
        found = sweep(steps, (x.clone(),), half_square)
    for ours, theirs in zip(found.gradients, expected.gradients, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert torch.equal(found.costates[0][0], expected.costates[0][0]) and float(found.costates[0][0].abs().max()) > 0


def test_states_are_tuples_and_the_objective_is_a_number():
    """A tensor is no state: taken for a tuple it would be its first sample."""
    x, steps = batch(4, 3), [Twist()]
    with pytest.raises(InvalidOption, match=r"first state z: got a Tensor.*\(x,\)"):
        sweep(steps, x, half_square)
    steps[0].forward = lambda z: steps[0].layer(z[0])
    with pytest.raises(InvalidOption, match=r"step 0 \(Twist\) returned: got a Tensor"):
        sweep(steps, (x,), half_square)
    for terminal, got in ((lambda z: z[0].sum(1), r"float64 of shape \(4,\)"), (lambda z: 3.0, "got float")):
        with pytest.raises(InvalidOption, match=f"terminal: .*{got}"):
            sweep([Twist()], (x,), terminal)


class Counting(PontryaginMonitor):
    """Notes the batches that it measures."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.last, self.measured = None, getattr(self, "measured", [])
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self.measured += [] if self.last is None else [batch_idx]


class TestMonitor:
    """The callback that watches Pontryagin's conditions."""

    @staticmethod
    def fit(tmp_path, monitor, **options):
        torch.manual_seed(0)
        spec = DataSpec("small", (3,), "value", None, (2,), "regression")
        module = FlowModule(spec.to_dict(), {"name": "resnet", "width": 4, "blocks": 3}, **options).double()
        trainer = pl.Trainer(max_epochs=1, devices=1, callbacks=[monitor], default_root_dir=tmp_path, **QUIET)
        trainer.fit(module, datamodule=SmallData(batch_size=16))
        return module, trainer

    def test_it_logs_the_residual_that_autograd_gives_and_draws(self, tmp_path):
        costs = {"weight_decay": 0.3}
        module, trainer = self.fit(tmp_path, PontryaginMonitor(every=1), costs=costs)
        loss = module.objective(SmallData().set.tensors).loss  # the measurement comes after the step
        grads = torch.autograd.grad(loss, list(module.network.parameters()))
        norm = float(torch.cat([g.reshape(-1) for g in grads]).norm())
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        assert found["pmp_residual"] == pytest.approx(norm, rel=1e-6)
        assert found["pmp_costate_last"] > 0 and found["pmp_costate_first"] > 0
        assert found["pmp_jump"] > 0, "an untrained control jumps, and so does its Hamiltonian"
        assert (tmp_path / "figures" / "pontryagin.png").stat().st_size > 10_000

    def test_it_changes_no_weight_and_measures_every_few_batches(self, tmp_path):
        watched, trainer = self.fit(tmp_path, PontryaginMonitor(every=2, picture=False))
        plain, _ = self.fit(tmp_path, pl.Callback())
        assert all(torch.equal(a, b) for a, b in zip(watched.parameters(), plain.parameters(), strict=True))
        assert "pmp_residual" not in trainer.callback_metrics, "of one batch there is no second"
        assert not (tmp_path / "figures").exists()

    def test_its_options_are_checked(self):
        with pytest.raises(InvalidOption, match="option every: got 0"):
            PontryaginMonitor(every=0)

    @pytest.mark.parametrize("words", [{"solver": "dopri5"}, {"dynamics": nn.Sequential(nn.BatchNorm1d(4))}])
    def test_what_has_no_repeatable_step_maps_is_refused_before_a_fit(self, words, tmp_path):
        with pytest.raises(Incompatible, match=r"PontryaginMonitor: .*(step solver|batch norm)"):
            self.fit(tmp_path, PontryaginMonitor(every=1000), **words)

    def test_a_module_without_step_maps_is_refused_before_a_fit(self, tmp_path):
        trainer = pl.Trainer(max_epochs=1, callbacks=[PontryaginMonitor()], default_root_dir=tmp_path, **QUIET)
        with pytest.raises(InvalidOption, match=r"got a BoringModel, expected an odeframe\.FlowModule"):
            trainer.fit(BoringModel())

    def test_batches_are_counted_under_accumulation_too(self, tmp_path):
        spec = DataSpec("small", (3,), "value", None, (2,), "regression")
        module, monitor = FlowModule(spec.to_dict(), {"name": "resnet", "width": 4}).double(), Counting(every=3)
        options = {**QUIET, "max_epochs": 1, "devices": 1, "accumulate_grad_batches": 4, "default_root_dir": tmp_path}
        pl.Trainer(callbacks=[monitor], **options).fit(module, datamodule=SmallData(batch_size=2))
        assert monitor.measured == [2, 5]

    def test_jumps_are_those_within_a_flow(self):
        assert largest_jump({}) == 0
        found = {1: torch.tensor(1.0), 2: torch.tensor(3.0), 5: torch.tensor(9.0)}
        assert largest_jump(found) == 2

    def test_a_picture_of_nothing_is_refused(self):
        with pytest.raises(DataError, match="0 residuals and 1 costates"):
            along_depth({}, [], [1.0])


def test_counts_of_a_batch_are_those_of_all_its_passes():
    """Sweeps through step maps, inner maximisations and attacks are counted like solves, and derivatives with them."""
    counted = {}
    for name in ("gradient", "emsa", "free", "ddp_feedback"):
        spec = DataSpec("small", (3,), "value", None, (2,), "regression")
        module = FlowModule(spec.to_dict(), {"name": "resnet", "width": 4}, trainer=name).double()
        trainer = pl.Trainer(max_steps=1, devices=1, **QUIET)
        trainer.fit(module, datamodule=SmallData())
        counted[name] = [float(trainer.callback_metrics[f"train_nfe{which}"]) for which in ("", "_backward")]
    layers = counted["gradient"][0]
    assert counted["gradient"] == [layers, layers] and layers > 0
    assert counted["free"] == [8 * layers, 8 * layers], "its default m"
    assert counted["ddp_feedback"][0] > layers and min(counted["emsa"]) > layers
