"""Fractal steps: their layout, their orders, drop-path and extracted columns."""

import math

import pytest
import torch
from torch import nn

import odeframe
from odeframe import Dynamics, Flow, Noise
from odeframe.testing import SolverConformance


class TestFractal(SolverConformance):
    solver = "fractal"


class TestTwoColumnsWithLocalDrops(SolverConformance):
    solver = {"name": "fractal", "columns": 2, "drop_path": "local"}


class TestMixedDrops(SolverConformance):
    solver = {"name": "fractal", "drop_path": "mixed", "drop": 0.4}


class Layer(Dynamics):
    """f(x) = s tanh(W x + b) with a scale of its own."""

    def __init__(self, width=4):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.ones(()))
        self.double()

    def reset_parameters(self):
        nn.init.ones_(self.scale)

    def forward(self, t, x, u=None):
        return self.scale * torch.tanh(self.linear(x))


X0 = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def flow_of(**options):
    torch.manual_seed(0)
    return Flow(Layer(), "piecewise_constant", {"name": "fractal", "steps": 3, **options}, horizon=(0, 3))


def by_recursion(z, blocks, h):
    """f_{C+1}(z) = mean(unit(z), f_C(f_C(z))) with neighbouring joins merged: the values that arrive at the last join.

    ``blocks[j]`` are column j's, in order; the columns below take the first or the second half of theirs.
    """
    unit = z + h * blocks[0][0](None, z)
    if len(blocks) == 1:
        return [unit]
    halves = [
        [column[: len(column) // 2] for column in blocks[1:]],
        [column[len(column) // 2 :] for column in blocks[1:]],
    ]
    middle = torch.stack(by_recursion(z, halves[0], h / 2)).mean(0)
    return [unit, *by_recursion(middle, halves[1], h / 2)]


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_equals_the_recursion(columns):
    """2^C - 1 blocks a step, each used once, in a composition of depth 2^(C-1)."""
    flow, x = flow_of(columns=columns), X0
    for piece in flow.control.blocks:
        slots = list(piece.slots)
        assert len(slots) == 2**columns - 1
        x = torch.stack(by_recursion(x, [slots[2**j - 1 : 2 ** (j + 1) - 1] for j in range(columns)], 1.0)).mean(0)
    solution = flow.eval().solve(X0)
    assert float((solution.final - x).detach().abs().max()) < 1e-14
    assert solution.stats.nfe == 3 * (2**columns - 1)
    gradients = torch.autograd.grad(solution.final.square().sum(), list(flow.parameters()))
    assert all(float(g.abs().max()) > 0 for g in gradients)


@pytest.mark.parametrize("columns", [2, 3])
def test_depth(columns):
    """Along the deepest path there are 2^(C-1) blocks: with f(x) = x the step is a polynomial of that degree in h."""
    degree = 2 ** (columns - 1)
    x0 = torch.ones(1, 1, dtype=torch.float64)
    values = [
        float(odeframe.solve(lambda t, x: x, x0, (0, h), "fractal", columns=columns, steps=1).final)
        for h in range(1, degree + 3)
    ]
    differences = torch.tensor(values, dtype=torch.float64)
    for _ in range(degree):
        differences = differences.diff()
    assert float(differences.abs().min()) > 1e-3 and float(differences.diff().abs().max()) < 1e-9


def slope(error, counts):
    return math.log(error(counts[0]) / error(counts[-1])) / math.log(counts[-1] / counts[0])


@pytest.mark.parametrize("column", [None, 0, 1, 2])
def test_equal_blocks_give_order_one_and_deeper_columns_less_error(column):
    """On a non-autonomous nonlinear system; column j is Euler's method with 2^j times as many steps."""
    A = torch.tensor([[0.0, 1.0], [-1.0, 0.2]], dtype=torch.float64)
    x0 = X0[:, :2]

    def field(t, x):
        return torch.cos(t) * torch.tanh(x @ A.T + 0.2)

    exact = odeframe.solve(field, x0, (0, 2), "rk4", steps=400).final

    def error(steps):
        found = odeframe.solve(field, x0, (0, 2), "fractal", columns=3, column=column, steps=steps).final
        return float((found - exact).norm())

    assert abs(slope(error, (40, 80, 160)) - 1) < 0.2
    if column is not None:
        euler = odeframe.solve(field, x0, (0, 2), "euler", steps=40 * 2**column).final
        assert error(40) == pytest.approx(float((euler - exact).norm()), rel=1e-10)


def test_heun_weights_give_order_two():
    """Blocks 0, 2 f, 2 f: x + h/2 f(x) + h/2 f(x + h f(x))."""
    torch.manual_seed(0)
    layer = Layer()
    exact = odeframe.solve(layer, X0, (0, 2), "rk4", steps=400).final

    def error(steps):
        flow = Flow(Layer(), "constant", {"name": "fractal", "columns": 2, "steps": steps}, horizon=(0, 2))
        for slot, scale in zip(flow.control.block.slots, (0.0, 2.0, 2.0), strict=True):
            slot.load_state_dict(layer.state_dict())
            slot.scale.data.fill_(scale)
        return float((flow(X0) - exact).norm().detach())

    assert abs(slope(error, (16, 32, 64)) - 2) < 0.2


def test_a_column_is_extracted_from_a_trained_flow():
    """Column j alone: 2^j blocks a step; back to all of them afterwards."""
    flow = flow_of(columns=3).eval()
    whole = flow(X0)
    for column in range(3):
        flow.solver.column = column
        x, evaluations = X0, 0
        for piece in flow.control.blocks:
            for block in list(piece.slots)[2**column - 1 : 2 ** (column + 1) - 1]:
                x, evaluations = x + block(None, x) / 2**column, evaluations + 1
        solution = flow.solve(X0)
        assert float((solution.final - x).detach().abs().max()) < 1e-14
        assert solution.stats.nfe == evaluations
    flow.solver.column = None
    assert torch.equal(flow(X0), whole)


def test_global_drops_leave_one_column_throughout():
    """Each sample is, exactly, the flow with one of its columns; all columns occur, a third each."""
    flow = flow_of(columns=3, drop_path="global")
    x0 = X0[:1].expand(600, 4)
    with torch.no_grad():
        found = flow(x0, noise=Noise(5))
        flow.solver.column = 0
        alone = [flow(X0[:1])]
        for column in (1, 2):
            flow.solver.column = column
            alone.append(flow(X0[:1]))
    distance = (found[:, None] - torch.cat(alone)).norm(dim=2)
    assert float(distance.min(1).values.max()) < 1e-13
    counts = torch.bincount(distance.argmin(1), minlength=3)
    standard_error = math.sqrt(600 * 2 / 9)
    assert float((counts - 200).abs().max()) < 3 * standard_error


def test_local_drops_keep_at_least_one_input():
    """Two columns that end at one join: each alone with probability d (1 - d) + d^2 / 2, both with (1 - d)^2."""
    drop, n = 0.4, 4000
    torch.manual_seed(0)
    flow = Flow(Layer(), "constant", {"name": "fractal", "columns": 2, "steps": 1, "drop_path": "local", "drop": drop})
    with torch.no_grad():
        found = flow(X0[:1].expand(n, 4), noise=Noise(1))
        both = flow.eval()(X0[:1])
        flow.solver.column = 0
        short = flow(X0[:1])
        flow.solver.column = 1
        deep = flow(X0[:1])
    distance = (found[:, None] - torch.cat([both, short, deep])).norm(dim=2)
    assert float(distance.min(1).values.max()) < 1e-13
    shares = torch.bincount(distance.argmin(1), minlength=3) / n
    for share, p in zip(shares.tolist(), ((1 - drop) ** 2, *2 * (drop * (1 - drop) + drop**2 / 2,)), strict=True):
        assert abs(share - p) < 3 * math.sqrt(p * (1 - p) / n)


def test_mixed_drops_are_half_global():
    torch.manual_seed(0)
    flow = Flow(Layer(), solver={"name": "fractal", "columns": 3, "steps": 2, "drop_path": "mixed", "drop": 0.0})
    x0, n = X0[:1], 2000
    with torch.no_grad():
        found, whole = flow(x0.expand(n, 4), noise=Noise(2)), flow.eval()(x0)
    share = float(((found - whole).norm(dim=1) < 1e-13).double().mean())  # drop = 0: local keeps all columns
    assert abs(share - 0.5) < 3 * math.sqrt(0.25 / n)


@pytest.mark.parametrize("drop_path", ["local", "global", "mixed"])
def test_draws_replay_and_do_not_depend_on_the_batch(drop_path):
    flow = flow_of(columns=3, drop_path=drop_path, drop=0.4)
    whole = flow(X0, noise=Noise(7))
    assert torch.equal(flow(X0, noise=Noise(7)), whole)
    alone = torch.cat([flow(X0[i : i + 1], noise=Noise(7, torch.tensor([i]))) for i in range(5)])
    assert float((alone - whole).detach().abs().max()) < 1e-14
    assert not torch.equal(flow(X0), flow(X0))
    assert torch.equal(flow.eval()(X0), flow(X0))


def test_stochastic_only_where_it_draws():
    assert "stochastic" in odeframe.build("solver", "fractal", drop_path="local").traits
    assert "stochastic" not in odeframe.build("solver", "fractal").traits
    with pytest.raises(odeframe.Incompatible, match="stochastic"):
        Flow(Layer(), solver={"name": "fractal", "drop_path": "local"}, gradient="adjoint")


@pytest.mark.parametrize(
    "options",
    [{"columns": 0}, {"columns": 13}, {"drop_path": "some"}, {"drop": 1.0}, {"columns": 2, "column": 2}],
    ids=str,
)
def test_bad_options_are_refused(options):
    with pytest.raises(odeframe.InvalidOption, match=list(options)[-1]):
        odeframe.build("solver", "fractal", **options)
    with pytest.raises(odeframe.InvalidOption, match="column"):
        odeframe.build("solver", "fractal").column = 3


@pytest.mark.slow
def test_each_column_alone_classifies_digits():
    """After training with mixed drop-path, every column is a classifier on its own, far above chance (10 %)."""
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.data / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    solver = {"name": "fractal", "columns": 3, "steps": 2, "drop_path": "mixed"}
    block = {"name": "mlp", "width": 32, "preactivate": True}
    flow = Flow(block, "piecewise_constant", solver, horizon=(0, 2))
    model = nn.Sequential(nn.Linear(64, 32), flow, nn.Linear(32, 10))
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(15):
        for batch in torch.randperm(1400).split(100):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    model.eval()
    with torch.no_grad():
        for column in (None, 0, 1, 2):
            flow.solver.column = column
            accuracy = (model(images[1400:]).argmax(1) == labels[1400:]).float().mean()
            assert accuracy > 0.8, f"column {column}: {accuracy:.3f}"
