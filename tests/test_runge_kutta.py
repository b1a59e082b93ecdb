"""Explicit Runge-Kutta methods: their order conditions, orders of convergence, stability and dense output."""

import math
from fractions import Fraction

import pytest
import torch
from scipy.integrate._ivp import dop853_coefficients

import odeframe
from odeframe import InvalidOption
from odeframe.testing import SolverConformance
from odeframe.testing.accuracy import fitted_slope, march
from odeframe.testing.problems import Liouville
from odeframe_plugins.solvers import dop853, tableaus
from odeframe_plugins.solvers.dopri8 import DOPRI8
from odeframe_plugins.solvers.embedded import EmbeddedRungeKutta
from odeframe_plugins.solvers.explicit import METHODS
from odeframe_plugins.solvers.order_conditions import ElementaryWeights, density, rooted_trees, vertices
from odeframe_plugins.solvers.tableau import Tableau, rational_rows, rationals

GRID = ("euler", "midpoint", "heun", "ralston", "ssprk3", "rk4", "rk38")
PAIRS = ("bosh3", "dopri5", "tsit5", "dopri8", "dop853")


@pytest.fixture(autouse=True)
def double_precision():
    """Orders are fitted down to round-off of float64."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def field(t, x):
    """Non-autonomous, nonlinear, of dimension 2: an autonomous one would miss wrong nodes."""
    a, b = x.unbind(-1)
    return torch.stack([b * torch.cos(t), -a * b + torch.sin(2 * t)], -1)


START = torch.tensor([[1.0, 0.5], [0.3, -0.8]])


@pytest.fixture(scope="module")
def exact():
    """The states at three times within [0, 2], far more exact than what is tested."""
    start = START.double()
    with torch.no_grad():
        return odeframe.solve(field, start, (0.0, 0.7, 2.0), solver="dop853", rtol=3e-15, atol=1e-15).states


def slope(errors, counts):
    """Minus the slope of log error over log steps, between the first and the last count."""
    return math.log(errors[0] / errors[-1]) / math.log(counts[-1] / counts[0])


class TestOrderConditions:
    def test_there_are_as_many_rooted_trees_as_the_book_says(self):
        assert [len(rooted_trees(p)) for p in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]

    def test_density_of_the_tall_and_of_the_bushy_tree(self):
        tall, bushy = ((((),),),), ((), (), ())
        assert (vertices(tall), density(tall)) == (4, 24)
        assert (vertices(bushy), density(bushy)) == (4, 4)

    @pytest.mark.parametrize("name", METHODS)
    def test_every_tableau_has_the_claimed_order_and_no_more(self, name):
        tableau = METHODS[name]
        weights = ElementaryWeights(tableau.matrix)
        b = [float(v) for v in tableau.b]
        defects = {tree: abs(d) for tree, d in weights.defects(b, tableau.order + 1)}
        assert max(d for tree, d in defects.items() if vertices(tree) <= tableau.order) < 1e-13
        assert max(d for tree, d in defects.items() if vertices(tree) > tableau.order) > 1e-6

    @pytest.mark.parametrize("name", [n for n in METHODS if n not in ("tsit5", "dopri8", "dop853")])
    def test_rational_tableaus_hold_exactly(self, name):
        tableau = METHODS[name]
        rows = [(), *([Fraction(v) for v in row] for row in tableau.a)]
        defects = ElementaryWeights(rows).defects([Fraction(v) for v in tableau.b], tableau.order, Fraction(1))
        assert all(defect == 0 for _, defect in defects)

    @pytest.mark.parametrize("name", PAIRS)
    def test_the_embedded_method_has_the_claimed_order_and_no_more(self, name):
        tableau = METHODS[name]
        embedded = [float(v - e) for v, e in zip(tableau.b, tableau.b_error, strict=True)]
        defects = dict(ElementaryWeights(tableau.matrix).defects(embedded, tableau.b_error_order + 1))
        assert max(abs(d) for tree, d in defects.items() if vertices(tree) > tableau.b_error_order) > 1e-7

    def test_a_wrong_digit_is_refused(self):
        with pytest.raises(ValueError, match="order 4 is claimed"):
            Tableau(rational_rows("1/2\n 0 1/2\n 0 0 1"), rationals("1/6 1/3 1/3 1/5"), order=4)
        with pytest.raises(ValueError, match="order 3 is claimed"):
            Tableau(rational_rows("1/2"), rationals("0 1"), order=3)
        with pytest.raises(ValueError, match="rows of 1 to 1 numbers"):
            Tableau(rational_rows("1/2\n 1 1"), rationals("0 1"), order=2)
        good = tableaus.BOSH3
        with pytest.raises(ValueError, match="b - b_error"):
            Tableau(good.a, good.b, 3, b_error=good.b_error, b_error_order=3)

    def test_dop853_has_scipys_coefficients(self):
        scipy_rows = dop853_coefficients.A[1:12]
        ours = torch.zeros(11, 16)
        for i, row in enumerate(dop853.DOP853.a):
            ours[i, : len(row)] = torch.tensor([float(v) for v in row])
        torch.testing.assert_close(ours, torch.from_numpy(scipy_rows), rtol=0, atol=0)
        third = torch.tensor([float(v) for v in dop853.THIRD_ERROR])
        torch.testing.assert_close(third, torch.from_numpy(dop853_coefficients.E3[:12]), rtol=0, atol=1e-15)

    def test_stability_limits_of_the_literature(self):
        limits = {name: METHODS[name].stability_limit for name in ("euler", "heun", "rk4", "dopri5", "dop853")}
        known = {"euler": 2.0, "heun": 2.0, "rk4": 2.785, "dopri5": 3.307, "dop853": 6.39}
        assert limits == pytest.approx(known, abs=0.02)


@pytest.mark.parametrize("name", METHODS)
def test_order_of_convergence_on_a_grid(name, exact):
    order = METHODS[name].order
    counts = {5: (100, 200), 8: (8, 12, 16)}.get(order, (16, 32, 64))
    errors = []
    for count in counts:
        found = odeframe.solve(field, START.double(), (0.0, 2.0), solver="runge_kutta", method=name, steps=count)
        errors.append(float((found.final - exact[-1]).norm()))
    assert slope(errors, counts) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("name", GRID)
def test_named_grid_methods_are_their_tableaus(name):
    by_name = odeframe.solve(field, START.double(), (0.0, 1.0), solver=name, steps=5)
    by_word = odeframe.solve(field, START.double(), (0.0, 1.0), solver="runge_kutta", method=name, steps=5)
    assert torch.equal(by_name.states, by_word.states)
    assert by_name.stats.nfe == 5 * len(METHODS[name].b)


def test_evaluations_of_a_pair_on_a_grid_leave_out_the_last_stage():
    assert odeframe.solve(field, START.double(), (0.0, 1.0), "runge_kutta", method="dopri5", steps=5).stats.nfe == 30


def test_an_unknown_method_is_refused_with_the_nearest():
    with pytest.raises(InvalidOption, match=r"expected one of euler, .*Did you mean 'dopri5'"):
        odeframe.build("solver", "runge_kutta", method="topri5")


@pytest.mark.parametrize("name", PAIRS)
def test_dense_output_has_its_order_between_steps(name, exact):
    """One accepted step of length h from the same start, read at theta = 0.35: the defect is of order p + 1."""
    solver = odeframe.build("solver", name)
    law = odeframe.field.FunctionField(field).on(torch.tensor(0.0), torch.tensor(1.0))
    start, t = START.double(), torch.tensor(0.0)
    lengths = {"bosh3": (0.1, 0.05), "dop853": (0.3, 0.15)}.get(name, (0.4, 0.2))
    errors = []
    for h in lengths:
        attempt = solver.attempt(law, t, h, start, solver.init(law, t, start))
        attempt.law, attempt.t = law, t
        fine = odeframe.solve(field, start, (0.0, 0.35 * h), solver="dop853", rtol=3e-15, atol=1e-16).final
        errors.append(float((solver.interpolate(0.35, h, start, attempt) - fine).abs().max()))
        torch.testing.assert_close(solver.interpolate(1.0, h, start, attempt), attempt.x, rtol=0, atol=1e-12)
        torch.testing.assert_close(solver.interpolate(0.0, h, start, attempt), start, rtol=0, atol=1e-13)
    found = math.log2(errors[0] / errors[1])
    assert found > solver.dense_order + 0.6


@pytest.mark.parametrize("name", [n for n in PAIRS if n != "dop853"])
def test_dense_weights_satisfy_the_conditions_between_steps(name):
    cls = type(odeframe.build("solver", name))
    tableau = cls.tableau
    rows = [*tableau.matrix[: tableau.stages], [float(v) for v in tableau.b[: tableau.stages]]]
    weights = ElementaryWeights(rows)
    for theta in (0.1, 0.35, 0.8):
        b = [sum(float(v) * theta ** (p + 1) for p, v in enumerate(row)) for row in cls.dense]
        worst = max(abs(d) for _, d in weights.defects(b, cls.dense_order, theta))
        assert worst < 5e-12


def test_a_pair_without_error_weights_is_refused():
    with pytest.raises(TypeError, match="needs error weights"):
        type("Wrong", (EmbeddedRungeKutta,), {"tableau": tableaus.RK4})


def test_prince_dormand_is_not_first_same_as_last_and_dopri5_is():
    assert tableaus.DOPRI5.first_same_as_last and tableaus.TSIT5.first_same_as_last
    assert not DOPRI8.first_same_as_last


class Conformance(SolverConformance):
    """The counts of steps are those of the asymptotic range, which orders 5 and 8 reach late."""

    first_count = 8
    __test__ = False

    def counts(self):
        return [self.first_count * 2**i for i in range(4)]


class HighOrder(Conformance):
    """Order 8 meets round-off before its asymptotic range: the slope is at least the order."""

    first_count = 4

    def expect_order(self, error, order, hint):
        assert fitted_slope(self.counts(), [error(n) for n in self.counts()]) >= order - 0.2, hint


class EconomicalDenseOutput(HighOrder):
    """Prince-Dormand's dense output costs no evaluation and has order 5, less than the order of its steps minus one."""

    def test_order_of_attempts_and_of_dense_output(self):
        found = [march(self.make(), n, Liouville.start(device=self.device), self.exact) for n in self.counts()]
        assert fitted_slope(self.counts(), [end for end, _ in found]) >= 8 - 0.2
        assert fitted_slope(self.counts(), [middle for _, middle in found]) >= 6 - 0.2


FIRST = {"euler": 16, "midpoint": 16, "heun": 16, "ralston": 16, "ssprk3": 32, "rk38": 16, "bosh3": 16, "tsit5": 32}
for _name in (*GRID, "runge_kutta", *PAIRS):
    _parent = {"dopri8": EconomicalDenseOutput, "dop853": HighOrder}.get(_name, Conformance)
    _members = {"solver": _name, "first_count": FIRST.get(_name, _parent.first_count), "__test__": True}
    _class = f"Test{_name.title().replace('_', '')}Conformance"
    globals()[_class] = type(_class, (_parent,), _members)
