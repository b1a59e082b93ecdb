"""Step maps: they compose to the flow, and Pontryagin's principle on them is autograd."""

import pytest
import torch
from torch import nn

import odeframe
from odeframe import Flow
from odeframe.component import components
from odeframe.costs import KineticEnergy
from odeframe.drive import SequenceDrive
from odeframe.errors import Incompatible, InvalidOption
from odeframe.noise import Noise
from odeframe.solver import StepSolver
from odeframe.stepmap import ModuleStep, sharing_groups
from odeframe.testing.problems import Coupled, Ramp
from odeframe.testing.stepwise import cost, forward, objective, pontryagin, terminal
from problems import Driven, Rotation, batch

CONTROLS = {"tied": "constant", "a piece a step": "piecewise_constant", "computed": Ramp}
#: options without which a solver cannot be built
OPTIONS = {"hyper_euler": {"width": 4}}


def step_solvers():
    """The registered step solvers whose dependencies are installed."""
    named = set(odeframe.available("solver"))
    return sorted(c.name for c in components("solver") if "step" in c.part.traits and not c.missing and c.name in named)


def flow_of(solver, control="constant", quadratures=(), **options):
    torch.manual_seed(3)
    word = {"name": solver, "steps": 4, **OPTIONS.get(solver, {}), **options}
    control = control() if isinstance(control, type) else control
    return Flow(Coupled(), control, word, quadratures=quadratures).double().eval()


def noise_for(flow):
    return Noise(7) if "stochastic" in flow.solver.traits else None


@pytest.mark.slow
@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("solver", step_solvers())
def test_costates_and_gradients_of_every_step_solver(solver, control):
    """``p_k = -dJ/dz_k`` and ``sum dH_k/du = -dJ/du``, with a running cost, from the graphs of single steps."""
    flow, x0 = flow_of(solver, CONTROLS[control], [cost()]), batch(3, 4).requires_grad_(True)
    noise = noise_for(flow)
    found = torch.autograd.grad(objective(flow, x0, noise), [x0, *flow.parameters()])
    costates, gradients = pontryagin(flow.steps(noise=noise), (x0,))
    assert torch.allclose(costates[0][0], -found[0], atol=1e-10)
    for parameter, gradient in zip(flow.parameters(), found[1:], strict=True):
        assert torch.allclose(gradients[id(parameter)], -gradient, atol=1e-10)


@pytest.mark.parametrize("solver", ["euler", "rk4", "ab2"])
@pytest.mark.parametrize("sequence", [False, True], ids=["constant", "sequence"])
def test_context_has_a_costate(solver, sequence):
    """What is made upstream and read at every step gets the gradient of all of them."""
    flow, x0 = flow_of(solver, "piecewise_constant", [cost()]), batch(3, 4)
    value = batch(3, 4, 2, seed=2) if sequence else batch(3, 2, seed=2)
    value.requires_grad_(True)
    drive = SequenceDrive(value) if sequence else odeframe.drive.ConstantDrive(value)
    found = torch.autograd.grad(objective(flow, x0, None, drive), [value, *flow.parameters()])
    maps = flow.steps(drive)
    trail = forward(maps, (x0, value))
    assert torch.allclose(terminal(trail[-1]), objective(flow, x0, None, drive), atol=1e-12)
    costates, gradients = pontryagin(maps, (x0, value))
    assert torch.allclose(costates[0][1], -found[0], atol=1e-10)
    for parameter, gradient in zip(flow.parameters(), found[1:], strict=True):
        assert torch.allclose(gradients[id(parameter)], -gradient, atol=1e-10)


def test_a_network_is_its_step_maps():
    """Stem, flow, transition, flow, head: one composition, the running costs of both flows carried to the end."""
    torch.manual_seed(0)
    stem, middle, head = (nn.Linear(a, b).double() for a, b in ((3, 4), (4, 4), (4, 2)))
    first, second = flow_of("rk4", quadratures=[cost()]), flow_of("euler", "piecewise_constant", [KineticEnergy(0.2)])
    maps = [ModuleStep(stem), *first.steps(), ModuleStep(middle), *second.steps(carried=1), ModuleStep(head)]
    x = batch(5, 3)
    trail = forward(maps, (x,))
    one = first.solve(stem(x))
    two = second.solve(middle(one.final))
    assert torch.allclose(trail[-1][0], head(two.final), atol=1e-12)
    assert torch.allclose(sum(trail[-1][1:]), first.running_cost(one) + second.running_cost(two), atol=1e-12)
    parameters = [p for module in (stem, first, middle, second, head) for p in module.parameters()]
    found = torch.autograd.grad(terminal(trail[-1]), parameters)
    _, gradients = pontryagin(maps, (x,))
    for parameter, gradient in zip(parameters, found, strict=True):
        assert torch.allclose(gradients[id(parameter)], -gradient, atol=1e-10)


@pytest.mark.parametrize("control", CONTROLS)
def test_a_step_is_a_function_of_its_control(control):
    flow, x = flow_of("rk4", CONTROLS[control]), batch(3, 4)
    step = flow.steps()[2]
    u = step.read()
    assert not any(value.requires_grad for value in u.values())
    assert all(value.data_ptr() != p.data_ptr() for value, p in zip(u.values(), step.parameters(), strict=True))
    assert torch.equal(step.step((x,), u)[0], step.step((x,))[0]), "its own control is the default"
    changed = {name: (value + 0.1).requires_grad_(True) for name, value in u.items()}
    moved = step.step((x,), changed)[0]
    assert not torch.equal(moved, step.step((x,))[0])
    assert torch.equal(step.step((x,))[0], step.step((x,), u)[0]), "a step under another control leaves its own"
    grads = torch.autograd.grad(moved.sum(), list(changed.values()))
    assert all(bool(g.abs().sum() > 0) for g in grads)
    step.write(changed)
    assert torch.equal(step.step((x,))[0], moved)
    assert all(p.requires_grad and p.is_leaf for p in step.parameters())


def test_what_is_written_reaches_the_flow():
    flow, x = flow_of("euler", "piecewise_constant"), batch(3, 4)
    steps, before = flow.steps(), flow(x)
    steps[3].write({name: value + 0.5 for name, value in steps[3].read().items()})
    assert not torch.equal(flow(x), before)
    assert torch.allclose(forward(steps, (x,))[-1][0], flow(x), atol=1e-12)


def test_a_control_of_another_shape_is_refused():
    step = flow_of("euler").steps()[1]
    u = step.read()
    with pytest.raises(InvalidOption, match="got the names"):
        step.write({"weight": torch.zeros(1)})
    name = next(iter(u))
    with pytest.raises(InvalidOption, match="has shape"):
        step.write({**u, name: u[name][:1]})


def test_steps_that_share_parameters_are_one_group():
    tied, free = flow_of("rk4"), flow_of("rk4", "piecewise_constant")
    assert sharing_groups(tied.steps()) == [[0, 1, 2, 3, 4]]
    assert sharing_groups(free.steps()) == [[0, 1], [2], [3], [4]], "the starter reads the first piece"
    assert sharing_groups(flow_of("rk4", Ramp).steps()) == [[0, 1, 2, 3, 4]]
    shared = nn.Linear(4, 4).double()
    maps = [ModuleStep(shared), *free.steps(), ModuleStep(nn.Tanh()), ModuleStep(shared)]
    assert sharing_groups(maps) == [[0, 7], [1, 2], [3], [4], [5], [6]]
    assert sharing_groups([]) == []


def test_sharing_through_others_joins_groups():
    a, b, c = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    chain = [
        ModuleStep(nn.Sequential(a)),
        ModuleStep(nn.Sequential(b, c)),
        ModuleStep(nn.Sequential(a, b)),
        ModuleStep(c),
    ]
    assert sharing_groups(chain) == [[0, 1, 2, 3]]


def test_a_module_may_make_the_drive_of_what_follows():
    class Stem(nn.Module):
        def forward(self, x):
            return x[:, :2], odeframe.drive.ConstantDrive(x[:, 2:])

    flow, x = Flow(Driven(), solver={"name": "euler", "steps": 3}), batch(5, 4)
    drive = odeframe.drive.ConstantDrive(x[:, 2:])
    final = forward([ModuleStep(Stem()), *flow.steps(drive)], (x,))[-1]
    assert len(final) == 1
    assert torch.allclose(final[0], flow(x[:, :2], drive=drive), atol=1e-12)


def test_steps_need_a_step_solver_and_what_they_read():
    with pytest.raises(Incompatible, match="step maps need a step solver: got Dopri5"):
        Flow(Rotation(), solver="dopri5").steps()
    with pytest.raises(Incompatible, match="take no drive"):
        Flow(Rotation()).steps(batch(2, 2))
    flow = Flow(Driven(), solver="euler")
    with pytest.raises(InvalidOption, match="got 1 tensors, expected 2"):
        flow.steps(batch(3, 2))[0]((batch(3, 2),))


def test_blocks_of_several_slots():
    """A step that uses two different blocks: pieces x slots of parameters, each with its gradient."""

    class TwoBlocks(StepSolver):
        traits, slots, opaque = ("step",), 2, False

        def step(self, field, t, dt, x, memory):
            first, second = field.slots
            middle = x + dt / 2 * first(t, x)
            return middle + dt / 2 * second(t + dt / 2, middle), ()

    torch.manual_seed(0)
    flow, x = Flow(Coupled(), "piecewise_constant", TwoBlocks(steps=3), quadratures=[cost()]), batch(3, 4)
    blocks = len(list(Coupled().parameters()))
    assert len(list(flow.parameters())) == 3 * 2 * blocks
    found = torch.autograd.grad(objective(flow, x, None), list(flow.parameters()))
    _, gradients = pontryagin(flow.steps(), (x,))
    for parameter, gradient in zip(flow.parameters(), found, strict=True):
        assert bool(gradient.abs().sum() > 0)
        assert torch.allclose(gradients[id(parameter)], -gradient, atol=1e-10)
