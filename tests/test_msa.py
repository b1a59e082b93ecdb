"""Successive approximations, basic and extended: when they converge, what they refuse, what they remember."""

import itertools
import math

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

import odeframe
from odeframe import Architecture, Flow, Incompatible, InvalidOption, Network
from odeframe.costs import KineticEnergy
from odeframe.errors import CheckpointError, OdeframeError
from odeframe.module import FlowModule
from odeframe.pontryagin import of_batch, sweep
from odeframe.specification import DataSpec
from odeframe.testing.trainers import QUIET, LinearQuadratic, SmallData, TrainerConformance, Velocity
from odeframe_plugins.trainers.hamiltonian import ControlHamiltonian, groups_of
from odeframe_plugins.trainers.successive import Problem
from problems import batch

SPEC = DataSpec("small", (3,), "value", None, (2,), "regression")
SMALL = {"name": "resnet", "width": 4, "blocks": 3}


class TestEMSA(TrainerConformance):
    trainer = {"name": "emsa", "iterations": 3}
    epochs = 3


@pytest.mark.slow
class TestFixedEMSA(TrainerConformance):
    trainer = {"name": "emsa", "rho": 3.0, "adaptive": False, "iterations": 5}
    epochs = 8


@pytest.mark.slow
class TestEMSAOfATiedControl(TrainerConformance):
    trainer = {"name": "emsa", "inner": "closed_form", "iterations": 5}
    architecture = {"name": "neural_ode", "width": 4}
    options = {"solver": {"name": "rk4", "steps": 2}}
    epochs = 3


@pytest.mark.slow
class TestEMSAByAdam(TrainerConformance):
    trainer = {"name": "emsa", "inner": "adam", "iterations": 5}
    epochs = 4


class Steered(Architecture):
    """A frozen stem, and ``x' = u`` at a price for ``u``: where the basic method converges."""

    def assemble(self, spec, parts):
        stem = nn.Linear(3, 2).requires_grad_(False)
        flow = Flow(Velocity(2), "piecewise_constant", {"name": "euler", "steps": 3}, quadratures=[KineticEnergy(2.0)])
        return Network({"stem": stem, "flow": flow})


@pytest.mark.slow
class TestMSA(TrainerConformance):
    """Begun far from the optimum, of which the price leaves little more than the distance of the data."""

    trainer = "msa"
    architecture = Steered()
    epochs = 10

    def module(self):
        module = super().module()
        with torch.no_grad():
            for p in module.network.stages["flow"].parameters():
                p.fill_(3.0)
        return module


def module_of(trainer, architecture=SMALL, **options):
    torch.manual_seed(0)
    return FlowModule(SPEC.to_dict(), architecture, trainer=trainer, **options).double()


def problem_of(module):
    return Problem(*of_batch(module.network, module.task, SmallData().set.tensors), module.control_cost)


def weights(module):
    return TrainerConformance.weights(module).clone()


def sweeps_of(factor):
    """Enough to come within 1e-4 of the optimum, or to see that the error grows."""
    return math.floor(math.log(9e-5) / math.log(abs(factor))) + 1 if abs(factor) < 1 else 8


def slowly(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("inner", "ratio", "converges"),
    [
        ("closed_form", 0.5, True),
        ("closed_form", -0.5, True),
        ("closed_form", 1.25, False),
        slowly("closed_form", 0.8, True),
        slowly("lbfgs", 0.8, True),
        slowly("lbfgs", -0.8, True),
        slowly("lbfgs", 1.25, False),
    ],
)
def test_msa_converges_if_and_only_if_the_ratio_of_gain_and_price_is_below_one(inner, ratio, converges):
    """The error is multiplied by ``-g T / r`` in each sweep; the optimum is that of the discretised problem."""
    sweeps = sweeps_of(ratio)
    problem = LinearQuadratic(gain=ratio, price=2.0, horizon=2.0)
    found = problem.distance({"name": "msa", "inner": inner}, sweeps)
    assert found == pytest.approx(abs(ratio) ** sweeps, rel=1e-2)
    assert (found < 1e-4) == converges


@pytest.mark.parametrize(
    ("inner", "share", "converges"),
    [
        ("closed_form", 1.75, True),
        ("closed_form", 0.8, False),
        slowly("closed_form", 1.25, True),
        slowly("lbfgs", 1.25, True),
        slowly("lbfgs", 0.8, False),
    ],
)
def test_emsa_converges_if_and_only_if_rho_exceeds_its_bound(inner, share, converges):
    """The error is multiplied by ``(rho - g T) / (rho + r)``, so that the bound is ``rho = (g T - r) / 2``."""
    gain, price, horizon = 3.0, 1.0, 3.0
    rho = share * (gain * horizon - price) / 2
    factor = (rho - gain * horizon) / (rho + price)
    sweeps = sweeps_of(factor)
    trainer = {"name": "emsa", "rho": rho, "adaptive": False, "inner": inner}
    found = LinearQuadratic(gain, price, horizon).distance(trainer, sweeps)
    assert found == pytest.approx(abs(factor) ** sweeps, rel=1e-3)
    assert (found < 1e-4) == converges


@pytest.mark.slow
def test_adaptive_emsa_finds_its_rho():
    """Begun below the bound it converges all the same, to the optimum of the discretised problem."""
    assert LinearQuadratic(3.0, 1.0, 3.0).distance({"name": "emsa", "rho": 0.5}, 30) < 1e-4


def test_the_augmented_hamiltonian_is_that_of_the_definition():
    """Value by hand for the head, with the batch's factors; at the trajectory's own control the penalties vanish."""
    module = module_of("emsa")
    problem, rho = problem_of(module), 0.7
    swept = problem.sweep()
    plain, augmented = (ControlHamiltonian(swept, [5], weight) for weight in (0.0, rho))
    assert plain()[0] == pytest.approx(augmented()[0], rel=1e-14)
    for a, b in zip(plain()[1], augmented()[1], strict=True):
        assert torch.allclose(a, b, atol=1e-14), "and so do their slopes"
    head = module.network.stages["head"][0]
    x, after, _, p_next = (z[5 + i][0] for z in (swept.states, swept.costates) for i in (0, 1))
    before = head.weight.detach().clone()
    with torch.no_grad():
        head.weight.add_(0.1 * batch(2, 4, seed=5))
        moved = x @ (head.weight - before).T
        turned = p_next @ (head.weight - before)
        expected = (p_next * (after + moved)).sum() - rho / 2 * (moved.square().sum() / 16 + 16 * turned.square().sum())
    assert augmented.value() == pytest.approx(float(expected), rel=1e-12)
    assert augmented()[0] == augmented.value()


def test_the_penalty_of_a_step_is_per_length():
    """``rho / (2 h) |h (f - f_old)|^2``: halving ``h`` halves the penalty of the same change of ``f``."""

    def penalty(steps):
        flow = Flow(nn.Linear(2, 2), "constant", {"name": "euler", "steps": steps}).double()
        nn.init.zeros_(flow.dynamics.module.weight)
        swept = sweep(flow.steps(), (batch(4, 2),), lambda z: z[0].sum(1).mean())
        plain, augmented = ControlHamiltonian(swept, [1]), ControlHamiltonian(swept, [1], 1.0)
        with torch.no_grad():
            flow.dynamics.module.bias.add_(1.0)
        return plain.value() - augmented.value()

    assert penalty(4) == pytest.approx(0.25 * 0.5 * 2)
    assert penalty(8) == pytest.approx(0.5 * penalty(4))


def test_running_costs_are_not_penalised_and_controls_share_their_costs():
    """The sum of the groups' gains is the gain in ``sum H~ - R``: costs that couple pieces are counted once."""
    costs = {"kinetic_energy": 0.1, "control_smoothness": 0.05, "weight_decay": 0.01}
    module = module_of("emsa", costs=costs)
    problem = problem_of(module)
    swept = problem.sweep()
    assert problem.total(swept.objective) == pytest.approx(module.objective(SmallData().set.tensors).loss.item())

    def total():
        groups = [ControlHamiltonian(swept, group, 2.0) for group in groups_of(swept)]
        return sum(group.value() for group in groups) - float(module.control_cost())

    before = total()
    ascents, evaluations = module.rule.maximise(problem, swept, 2.0)
    assert sum(ascent.gain for ascent in ascents) == pytest.approx(total() - before, rel=1e-9)
    assert all(ascent.gain >= 0 for ascent in ascents)
    assert len(ascents) == 5, "stem, three pieces (the starter reads the first one) and head"
    assert evaluations >= 5


def test_the_closed_form_ends_where_the_slope_vanishes():
    """Stem and head are linear least squares: no slope is left; the blocks between are left to L-BFGS."""
    module = module_of({"name": "emsa", "inner": "closed_form"})
    swept = problem_of(module).sweep()
    for group in ([0], [5]):
        hamiltonian = ControlHamiltonian(swept, group, 0.5)
        start = max(float(slope.abs().max()) for slope in hamiltonian()[1])
        ascent = module.rule.search(hamiltonian)
        assert ascent.gain > 0
        assert max(float(slope.abs().max()) for slope in hamiltonian()[1]) < 1e-7 * start
        with torch.no_grad():
            best = hamiltonian.value()
            for p in hamiltonian.parameters:
                p.add_(1e-2)
        assert hamiltonian.value() < best
    block = ControlHamiltonian(swept, [3], 0.5)
    assert module.rule.search(block).gain > 0


def test_a_linear_hamiltonian_in_a_box_is_largest_in_its_corner():
    """The head of a network, by each of the searches."""
    for inner in ("closed_form", "lbfgs", "adam"):
        module = module_of({"name": "msa", "box": 0.5, "inner": inner, "iterations": 30, "inner_learning_rate": 0.1})
        hamiltonian = ControlHamiltonian(problem_of(module).sweep(), [5])
        slopes = hamiltonian()[1]
        module.rule.search(hamiltonian)
        for p, slope in zip(hamiltonian.parameters, slopes, strict=True):
            assert torch.allclose(p, 0.5 * slope.sign(), atol=1e-12), inner


def test_the_loss_of_a_batch_never_rises_and_rho_adapts():
    module = module_of({"name": "emsa", "rho": 0.01, "iterations": 4})
    problem, losses, rejected = problem_of(module), [], 0
    for _ in range(4):
        report = module.rule.improve(problem)
        losses.append(float(report.loss))
        rejected += report.rejected
    losses.append(problem.objective())
    assert all(after < before for before, after in itertools.pairwise(losses))
    assert rejected > 0 and module.rule.rho > 0.01


def test_rho_is_halved_after_successes():
    module = module_of({"name": "emsa", "rho": 50.0, "halve_after": 2, "iterations": 2})
    found = []
    for _ in range(4):
        module.rule.improve(problem_of(module))
        found.append((module.rule.rho, module.rule.successes))
    assert found == [(50.0, 1), (25.0, 0), (25.0, 1), (12.5, 0)]


def test_at_an_optimum_nothing_moves_and_nothing_is_raised():
    """A slope that round-off alone makes is no failure of the search."""
    module = module_of("emsa")
    x = SmallData().set.tensors[0]
    problem = Problem(*of_batch(module.network, module.task, (x, module.network(x).detach())))
    before = weights(module)
    report = module.rule.improve(problem)
    assert report.gain == 0 and float(report.loss) == 0
    assert torch.equal(weights(module), before)


def refused(module, match, error=OdeframeError):
    """Refused in a fit by one line, weights untouched."""
    before = weights(module)
    with pytest.raises(error, match=match) as found:
        pl.Trainer(max_epochs=1, devices=1, **QUIET).fit(module, datamodule=SmallData())
    assert "\n" not in str(found.value)
    assert torch.equal(weights(module), before)


def test_an_unbounded_argmax_is_refused():
    """A Hamiltonian that is linear in the control has no maximum without a box or a cost."""
    refused(module_of("msa"), r"the Hamiltonian of step 0 of 6 .*grows without bound.*box: 1.0", Incompatible)
    smooth = module_of("msa", costs={"control_smoothness": 0.1})
    refused(smooth, "grows without bound", Incompatible)


def test_a_cost_of_the_control_bounds_the_argmax():
    """Weight decay on the flow's control alone: stem and head have none, and need none where they are not trained."""
    module = module_of({"name": "msa"}, costs={"weight_decay": 0.1})
    for name in ("stem", "head"):
        module.network.stages[name].requires_grad_(False)
    report = module.rule.improve(problem_of(module))
    assert report.gain > 0
    without = module_of({"name": "msa"})
    for name in ("stem", "head"):
        without.network.stages[name].requires_grad_(False)
    with pytest.raises(Incompatible, match="grows without bound"):
        without.rule.improve(problem_of(without))


class Block(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), layer, nn.Tanh())

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize(("layer", "named"), [(nn.BatchNorm1d(4), "batch norm"), (nn.Dropout(0.2), "dropout")])
def test_layers_that_repeated_evaluation_changes_are_refused(layer, named):
    refused(module_of("emsa", dynamics=Block(layer), control={"name": "piecewise_constant", "init": "copy"}), named)


def test_parts_that_do_not_go_with_sweeps_are_refused():
    for trainer, options, named in (
        ("emsa", {"solver": "dopri5"}, "'step'"),
        ("msa", {"gradient": "adjoint"}, "'backprop'"),
        ("emsa", {"solver": "implicit_euler"}, "'implicit'"),
        ("emsa", {"control": "binary"}, "'discrete'"),
    ):
        with pytest.raises(Incompatible, match=named):
            module_of(trainer, **options)
    names = odeframe.compatible("solver", trainer="emsa")
    assert {"euler", "rk4", "ab2"} <= set(names) and "dopri5" not in names


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rho": 0.0}, "option rho: got 0.0, expected a finite number > 0"),
        ({"rho": -1.0}, "option rho"),
        ({"rho": math.nan}, "option rho"),
        ({"rho": math.inf}, "option rho: got inf, expected a finite number > 0"),
        ({"decrease": 1.0}, "option decrease"),
        ({"halve_after": 0}, "option halve_after"),
        ({"iterations": 0}, "option iterations"),
        ({"inner": "newton"}, "inner='newton'"),
        ({"inner_learning_rate": 0.0}, "option inner_learning_rate"),
        ({"inner_learning_rate": math.inf}, "option inner_learning_rate: got inf, expected a finite number > 0"),
    ],
)
def test_options_are_checked(options, named):
    with pytest.raises(InvalidOption, match=named):
        odeframe.build("trainer", "emsa", **options)


@pytest.mark.parametrize("box", [0.0, -1.0, math.inf])
def test_the_box_is_checked(box):
    with pytest.raises(InvalidOption, match="option box"):
        odeframe.build("trainer", "msa", box=box)


def test_a_search_without_any_ascent_is_refused():
    """Steps of a length at which every change is for the worse, at a slope that is not small."""
    trainer = {"name": "emsa", "inner": "adam", "inner_learning_rate": 1e9, "iterations": 1}
    refused(module_of(trainer), "'adam' found no ascent.*smaller inner_learning_rate", InvalidOption)


def test_steps_below_the_precision_are_told_to_be_larger():
    trainer = {"name": "emsa", "inner": "adam", "inner_learning_rate": 1e-30, "iterations": 1}
    refused(module_of(trainer), "'adam' found no ascent.*larger inner_learning_rate", InvalidOption)


@pytest.mark.parametrize("inner", ["lbfgs", "adam", "closed_form"])
def test_the_search_does_not_see_the_scale_of_the_objective(inner):
    """A loss that is all but zero is no failure of the search, however small its slopes are."""
    module = module_of({"name": "msa", "box": 2.0, "inner": inner})
    problem = problem_of(module)
    terminal = problem.terminal
    problem.terminal = lambda z: 1e-20 * terminal(z)
    before = problem.objective()
    report = module.rule.improve(problem)
    assert report.gain > 0 and problem.objective() != before


@pytest.mark.parametrize(
    ("trainer", "hint"), [("emsa", r"inf\. What"), ("msa", "inf, .* a smaller box, or trainer: emsa")]
)
def test_an_objective_that_is_no_number_is_refused(trainer, hint):
    module = module_of(trainer)
    with torch.no_grad():
        module.network.stages["head"][0].bias.fill_(math.inf)
    refused(module, f"the objective of the batch is {hint}")


def test_state_is_kept_and_that_of_others_refused():
    module = module_of({"name": "emsa", "rho": 8.0, "halve_after": 1})
    module.rule.improve(problem_of(module))
    other = module_of("emsa").rule
    other.load_state_dict(module.rule.state_dict())
    assert (other.rho, other.successes) == (4.0, 0)
    with pytest.raises(CheckpointError, match="expected a state with rho and successes"):
        other.load_state_dict({})
    with pytest.raises(CheckpointError, match="this one keeps none"):
        odeframe.build("trainer", "msa").load_state_dict({"rho": 1.0})


def test_what_a_fit_logs():
    module = module_of({"name": "emsa", "rho": 4.0, "iterations": 2})
    trainer = pl.Trainer(max_epochs=1, devices=1, **QUIET)
    trainer.fit(module, datamodule=SmallData())
    found = trainer.callback_metrics
    assert trainer.global_step == 2
    assert float(found["train_gain"]) > 0 and float(found["train_evaluations"]) > 10
    assert float(found["train_rejected"]) == 0 and float(found["train_rho"]) == 4.0
    assert min(float(found["train_nfe"]), float(found["train_nfe_backward"])) > 10, "sweeps and trials are counted"
    assert all(p.grad is None for p in module.parameters())


def test_a_network_whose_stem_drives_its_flow_is_trained():
    """Contexts are penalised like states: they are made by one step and read by others."""
    from problems import Driven

    class Lift(nn.Module):
        def __init__(self):
            super().__init__()
            self.start, self.drive = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            return self.start(x), odeframe.drive.ConstantDrive(self.drive(x))

    torch.manual_seed(0)
    flow = Flow(Driven(), "piecewise_constant", {"name": "euler", "steps": 3})
    network = Network({"stem": Lift(), "flow": flow, "head": nn.Linear(2, 2)}).double()
    rule = odeframe.build("trainer", "emsa")
    problem = Problem(*of_batch(network, odeframe.build("task", "regression"), SmallData().set.tensors))
    first = float(rule.improve(problem).loss)
    for _ in range(4):
        rule.improve(problem)
    assert problem.objective() < 0.5 * first


class Sine:
    """sin(x) on 32 points by ``x' = tanh(W(t) x + b(t))`` on (0, 5), 10 steps, 5 dimensions, the ends not trained."""

    class Ends(nn.Module):
        def __init__(self, lift):
            super().__init__()
            self.lift = lift

        def forward(self, x):
            return x.expand(-1, 5) if self.lift else x.mean(1, keepdim=True)

    def __init__(self, seed):
        torch.manual_seed(seed)
        block = nn.Sequential(nn.Linear(5, 5), nn.Tanh())
        flow = Flow(block, "piecewise_constant", {"name": "euler", "steps": 10}, horizon=(0.0, 5.0))
        self.network = Network({"stem": self.Ends(True), "flow": flow, "head": self.Ends(False)}).double()
        x = torch.linspace(-math.pi, math.pi, 32, dtype=torch.float64)[:, None]
        self.problem = Problem(*of_batch(self.network, odeframe.build("task", "regression"), (x, x.sin())))

    def losses(self, sweeps, name, **options):
        rule = odeframe.build("trainer", name, **options)
        found = [self.problem.objective()]
        for _ in range(sweeps):
            rule.improve(self.problem)
            found.append(self.problem.objective())
        return found


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", range(10))
def test_adaptive_emsa_never_raises_the_loss_on_the_sine_problem(seed):
    """20 iterations on 10 seeds, full batch: a sweep that is not taken is no iteration."""
    losses = Sine(seed).losses(20, "emsa")
    assert all(after <= before for before, after in itertools.pairwise(losses))
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_basic_msa_oscillates_on_the_sine_problem(seed):
    losses = Sine(seed).losses(8, "msa", iterations=5)
    assert sum(after > before for before, after in itertools.pairwise(losses)) >= 2, losses
