"""PolyNet's compositions: what they are for linear blocks, and what they are not for others."""

import itertools
import math

import pytest
import torch
from torch import nn

import odeframe
from odeframe import Flow
from odeframe.testing import SolverConformance


class TestPoly2(SolverConformance):
    solver = "poly2"


class TestPoly3(SolverConformance):
    solver = "poly3"


class TestMPoly2(SolverConformance):
    solver = "mpoly2"


class TestMPoly3(SolverConformance):
    solver = "mpoly3"


class TestTwoWay(SolverConformance):
    solver = "two_way"


class TestThreeWay(SolverConformance):
    solver = "three_way"


class TestTruncatedBackwardEuler(SolverConformance):
    solver = "truncated_backward_euler"


class TestFourTerms(SolverConformance):
    solver = {"name": "truncated_backward_euler", "terms": 4}


GENERATOR = torch.Generator().manual_seed(0)
A = torch.randn(4, 4, dtype=torch.float64, generator=GENERATOR) / 2
X0 = torch.randn(6, 4, dtype=torch.float64, generator=GENERATOR)


def one_step(solver, field, h, **options):
    return odeframe.solve(field, X0, (0, h), solver, steps=1, **options).final


def error_at(solver, h, **options):
    """The distance to the resolvent's (I - h A)^{-1} x for the linear block f(x) = A x."""
    exact = torch.linalg.solve(torch.eye(4, dtype=torch.float64) - h * A, X0.T).T
    return float((one_step(solver, lambda t, x: x @ A.T, h, **options) - exact).norm())


@pytest.mark.parametrize(
    ("solver", "options", "power"),
    [
        ("euler", {}, 2),
        ("poly2", {}, 3),
        ("poly3", {}, 4),
        ("mpoly2", {}, 3),  # one bare function for both of its blocks: poly-2
        ("mpoly3", {}, 4),
        ("truncated_backward_euler", {"terms": 1}, 2),
        ("truncated_backward_euler", {"terms": 2}, 3),
        ("truncated_backward_euler", {"terms": 3}, 4),
    ],
)
def test_linear_block_truncates_the_resolvent(solver, options, power):
    """|step - (I - h A)^{-1} x| = O(h^power): 1/8 when h halves for poly-2, where Euler's is 1/4."""
    errors = [error_at(solver, h, **options) for h in (0.04, 0.02, 0.01)]
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(2**power, rel=0.1)


def test_nested_form_is_the_same_polynomial_for_linear_blocks_alone():
    for terms, name in ((2, "poly2"), (3, "poly3")):
        linear = [
            one_step("truncated_backward_euler", lambda t, x: x @ A.T, 0.3, terms=terms),
            one_step(name, lambda t, x: x @ A.T, 0.3),
        ]
        assert float((linear[0] - linear[1]).abs().max()) < 1e-14
    bent = [
        one_step("truncated_backward_euler", lambda t, x: torch.tanh(x @ A.T), 0.3),
        one_step("poly2", lambda t, x: torch.tanh(x @ A.T), 0.3),
    ]
    assert float((bent[0] - bent[1]).abs().max()) > 1e-3


def errors_of(solver, field, counts=(40, 80, 160), **options):
    exact = odeframe.solve(field, X0, (0, 2), "rk4", steps=400).final
    return [float((odeframe.solve(field, X0, (0, 2), solver, steps=n, **options).final - exact).norm()) for n in counts]


def slope(errors):
    return math.log2(errors[0] / errors[-1]) / (len(errors) - 1)


@pytest.mark.parametrize("solver", ["poly2", "poly3"])
def test_nonlinear_block_has_order_one_and_is_no_better_than_euler(solver):
    """f(x) = tanh(A x), f(0) = 0: the order is that of backward Euler, and the constant is worse than Euler's."""
    found, euler = (errors_of(s, lambda t, x: torch.tanh(x @ A.T)) for s in (solver, "euler"))
    assert abs(slope(found) - 1) < 0.2 and abs(slope(euler) - 1) < 0.2
    assert found[0] > euler[0]


def test_biases_make_powers_another_equation():
    """Where f(0) != 0, poly-2 solves x' = f(x) + f(0); the nested form solves x' = f(x)."""
    bias = torch.tensor([0.3, -0.2, 0.1, 0.4], dtype=torch.float64)

    def field(t, x):
        return torch.tanh(x @ A.T + bias)

    assert min(errors_of("poly2", field)) > 1.0
    other = odeframe.solve(lambda t, x: field(t, x) + field(t, 0 * x), X0, (0, 2), "rk4", steps=400).final
    errors = [float((odeframe.solve(field, X0, (0, 2), "poly2", steps=n).final - other).norm()) for n in (80, 160, 320)]
    assert abs(slope(errors) - 1) < 0.2
    assert abs(slope(errors_of("truncated_backward_euler", field)) - 1) < 0.2


def hand_written(name, x, h, blocks):
    f = [lambda v, block=block: h * block(v) for block in blocks]
    return {
        "mpoly2": lambda: x + f[0](x) + f[1](f[0](x)),
        "mpoly3": lambda: x + f[0](x) + f[1](f[0](x)) + f[2](f[1](f[0](x))),
        "two_way": lambda: x + f[0](x) + f[1](x),
        "three_way": lambda: x + f[0](x) + f[1](x) + f[2](x),
    }[name]()


@pytest.mark.parametrize(("solver", "count"), [("mpoly2", 2), ("mpoly3", 3), ("two_way", 2), ("three_way", 3)])
def test_equals_a_hand_loop_over_blocks_of_its_own(solver, count):
    torch.manual_seed(1)
    block = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).double()
    flow = Flow(block, "piecewise_constant", {"name": solver, "steps": 3}, horizon=(0, 3))
    x = X0
    for piece in flow.control.blocks:
        assert len(piece.slots) == count
        x = hand_written(solver, x, 1.0, [slot.module for slot in piece.slots])
    assert float((flow(X0) - x).detach().abs().max()) < 1e-14
    assert len({float(p.detach().sum()) for p in flow.parameters()}) == 3 * count * 2


def test_adjoint_is_refused_for_powers_and_fits_the_nested_form():
    fitting = odeframe.compatible("solver", gradient="adjoint")
    assert "truncated_backward_euler" in fitting
    assert not {"poly2", "poly3", "mpoly2", "mpoly3", "two_way", "three_way"} & set(fitting)


def test_bad_number_of_terms_is_refused():
    with pytest.raises(odeframe.InvalidOption, match="terms"):
        odeframe.build("solver", "truncated_backward_euler", terms=0)
