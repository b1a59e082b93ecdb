"""Networks designed from schemes for stability, each with the property that it claims."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

import odeframe
from odeframe import Flow, Incompatible, InvalidOption, build, solve
from odeframe.specification import NetworkSpec
from odeframe.testing.architectures import ArchitectureConformance


class TestAntisymmetric(ArchitectureConformance):
    architecture = {"name": "antisymmetric", "width": 4, "blocks": 2}


class TestMidpoint(ArchitectureConformance):
    architecture = {"name": "midpoint", "width": 4, "blocks": 2}


class TestHamiltonian(ArchitectureConformance):
    architecture = {"name": "hamiltonian", "width": 4, "blocks": 2}
    solvers = ("verlet", "yoshida4", "dopri5")


class TestHamiltonianOfOneLayer(ArchitectureConformance):
    architecture = {"name": "hamiltonian", "width": 4, "blocks": 2, "layers": 1}
    solvers = ("verlet", "dopri5")


class TestParabolic(ArchitectureConformance):
    architecture = {"name": "parabolic", "width": 4, "blocks": 2}


class TestHyperbolic(ArchitectureConformance):
    architecture = {"name": "hyperbolic", "width": 4, "blocks": 2}
    solvers = ({"name": "leapfrog", "steps": 6},)


class TestLeapfrog(ArchitectureConformance):
    architecture = {"name": "leapfrog", "width": 4, "blocks": 2}
    solvers = ({"name": "leapfrog", "steps": 6},)


class TestIMEXNet(ArchitectureConformance):
    architecture = {"name": "imexnet", "width": 4, "blocks": 2}
    solvers = ("ars222", {"name": "rk4", "steps": 4}, "dopri5")


class TestAugmentedNeuralODE(ArchitectureConformance):
    architecture = {"name": "augmented_neural_ode", "augment": 2, "hidden": 4}


class TestSecondOrderODE(ArchitectureConformance):
    architecture = {"name": "second_order_ode", "width": 4}


class TestSecondOrderODEFromRest(ArchitectureConformance):
    architecture = {"name": "second_order_ode", "width": 4, "velocity": "rest"}


def undone(flow: Flow, x: Tensor) -> Tensor:
    """The start of a flow, from its end by the inverse of each step."""
    field = flow.field()
    nodes = flow.solver.grid(field, flow.times(None)).nodes
    laws = [field.on(t, t_next, k) for k, (t, t_next) in enumerate(itertools.pairwise(nodes))]
    memory = laws[0].stepper(flow.solver).init(laws[0], nodes[0], x)
    for t, t_next, law in zip(nodes, nodes[1:], laws, strict=False):
        x, memory = law.stepper(flow.solver).step(law, t, float(t_next - t), x, memory)
    for t, t_next, law in reversed(list(zip(nodes, nodes[1:], laws, strict=False))):
        x, memory = law.stepper(flow.solver).reverse_step(law, t, float(t_next - t), x, memory)
    return x


def deep_flow(name: str, blocks: int, dtype: torch.dtype, **options: object) -> Flow:
    """The flow of a network of that many blocks on vectors, with weights of norm about 1 and steps of 0.1."""
    torch.manual_seed(0)
    made = build("architecture", name, width=16, blocks=blocks, step=0.1, **options)
    return made.build(NetworkSpec((16,), (3,))).flows[0].to(dtype)


REVERSIBLE = [
    ("hamiltonian", {}),
    ("hamiltonian", {"layers": 1}),
    ("midpoint", {}),
    ("hyperbolic", {}),
    ("leapfrog", {}),
]


@pytest.mark.parametrize(("name", "options"), REVERSIBLE)
@pytest.mark.parametrize(
    ("blocks", "dtype", "bound"),
    [(100, torch.float32, 1e-5), pytest.param(1000, torch.float64, 1e-10, marks=pytest.mark.slow)],
)
def test_every_block_is_undone(name: str, options: dict, blocks: int, dtype: torch.dtype, bound: float) -> None:
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    with torch.no_grad():
        assert float((undone(deep_flow(name, blocks, dtype, **options), x) - x).abs().max()) <= bound


@pytest.mark.parametrize(("name", "shape"), [("antisymmetric_mlp", (6,)), ("antisymmetric_conv", (2, 4, 4))])
@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_antisymmetric_blocks_have_no_growing_mode(name: str, shape: tuple[int, ...], gamma: float) -> None:
    torch.manual_seed(0)
    block = build("dynamics", name, width=shape[0], activation="tanh", gamma=gamma).double()
    size = math.prod(shape)
    for x in torch.randn(5, 1, *shape, dtype=torch.float64):
        jacobian = torch.func.jacrev(lambda x: block(torch.tensor(0.0), x))(x).reshape(size, size)
        assert float(torch.linalg.eigvals(jacobian).real.max()) <= 1e-12


@pytest.mark.parametrize("name", ["hyperbolic", "leapfrog"])
@pytest.mark.parametrize("solver", ["euler", "rk4", "dopri5", "reversible_midpoint"])
def test_a_wave_equation_is_refused_a_solver_that_makes_heat_of_it(name: str, solver: str) -> None:
    """x' = -K^T act(K x + b) is parabolic; the message has the scheme and the network that were meant."""
    with pytest.raises(
        Incompatible, match=f"architecture '{name}' needs a solver with the trait 'second_order'"
    ) as said:
        odeframe.compose(name, "digits", solver=solver)
    assert "A solver that fits the other choices: leapfrog" in str(said.value) and "parabolic" in str(said.value)
    assert odeframe.compatible("solver", architecture=name) == ["leapfrog"]
    with pytest.raises(Incompatible, match=r"'second_order'.* A solver that fits the other choices: leapfrog"):
        build("architecture", name).build(NetworkSpec((1, 8, 8), (10,)), solver=solver)


def test_perturbations_do_not_grow_exponentially() -> None:
    """Weights of one size, T = 20: an ordinary block amplifies what the antisymmetric one carries."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(32, 32, generator=generator, dtype=torch.float64) / 32**0.5
    x = torch.randn(8, 32, generator=generator, dtype=torch.float64)
    y = x + 1e-6 * torch.randn(8, 32, generator=generator, dtype=torch.float64)

    def growth(matrix: Tensor) -> float:
        solution = [solve(lambda t, x: torch.tanh(x @ matrix.t()), v, (0.0, 20.0), "dopri5", rtol=1e-9) for v in (x, y)]
        return float((solution[0].final - solution[1].final).norm() / (x - y).norm())

    plain, turned = growth(weight), growth(weight - weight.t())
    damped = growth(weight - weight.t() - 0.1 * torch.eye(32, dtype=torch.float64))
    assert turned < 20 < plain, f"random {plain:.1f}, antisymmetric {turned:.1f}"
    assert damped < turned


@pytest.mark.parametrize(("name", "shape"), [("symmetric_mlp", (6,)), ("symmetric_conv", (2, 5, 5))])
def test_parabolic_steps_contract_up_to_their_bound_and_not_beyond(name: str, shape: tuple[int, ...]) -> None:
    """All units on: the map is linear with the Jacobian -K^T K, and the bound h <= 2 / |K|^2 is sharp."""
    torch.manual_seed(0)
    block = build("dynamics", name, width=shape[0], activation="relu").double()
    with torch.no_grad():
        block.symmetric.affine.offset.bias.fill_(100.0)
    jacobian = torch.func.jacrev(lambda x: block(torch.tensor(0.0), x))(torch.zeros(1, *shape, dtype=torch.float64))
    values, axes = torch.linalg.eigh(jacobian.reshape(math.prod(shape), -1))
    assert float(values.max()) <= 1e-12, "the Jacobian is negative semi-definite"
    x = torch.zeros(1, *shape, dtype=torch.float64)
    y = x + 1e-3 * axes[:, 0].reshape(1, *shape)
    for factor, contracts in ((0.99, True), (1.01, False)):
        flow = Flow(block, solver={"name": "euler", "steps": 1}, horizon=(0.0, factor * 2 / float(-values[0])))
        assert (float((flow(x) - flow(y)).norm() / (x - y).norm()) <= 1) == contracts


def test_spectral_norm_keeps_a_parabolic_network_contracting_whatever_it_learns() -> None:
    torch.manual_seed(0)
    control = {"name": "spectral_norm", "of": "piecewise_constant"}
    flow = (
        build("architecture", "parabolic", blocks=8, step=1.9).build(NetworkSpec((16,), (3,)), control=control).flows[0]
    )
    flow.double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(20)
    x, y = torch.randn(2, 4, 16, dtype=torch.float64)
    assert bool(((flow(x) - flow(y)).norm(dim=1) <= (x - y).norm(dim=1) * (1 + 1e-2)).all())


def test_the_second_half_of_a_hamiltonian_state_is_zero_at_the_start() -> None:
    for shape in ((6,), (1, 8, 8)):
        network = build("architecture", "hamiltonian", width=8).build(NetworkSpec(shape, (3,)))
        assert not network.stages["stem"](torch.randn(2, *shape))[:, 4:].any()


class Line(nn.Module):
    """x -> -x by a flow on the line, or on the plane with one zero appended."""

    def __init__(self, augment: int, steps: int) -> None:
        super().__init__()
        made = build("architecture", "augmented_neural_ode", augment=augment, hidden=16)
        dynamics = {"name": "mlp", "hidden": 16, "time": True}
        self.network = made.build(
            NetworkSpec((1,), (1,)), dynamics=dynamics, solver={"name": "rk4", "steps": steps}
        ).double()
        self.network.stages["head"] = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)[:, :1]


def trained_loss(model: nn.Module, steps: int = 300) -> float:
    x = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(x) + x).square().mean()
        loss.backward()
        optimizer.step()
    return float(loss)


@pytest.mark.slow
def test_a_flow_on_the_line_cannot_exchange_two_points_and_an_augmented_one_can() -> None:
    """Paths do not cross: at best both end in the mean of the targets, where the loss is 1."""
    torch.manual_seed(0)
    assert trained_loss(Line(0, steps=20)) >= 0.99
    assert trained_loss(Line(1, steps=20)) < 0.01


def test_a_coarse_step_cheats_where_the_flow_cannot() -> None:
    """x + h f(x) with one Euler step is any map, x -> -x too: a network, but not its differential equation."""
    torch.manual_seed(0)
    dynamics = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    assert trained_loss(Flow(dynamics, solver={"name": "euler", "steps": 1})) < 0.01


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("hamiltonian", {"width": 5}, "multiple of 2"),
        ("second_order_ode", {"width": 5}, "even"),
        ("second_order_ode", {"velocity": "no"}, "learned"),
        ("augmented_neural_ode", {"augment": -1}, "augment"),
        ("antisymmetric", {"step": 0.0}, "step"),
    ],
)
def test_options_are_checked(name: str, options: dict, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        build("architecture", name, **options)


def test_options_of_blocks_are_checked() -> None:
    for name, options, said in (
        ("antisymmetric_mlp", {"gamma": -1.0}, "gamma"),
        ("antisymmetric_conv", {"kernel": 2}, "odd"),
        ("hamiltonian_mlp", {"layers": 3}, "layers"),
        ("hamiltonian_mlp", {"layers": 1, "hidden": 3}, "hidden"),
        ("acceleration_mlp", {}, "even"),
    ):
        with pytest.raises(InvalidOption, match=said):
            build("dynamics", name, width=4 if options else 5, **options)
