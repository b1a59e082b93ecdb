"""Symplectic schemes: the kit's checks, bounded energy, the symplectic form, RevNet; leapfrog for second order."""

import itertools

import pytest
import torch
from torch import nn

import odeframe
from odeframe import Flow, InvalidOption, SecondOrderDynamics, SeparableDynamics
from odeframe.costs import RunningCost
from odeframe.testing import SolverConformance
from odeframe.testing.accuracy import fitted_slope, largest

SPLITTINGS = ("symplectic_euler", "verlet", "yoshida4")


class TestSymplecticEuler(SolverConformance):
    solver = "symplectic_euler"


class TestSymplecticEulerFromTheSecondHalf(SolverConformance):
    solver = {"name": "symplectic_euler", "starts": "second"}


class TestVerlet(SolverConformance):
    solver = "verlet"


class TestYoshida4(SolverConformance):
    solver = "yoshida4"


@pytest.fixture(autouse=True)
def double_precision():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Pendulum(SeparableDynamics):
    """q' = p, p' = -sin q, with the energy p^2 / 2 - cos q."""

    def first(self, t, z, u=None):
        return z

    def second(self, t, y, u=None):
        return -torch.sin(y)

    def energy(self, x):
        return x[..., 1].square() / 2 - torch.cos(x[..., 0])


class Coupling(SeparableDynamics):
    """y' = tanh(A z + a), z' = tanh(B y + b)."""

    def __init__(self, half=3):
        super().__init__()
        self.upper, self.lower = nn.Linear(half, half), nn.Linear(half, half)

    def first(self, t, z, u=None):
        return torch.tanh(self.upper(z))

    def second(self, t, y, u=None):
        return torch.tanh(self.lower(y))


class Spring(SecondOrderDynamics):
    """x'' = -K^T tanh(K x + b), the hyperbolic layer, with the energy |x'|^2 / 2 + sum log cosh(K x + b)."""

    def __init__(self, width=3):
        super().__init__()
        self.lift = nn.Linear(width, width)

    def forward(self, t, x, u=None):
        return -torch.tanh(self.lift(x)) @ self.lift.weight


def pendulum_drift(solver, steps, h=0.1):
    """|H - H_0| at 1,000 times, ``(1001, 3)``, from a small, a large and a whirling swing."""
    flow = Flow(Pendulum(), solver={"name": solver, "steps": steps}, horizon=(0.0, steps * h))
    x0 = torch.tensor([[0.5, 0.0], [2.5, 0.0], [0.0, 2.5]])
    with torch.no_grad():
        states = flow.solve(x0, torch.linspace(0, steps * h, 1001)).states
    energy = flow.dynamics.energy(states)
    return (energy - energy[0]).abs()


class TestEnergyOfThePendulum:
    BOUNDS = {"symplectic_euler": 0.12, "verlet": 4e-3, "yoshida4": 1e-5}

    @pytest.mark.parametrize("solver", SPLITTINGS)
    def test_bounded_over_four_thousand_steps(self, solver):
        self.check(solver, 4_000)

    @pytest.mark.slow
    @pytest.mark.parametrize("solver", SPLITTINGS)
    def test_bounded_over_a_hundred_thousand_steps(self, solver):
        self.check(solver, 100_000)

    def check(self, solver, steps):
        drift = pendulum_drift(solver, steps)
        assert drift.max() < self.BOUNDS[solver]
        assert drift[500:].max() < 1.05 * drift[:500].max()  # the second half of the time adds nothing

    def test_explicit_euler_gains_energy_without_bound(self):
        drift = pendulum_drift("euler", 1_000)
        assert drift[-1].min() > 1 and drift[500:].max() > 1.5 * drift[:500].max()

    @pytest.mark.parametrize(("solver", "order"), [("symplectic_euler", 1), ("verlet", 2), ("yoshida4", 4)])
    def test_the_bound_falls_with_the_order(self, solver, order):
        counts = [100, 200, 400]
        drifts = [float(pendulum_drift(solver, 10 * n, h=5 / n)[:, :2].max()) for n in counts]
        assert abs(fitted_slope(counts, drifts) - order) <= 0.2


class TestGeometry:
    @pytest.mark.parametrize("solver", SPLITTINGS)
    @pytest.mark.parametrize("starts", ["first", "second"])
    def test_steps_of_a_hamiltonian_system_keep_the_symplectic_form(self, solver, starts):
        flow = Flow(Pendulum(), solver={"name": solver, "steps": 7, "starts": starts}, horizon=(0.0, 2.0))
        jacobian = torch.autograd.functional.jacobian(lambda x: flow(x[None])[0], torch.tensor([1.0, 0.3]))
        form = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
        assert largest(jacobian.T @ form @ jacobian - form) <= 1e-13

    @pytest.mark.parametrize("solver", ["verlet", "yoshida4"])
    def test_symmetric_schemes_run_backwards_by_themselves(self, solver):
        flow, x0 = Flow(Coupling(), solver={"name": solver, "steps": 9}), torch.randn(4, 6)
        assert largest(flow.solve(flow(x0), (1.0, 0.0)).final - x0) <= 1e-13

    def test_revnet_is_symplectic_euler_with_a_piece_a_step(self):
        solver = {"name": "symplectic_euler", "steps": 8}
        flow, x0 = Flow(Coupling(), "piecewise_constant", solver, horizon=(0.0, 8.0)), torch.randn(4, 6)
        y, z = SeparableDynamics.split(x0)
        for piece in flow.control.blocks:
            y = y + piece.slots[0].first(None, z)
            z = z + piece.slots[0].second(None, y)
        assert largest(flow(x0) - torch.cat([y, z], dim=1)) <= 1e-14

    def test_which_half_goes_first_is_an_option(self):
        x0, h = torch.randn(4, 6), 0.1
        flow = Flow(Coupling(), solver={"name": "symplectic_euler", "steps": 1, "starts": "second"}, horizon=(0.0, h))
        y, z = SeparableDynamics.split(x0)
        z = z + h * flow.dynamics.second(None, y)
        y = y + h * flow.dynamics.first(None, z)
        assert largest(flow(x0) - torch.cat([y, z], dim=1)) <= 1e-15
        with pytest.raises(InvalidOption, match="starts"):
            odeframe.build("solver", "verlet", starts="third")

    @pytest.mark.parametrize("solver", SPLITTINGS)
    def test_other_dynamics_are_refused_with_what_would_fit(self, solver):
        with pytest.raises(odeframe.Incompatible, match="separable") as caught:
            Flow(nn.Linear(2, 2), solver=solver)
        assert solver in str(caught.value) and "rk4" in str(caught.value)

    @pytest.mark.parametrize("solver", ["verlet", "leapfrog"])
    def test_the_continuous_adjoint_is_refused_by_name(self, solver):
        with pytest.raises(odeframe.Incompatible, match="adjoint"):
            Flow(Spring() if solver == "leapfrog" else Coupling(), solver=solver, gradient="adjoint")

    def test_an_odd_state_is_refused(self):
        with pytest.raises(InvalidOption, match="two halves"):
            Flow(Pendulum(), solver="verlet")(torch.randn(2, 3))


class TestLeapfrog:
    def flow(self, steps, end=2.0, **words):
        torch.manual_seed(1)
        return Flow(Spring(), solver={"name": "leapfrog", "steps": steps}, horizon=(0.0, end), **words)

    def test_is_the_recursion_of_the_networks(self):
        flow, x0 = self.flow(6, end=3.0, control="piecewise_constant"), torch.randn(4, 3)
        forces = [piece.slots[0] for piece in flow.control.blocks]
        states, h = [x0, x0 + 0.5**2 / 2 * forces[0](None, x0)], 0.5
        for force in forces[1:]:
            states.append(2 * states[-1] - states[-2] + h**2 * force(None, states[-1]))
        assert largest(flow.solve(x0, torch.linspace(0, 3, 7)).states - torch.stack(states)) <= 1e-13

    def test_order_two_and_its_running_cost_too(self):
        x0, counts = torch.randn(3, 3), [16, 32, 64, 128]
        cost = RunningCost(lambda t, x: x.square().sum(1))
        exact = self.first_order(x0, 2.0)
        fine = self.flow(2048, quadratures=[cost]).solve(x0).quadratures["running_cost"][-1]
        solutions = [self.flow(n, quadratures=[cost]).solve(x0) for n in counts]
        errors = [largest(solution.final - exact) for solution in solutions]
        assert abs(fitted_slope(counts, errors) - 2) <= 0.1
        costs = [largest(solution.quadratures["running_cost"][-1] - fine) for solution in solutions]
        assert abs(fitted_slope(counts, costs) - 2) <= 0.2

    def first_order(self, x0, end):
        """x(end) of the doubled system (x, v)' = (v, F(x)), by many steps of order 4."""
        force = self.flow(1).dynamics

        def field(t, z):
            return torch.cat([z[:, 3:], force(t, z[:, :3])], dim=1)

        with torch.no_grad():
            return odeframe.solve(field, torch.cat([x0, 0 * x0], 1), (0.0, end), "rk4", steps=500).final[:, :3]

    def test_energy_is_bounded(self):
        flow, n = self.flow(2_000, end=200.0), 2_000
        with torch.no_grad():
            x = flow.solve(torch.randn(4, 3), torch.linspace(0, 200, n + 1)).states
            speed, place = (x[2:] - x[:-2]) / 0.2, x[1:-1]
            energy = speed.square().sum(2) / 2 + flow.dynamics.lift(place).cosh().log().sum(2)
        drift = (energy - energy[0]).abs()
        assert drift.max() < 0.01 and drift[n // 2 :].max() < 1.05 * drift[: n // 2].max()

    def test_unequal_steps_are_refused_in_one_line(self):
        with pytest.raises(InvalidOption, match="equal steps"):
            self.flow(4).solve(torch.randn(1, 3), (0.0, 0.3, 2.0))

    def test_first_order_dynamics_are_refused_by_name(self):
        with pytest.raises(odeframe.Incompatible, match="second_order"):
            Flow(nn.Linear(2, 2), solver="leapfrog")

    def test_the_same_block_is_parabolic_under_euler(self):
        """|x - y| contracts at h < 2 / |K|^2 (Ruthotto and Haber 2020), where leapfrog keeps energy instead."""
        dynamics = Spring()
        h = 1.9 / float(torch.linalg.matrix_norm(dynamics.lift.weight.detach(), 2)) ** 2
        flow = Flow(dynamics, solver={"name": "euler", "steps": 50}, horizon=(0.0, 50 * h))
        states = flow.solve(torch.randn(8, 3), torch.linspace(0, 50 * h, 51)).states.detach()
        gaps = [torch.pdist(x) for x in states]
        assert all(bool((after <= before + 1e-12).all()) for before, after in itertools.pairwise(gaps))
