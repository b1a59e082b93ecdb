"""Linear multistep methods: the kit's checks, classical coefficients, roots, LM-ResNet's coefficient."""

import pytest
import torch
from torch import nn

import odeframe
from odeframe import Flow, InvalidOption
from odeframe.testing import SolverConformance
from odeframe.testing.accuracy import fitted_slope, largest
from odeframe.testing.problems import Liouville


@pytest.fixture(autouse=True)
def double_precision():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class TestAB2(SolverConformance):
    solver = "ab2"


class AdamsChecks(SolverConformance):
    """Two of the kit's checks at step lengths where the starter's smaller error no longer shows."""

    def counts(self):
        return [64, 128, 256, 512]

    def test_solving_back_returns(self):
        x0, errors = Liouville.start(), []
        for n in self.counts():
            flow = self.flow(Liouville(), steps=n)
            errors.append(largest(flow.solve(flow(x0), (1.0, 0.0)).final - x0))
        assert fitted_slope(self.counts(), errors) >= self.claim() - 0.2  # one more for order 4: it nearly cancels


@pytest.mark.slow
class TestAB3(AdamsChecks):
    solver = "ab3"


class TestAB4(AdamsChecks):
    solver = "ab4"


class TestLM(SolverConformance):
    solver = {"name": "lm", "init": 0.3}


def rotation(t, x):
    return torch.stack([x[:, 1], -x[:, 0] * (1 + 0.3 * torch.cos(t))], dim=1)


CLASSICAL = {
    "ab2": (2, [3 / 2, -1 / 2]),
    "ab3": (3, [23 / 12, -16 / 12, 5 / 12]),
    "ab4": (4, [55 / 24, -59 / 24, 37 / 24, -9 / 24]),
}


class TestAdamsBashforth:
    @pytest.mark.parametrize("name", CLASSICAL)
    def test_equal_steps_have_the_classical_coefficients(self, name):
        order, weights = CLASSICAL[name]
        x0, h, times = torch.randn(3, 2), 0.1, torch.arange(13) * 0.1
        states = list(odeframe.solve(rotation, x0, times, name, steps=12).states)
        slopes = [rotation(t, x) for t, x in zip(times, states, strict=True)]
        for n in range(order - 1, 12):
            expected = states[n] + h * sum(w * slopes[n - j] for j, w in enumerate(weights))
            assert largest(states[n + 1] - expected) <= 1e-13

    @pytest.mark.parametrize(("name", "order"), [("ab2", 2), ("ab3", 3), ("ab4", 4)])
    def test_order_on_steps_of_very_different_length(self, name, order):
        """Each step is cut at 0.3 of its length by an output time: ratios of 3/7 and 7/3 throughout."""
        x0, errors, counts = torch.randn(3, 2), [], [32, 64, 128, 256]
        exact = odeframe.solve(rotation, x0, (0.0, 2.0), "rk4", steps=4000).final
        for n in counts:
            nodes = torch.arange(n) * (2.0 / n)
            times = torch.cat([nodes[:, None], nodes[:, None] + 0.6 / n], dim=1).flatten()
            solution = odeframe.solve(rotation, x0, torch.cat([times, torch.tensor([2.0])]), name, steps=n)
            assert solution.stats.accepted == 2 * n
            errors.append(largest(solution.final - exact))
        assert abs(fitted_slope(counts, errors) - order) <= 0.2

    def test_one_evaluation_a_step_and_a_starter_after_each_jump(self):
        flow = Flow(nn.Linear(2, 2), {"name": "piecewise_constant", "pieces": 3}, {"name": "ab4", "steps": 30})
        assert flow.solve(torch.randn(5, 2)).stats.nfe == 3 * (3 * 4 + 7)

    @pytest.mark.parametrize(("name", "limit"), [("ab2", 1.0), ("ab3", 6 / 11), ("ab4", 0.3)])
    def test_stability_on_the_negative_real_axis(self, name, limit):
        def end(z):
            return float(odeframe.solve(lambda t, x: -x, torch.ones(1, 1), (0.0, 400 * z), name, steps=400).final)

        assert abs(end(0.98 * limit)) < 1e-2 and abs(end(1.02 * limit)) > abs(end(0.98 * limit)) * 10


class TestLMResNet:
    def test_equals_a_hand_loop_with_a_coefficient_a_piece(self):
        flow, x0 = Flow(nn.Linear(3, 3), "piecewise_constant", {"name": "lm", "steps": 6}), torch.randn(4, 3)
        pieces, h = list(flow.control.blocks), 1 / 6
        d, x = h * pieces[0].slots[0](None, x0), x0
        for piece in pieces:
            k = 0.95 * torch.tanh(piece.solver.raw)
            d = -k * d + h * (1 + k) * piece.slots[0](None, x)
            x = x + d
        assert largest(flow(x0) - x) <= 1e-13
        assert len({float(piece.solver.k.detach()) for piece in pieces}) == 6
        assert all(-0.1 <= float(piece.solver.k.detach()) <= 0 for piece in pieces)

    @pytest.mark.parametrize("k", [-0.5, -0.1, 0.1, 0.5])
    def test_order_one_for_every_coefficient(self, k):
        x0, counts = torch.randn(3, 2), [64, 128, 256, 512]
        exact = odeframe.solve(rotation, x0, (0.0, 2.0), "rk4", steps=2000).final
        errors = [
            largest(odeframe.solve(rotation, x0, (0.0, 2.0), "lm", steps=n, init=k).final - exact) for n in counts
        ]
        assert abs(fitted_slope(counts, errors) - 1) <= 0.1

    def test_no_value_of_the_parameter_leaves_stability(self):
        """The second root is -k: on x' = 0 from a slope, nothing grows in 1,000 steps, however far raw is trained."""
        solver = odeframe.build("solver", "lm", steps=1000, delta=0.05)
        for raw in (-1e3, -3.0, 3.0, 1e3):
            with torch.no_grad():
                solver.raw.fill_(raw)
            assert abs(float(solver.k)) <= 0.95 + 1e-7
            kick = odeframe.solve(lambda t, x: (t == 0) * torch.ones_like(x), torch.zeros(1, 1), (0.0, 1.0), solver)
            assert abs(float(kick.final)) < 0.1

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"delta": 0.0}, "delta"),
            ({"init": 0.96}, "init"),
            ({"init": (0.0, 1.0, 2.0)}, "init"),
            ({"start": "x"}, "start"),
        ],
    )
    def test_options_are_checked(self, options, named):
        with pytest.raises(InvalidOption, match=named):
            odeframe.build("solver", "lm", **options)

    def test_rest_starts_without_a_slope(self):
        x0 = torch.randn(2, 2)
        end = odeframe.solve(
            lambda t, x: torch.ones_like(x), x0, (0.0, 0.1), "lm", steps=1, init=0.5, start="rest"
        ).final
        assert largest(end - x0 - 0.15) <= 1e-8  # h (1 + k) f; k is kept in float32 where that is the default
