"""Schemes that draw: moments of a step, weak and strong orders, replays, and what they refuse."""

import math

import pytest
import torch
from torch import nn

import odeframe
from odeframe import BranchedDynamics, Dynamics, Flow, Noise, StochasticDynamics
from odeframe.costs import RunningCost
from odeframe.field import FunctionField
from odeframe.testing import SolverConformance

DRAWS = 100_000


class TestBernoulliEuler(SolverConformance):
    solver = "bernoulli_euler"


class TestInvertedScaling(SolverConformance):
    solver = {"name": "bernoulli_euler", "scaling": "inverted", "schedule": "constant"}
    order = 1


class TestSDEScaling(SolverConformance):
    solver = {"name": "bernoulli_euler", "scaling": "sde", "survival": 0.8}


class TestShake(SolverConformance):
    solver = "shake"
    order = 1


class TestShakeSDE(SolverConformance):
    solver = {"name": "shake", "scaling": "sde"}
    order = 1


class TestEulerMaruyama(SolverConformance):
    solver = "euler_maruyama"
    order = 1  # of the drift alone, in evaluation


class Linear(Dynamics):
    """f(x) = a x."""

    def __init__(self, a):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def forward(self, t, x, u=None):
        return self.a * x


class Branches(BranchedDynamics):
    """f_i(x) = a_i x."""

    def __init__(self, *rates):
        super().__init__()
        self.rates = nn.Parameter(torch.tensor(rates, dtype=torch.float64))

    def branches(self, t, x, u=None):
        return tuple(a * x for a in self.rates)


class Geometric(StochasticDynamics):
    """dX = l X dt + m X dB: geometric Brownian motion."""

    def __init__(self, drift, spread):
        super().__init__()
        self.drift, self.spread = drift, spread

    def forward(self, t, x, u=None):
        return self.drift * x

    def diffusion(self, t, x, u=None):
        return self.spread * x


class Given:
    """A source of noise that returns given draws, ``draws(step, count)`` ``(batch, count)``, whatever is asked for."""

    def __init__(self, draws, step=None):
        self.draws, self.step = draws, step

    def on(self, step):
        return Given(self.draws, step)

    def uniform(self, like, shape=(), stream=0):
        return self.draws(self.step, math.prod(shape)).reshape(like.shape[0], *shape)

    normal = uniform

    def bernoulli(self, probability, like, shape=(), stream=0):
        return self.uniform(like, shape)


def moments(dynamics, solver, h=0.25, x=1.5):
    """Mean and variance of one step's increment over 1e5 draws, each with its standard error."""
    flow = Flow(dynamics, solver={**solver, "steps": 1}, horizon=(0, h))
    start = torch.full((DRAWS, 1), x, dtype=torch.float64)
    with torch.no_grad():
        d = (flow(start, noise=Noise(11)) - start).flatten()
        mean_only = float((flow.eval()(start[:1]) - start[:1]).item())
    variance = d.var()
    spread = ((d - d.mean()) ** 2 - variance).std()
    return (float(d.mean()), float(d.std()) / DRAWS**0.5), (float(variance), float(spread) / DRAWS**0.5), mean_only


@pytest.mark.parametrize("survival", [0.5, 0.8])
@pytest.mark.parametrize("scaling", ["depth", "inverted", "sde"])
def test_moments_of_a_coin_step(scaling, survival):
    """Mean p h f (h f where inverted); variance p (1 - p) h^2 f^2, (1 - p)/p h^2 f^2, p (1 - p) h f^2."""
    h, f, p = 0.25, 1.5 * 0.7, survival
    mean, variance, evaluated = moments(
        Linear(0.7), {"name": "bernoulli_euler", "scaling": scaling, "survival": p, "schedule": "constant"}
    )
    expected = h * f if scaling == "inverted" else p * h * f
    spread = {"depth": p * (1 - p) * h**2, "inverted": (1 - p) / p * h**2, "sde": p * (1 - p) * h}[scaling] * f**2
    assert abs(mean[0] - expected) < 3 * mean[1] and evaluated == pytest.approx(expected, rel=1e-12)
    assert abs(variance[0] - spread) < 3 * variance[1] + 1e-15
    assert variance[1] < 0.02 * spread  # so that the test can fail


@pytest.mark.parametrize(("scaling", "power"), [("depth", 2), ("sde", 1)])
def test_moments_of_a_shaken_step(scaling, power):
    """Mean h (f1 + f2)/2; variance h^2 (f1 - f2)^2 / 12, with h in the place of h^2 for the differential equation."""
    h, f = 0.25, (1.5 * 0.9, -1.5 * 0.3)
    mean, variance, evaluated = moments(Branches(0.9, -0.3), {"name": "shake", "scaling": scaling})
    assert abs(mean[0] - h * sum(f) / 2) < 3 * mean[1] and evaluated == pytest.approx(h * sum(f) / 2, rel=1e-12)
    assert abs(variance[0] - h**power * (f[0] - f[1]) ** 2 / 12) < 3 * variance[1]


def test_three_branches_are_mixed_uniformly_on_the_simplex():
    """Dirichlet(1, 1, 1): E w = 1/3, Var w = 1/18, Cov = -1/36."""
    f = torch.tensor([0.9, -0.3, 0.2], dtype=torch.float64)
    mean, variance, _ = moments(Branches(*f.tolist()), {"name": "shake"}, h=1.0, x=1.0)
    covariance = torch.full((3, 3), -1 / 36, dtype=torch.float64).fill_diagonal_(1 / 18)
    assert abs(mean[0] - float(f.mean())) < 3 * mean[1]
    assert abs(variance[0] - float(f @ covariance @ f)) < 3 * variance[1]


def test_moments_of_an_euler_maruyama_step():
    """Mean h f, variance h g^2."""
    mean, variance, evaluated = moments(Geometric(0.4, 0.6), {"name": "euler_maruyama"})
    assert abs(mean[0] - 0.25 * 0.4 * 1.5) < 3 * mean[1] and evaluated == pytest.approx(0.15, rel=1e-12)
    assert abs(variance[0] - 0.25 * (0.6 * 1.5) ** 2) < 3 * variance[1]


def weak_errors(dynamics, solver, points, weights, exact, counts, end=1.0):
    """|E x_N^3 - E X(T)^3| without sampling: on a linear problem E x_N^3 is the N-th power of one step's expectation,
    and a rule with these points and weights gives that exactly."""
    points, weights = (torch.tensor(v, dtype=torch.float64) for v in (points, weights))
    found = []
    for n in counts:
        flow = Flow(dynamics, solver={**solver, "steps": 1}, horizon=(0, end / n))
        start = torch.ones(len(points), 1, dtype=torch.float64)
        with torch.no_grad():
            factor = flow(start, noise=Given(lambda step, count: points[:, None])).flatten()
        found.append(abs(float((weights * factor**3).sum()) ** n - exact))
    return found


def slope(errors, counts):
    return math.log(errors[0] / errors[-1]) / math.log(counts[-1] / counts[0])


def third_moment(drift, spread):
    """E X(1)^3 of dX = l X dt + m X dB from 1: exp(3 l + 3 m^2)."""
    return math.exp(3 * drift + 3 * spread**2)


@pytest.mark.parametrize(("p", "order"), [(0.5, 1.0), (0.9, 0.5), (0.2, 0.5)])
def test_weak_order_of_the_coin_in_sde_scaling(p, order):
    """1 at p = 1/2; elsewhere the third moment of the coin leaves 1/2 in the limit."""
    a, counts = 0.8, (64, 256, 1024) if p == 0.5 else (2**16, 2**18, 2**20)
    errors = weak_errors(
        Linear(a),
        {"name": "bernoulli_euler", "scaling": "sde", "survival": p, "schedule": "constant"},
        (1.0, 0.0),
        (p, 1 - p),
        third_moment(p * a, math.sqrt(p * (1 - p)) * a),
        counts,
    )
    assert abs(slope(errors, counts) - order) < 0.1


def test_noise_of_plain_stochastic_depth_vanishes():
    """In depth scaling E x_N^3 tends to that of the equation x' = p a x, with order 1."""
    p, a, counts = 0.6, 0.8, (64, 256, 1024)
    solver = {"name": "bernoulli_euler", "survival": p, "schedule": "constant"}
    errors = weak_errors(Linear(a), solver, (1.0, 0.0), (p, 1 - p), third_moment(p * a, 0.0), counts)
    assert abs(slope(errors, counts) - 1) < 0.1


def test_weak_order_of_shake_in_sde_scaling():
    """1: the noise is symmetric.  Gauss' two points are exact for the uniform distribution and cubes."""
    a, b, counts = 0.9, -0.3, (64, 256, 1024)
    points = (0.5 - 0.5 / math.sqrt(3), 0.5 + 0.5 / math.sqrt(3))
    exact = third_moment((a + b) / 2, (a - b) / math.sqrt(12))
    errors = weak_errors(Branches(a, b), {"name": "shake", "scaling": "sde"}, points, (0.5, 0.5), exact, counts)
    assert abs(slope(errors, counts) - 1) < 0.1


def test_weak_order_of_euler_maruyama():
    """1; +-1 has the moments of the normal distribution that cubes see."""
    counts = (64, 256, 1024)
    errors = weak_errors(
        Geometric(0.5, 0.4), {"name": "euler_maruyama"}, (1.0, -1.0), (0.5, 0.5), third_moment(0.5, 0.4), counts
    )
    assert abs(slope(errors, counts) - 1) < 0.1


def test_strong_order_of_euler_maruyama():
    """1/2 on geometric Brownian motion, all step sizes along the same 2,000 paths."""
    drift, spread, finest, counts = 0.5, 0.8, 512, (8, 32, 128, 512)
    generator = torch.Generator().manual_seed(4)
    increments = torch.randn(2000, finest, dtype=torch.float64, generator=generator) / finest**0.5
    exact = torch.exp((drift - spread**2 / 2) + spread * increments.sum(1))
    errors = []
    for n in counts:
        coarse = increments.reshape(2000, n, -1).sum(2) * n**0.5
        flow = Flow(Geometric(drift, spread), solver={"name": "euler_maruyama", "steps": n})
        noise = Given(lambda step, count, coarse=coarse: coarse[:, step : step + 1])
        found = flow(torch.ones(2000, 1, dtype=torch.float64), noise=noise).flatten()
        errors.append(float((found - exact).abs().mean()))
    assert abs(slope(errors, counts) - 0.5) < 0.1


def test_mean_over_the_keyed_noise_is_that_of_the_recursion():
    """E x_N = (1 + h l)^N and E x_N^2 = ((1 + h l)^2 + h m^2)^N, by 50,000 samples of eight steps."""
    flow, n = Flow(Geometric(0.5, 0.4), solver={"name": "euler_maruyama", "steps": 8}), 50_000
    x = flow(torch.ones(n, 1, dtype=torch.float64), noise=Noise(2)).flatten()
    for power, exact in ((1, (1 + 0.5 / 8) ** 8), (2, ((1 + 0.5 / 8) ** 2 + 0.16 / 8) ** 8)):
        assert abs(float((x**power).mean()) - exact) < 3 * float((x**power).std()) / n**0.5


def test_survival_falls_linearly_with_depth():
    """p_n = 1 - n/N (1 - p_L), whatever part of the horizon is solved."""

    class One(Dynamics):
        def forward(self, t, x, u=None):
            return torch.ones_like(x)

    words = {"solver": {"name": "bernoulli_euler", "survival": 0.4, "steps": 5}, "horizon": (1.0, 6.0)}
    flow, x0 = Flow(One(), **words).eval(), torch.zeros(1, 1, dtype=torch.float64)
    states = flow.solve(x0, torch.arange(1.0, 7.0)).states.flatten()
    expected = [1 - n / 5 * 0.6 for n in range(1, 6)]
    assert states.diff().tolist() == pytest.approx(expected)
    later = Flow(One(), **{**words, "solver": {"name": "bernoulli_euler", "survival": 0.4, "dt": 1.0}}).eval()
    assert float(later.solve(x0, (3.0, 5.0)).final) == pytest.approx(sum(expected[2:4]))
    bare = odeframe.solve(lambda t, x: torch.ones_like(x), x0, (1.0, 6.0), "bernoulli_euler", steps=5, survival=0.4)
    assert float(bare.final) == pytest.approx(sum(expected))
    field = FunctionField(lambda t, x: x)
    with pytest.raises(odeframe.Incompatible, match="horizon"):
        odeframe.build("solver", "bernoulli_euler").solve(field, x0, (0.0, 1.0))


def test_running_costs_stand_beside_the_coin():
    """q = int 1 dt is the length of the horizon, and not a random number."""
    cost = RunningCost(lambda t, x: torch.ones_like(x[:, 0]))
    flow = Flow(Linear(0.7), solver={"name": "bernoulli_euler", "survival": 0.3}, horizon=(0, 2), quadratures=[cost])
    q = flow.solve(torch.ones(9, 1, dtype=torch.float64)).quadratures["running_cost"][-1]
    assert float((q.detach() - 2).abs().max()) < 1e-14


CASES = {
    "bernoulli_euler": lambda: Linear(0.7),
    "shake": lambda: Branches(0.9, -0.3),
    "euler_maruyama": lambda: odeframe.build("dynamics", "diffusion_mlp", width=3, scale=2.0).double(),
}


def flow_of(solver):
    torch.manual_seed(0)
    return Flow(CASES[solver](), solver={"name": solver, "steps": 4})


@pytest.mark.parametrize("solver", CASES)
def test_draws_replay_and_do_not_depend_on_the_batch(solver):
    flow, x0 = flow_of(solver), torch.rand(5, 3, dtype=torch.float64) + 0.5
    whole = flow(x0, noise=Noise(7))
    assert torch.equal(flow(x0, noise=Noise(7)), whole)
    alone = torch.cat([flow(x0[i : i + 1], noise=Noise(7, torch.tensor([i]))) for i in range(5)])
    assert float((alone - whole).detach().abs().max()) < 1e-14
    assert not torch.equal(flow(x0), flow(x0)) and torch.equal(flow.eval()(x0), flow(x0))
    z = (x0,)
    for step in flow.steps(noise=Noise(7)):
        z = step.step(z)
    assert torch.equal(z[0], whole)


@pytest.mark.parametrize("solver", CASES)
def test_gradient_of_given_draws_equals_central_differences(solver):
    flow, x0 = flow_of(solver), torch.rand(3, 3, dtype=torch.float64) + 0.5
    names, values = zip(*flow.named_parameters(), strict=True)

    def run(x, *parameters):
        words = (dict(zip(names, parameters, strict=True)), (x,), {"noise": Noise(5)})
        return torch.func.functional_call(flow, *words)

    inputs = (x0.requires_grad_(), *(v.detach().clone().requires_grad_() for v in values))
    assert torch.autograd.gradcheck(run, inputs)


def test_surrogate_draws_other_weights_backward():
    """Forward as without it; backward with the weights of another stream, which is no gradient and says so."""
    x0 = torch.ones(6, 1, dtype=torch.float64)
    plain, surrogate = (
        Flow(Branches(0.9, -0.3), solver={"name": "shake", "steps": 1, "surrogate": s}) for s in (False, True)
    )
    values = [flow(x0, noise=Noise(3)) for flow in (plain, surrogate)]
    assert float((values[0] - values[1]).detach().abs().max()) < 1e-15
    for flow, value, stream in ((plain, values[0], 0), (surrogate, values[1], 1)):
        (gradient,) = torch.autograd.grad(value.sum(), flow.dynamics.rates)
        w = Noise(3).on(0).uniform(x0, (1,), stream)
        assert gradient.tolist() == pytest.approx([float(w.sum()), float((1 - w).sum())], rel=1e-12)
        assert ("surrogate_gradient" in flow.solver.traits) == bool(stream)


@pytest.mark.parametrize("solver", CASES)
def test_adjoint_is_refused_by_name(solver):
    with pytest.raises(odeframe.Incompatible, match=r"adjoint.*stochastic"):
        Flow(CASES[solver](), solver=solver, gradient="adjoint")


def test_dynamics_without_the_part_are_refused_by_name():
    with pytest.raises(odeframe.Incompatible, match="branched"):
        Flow(Linear(0.7), solver="shake")
    with pytest.raises(odeframe.Incompatible, match="stochastic_dynamics"):
        Flow(Linear(0.7), solver="euler_maruyama")
    assert {"branched_mlp", "branched_conv"} <= set(odeframe.compatible("dynamics", solver="shake"))
    assert "diffusion_mlp" in odeframe.compatible("dynamics", solver="euler_maruyama")


def test_images_are_shaken_as_a_whole():
    """One mixture an image: Shake-Shake-Image."""
    torch.manual_seed(0)
    flow = Flow({"name": "branched_conv", "width": 2, "norm": "none"}, solver={"name": "shake", "steps": 1}).double()
    x0 = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    first, second = flow.dynamics.branches(torch.tensor(0.0), x0)
    eta = Noise(9).on(0).uniform(x0, (1,)).reshape(3, 1, 1, 1)
    found = flow(x0, noise=Noise(9))
    assert float((found - x0 - eta * first - (1 - eta) * second).detach().abs().max()) < 1e-14


@pytest.mark.parametrize(
    ("solver", "options"),
    [
        ("bernoulli_euler", {"survival": 0.0}),
        ("bernoulli_euler", {"survival": 1.1}),
        ("bernoulli_euler", {"schedule": "cosine"}),
        ("bernoulli_euler", {"scaling": "half"}),
        ("shake", {"scaling": "inverted"}),
    ],
    ids=str,
)
def test_bad_options_are_refused(solver, options):
    with pytest.raises(odeframe.InvalidOption, match=next(iter(options))):
        odeframe.build("solver", solver, **options)
