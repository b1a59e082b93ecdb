"""Densities by flows: closed forms, normalisation, the round trip, and what is refused."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import odeframe
from odeframe import DataError, Dynamics, Flow, Incompatible, InvalidOption, Noise, build
from odeframe.jacobian_costs import LogDensity
from odeframe.testing import ArchitectureConformance

CLOUDS = ("eight_gaussians", "checkerboard", "pinwheel", "rings", "spirals")
SMALL = {"name": "eight_gaussians", "n": 200}


class TestCNF(ArchitectureConformance):
    architecture = {"name": "cnf", "hidden": 8}
    input_shapes = ((3,),)
    output_shape = (3,)


class Linear(Dynamics):
    """``x' = A x``."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, t, x, u=None):
        return x @ self.matrix.t()


def module(**words):
    torch.manual_seed(0)
    return odeframe.compose("cnf", SMALL, **words).module.double()


def test_density_under_a_linear_field_is_the_normal_one():
    """z = exp(A) x is standard normal: log p = log N(exp(A) x) + tr A."""
    matrix = torch.tensor([[0.3, -0.8], [0.5, -0.1]], dtype=torch.float64)
    model = module(dynamics=Linear(matrix), solver={"name": "dopri5", "rtol": 1e-10, "atol": 1e-10})
    x = torch.randn(7, 2, dtype=torch.float64)
    z = x @ torch.linalg.matrix_exp(matrix).t()
    expected = -0.5 * z.square().sum(1) - math.log(2 * math.pi) + 0.2
    torch.testing.assert_close(model.log_prob(x), expected.detach(), rtol=0, atol=1e-8)
    loss = model.objective((x,)).loss
    assert float(loss.detach()) == pytest.approx(-float(expected.detach().mean()), abs=1e-8)


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_hutchinson_is_unbiased_with_one_probe_a_solve(probe):
    torch.manual_seed(0)
    matrix = torch.randn(5, 5, dtype=torch.float64)
    flow = Flow(Linear(matrix), solver={"name": "rk4", "steps": 3}, quadratures=[LogDensity(exact=False, probe=probe)])
    x = torch.randn(20000, 5, dtype=torch.float64)
    noise = Noise(1, torch.arange(20000))
    with torch.no_grad():
        found = flow.solve(x, noise=noise).quadratures["log_density"][-1]
        again = flow.solve(x[:3], noise=Noise(1, torch.arange(3))).quadratures["log_density"][-1]
    torch.testing.assert_close(again, found[:3])
    error = float(found.mean()) + float(matrix.trace())
    assert abs(error) <= 3 * float(found.std()) / 20000**0.5
    symmetric = 0.5 * (matrix + matrix.t())
    theory = 2 * float(symmetric.square().sum()) - (
        2 * float(symmetric.diag().square().sum()) if probe == "rademacher" else 0
    )
    assert float(found.var()) == pytest.approx(theory, rel=0.1)


@pytest.fixture(scope="module")
def bent():
    """A field that is not near zero, as after training, with a grid and the probability of its cells."""
    torch.manual_seed(0)
    model = odeframe.compose(
        {"name": "cnf", "hidden": 16}, SMALL, solver={"name": "dopri5", "rtol": 1e-6, "atol": 1e-6}
    ).module.double()
    axis = torch.linspace(-9, 9, 51, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
        p = model.eval().log_prob(grid).exp() * (axis[1] - axis[0]) ** 2
    return model, grid, p


def test_density_integrates_to_one_and_samples_go_back(bent):
    model, grid, p = bent
    normal = torch.exp(-0.5 * grid.square().sum(1)) / (2 * math.pi) * 0.36**2
    assert float((p - normal).abs().sum()) > 0.5, "the base itself would integrate to 1 too"
    assert float(p.sum()) == pytest.approx(1, abs=0.01)
    torch.manual_seed(3)
    samples = model.sample(50)
    torch.manual_seed(3)
    z = torch.randn(50, 2, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(samples), z, rtol=0, atol=1e-4)


def test_samples_have_the_density(bent):
    """E over samples of x and of x^2 against the sum over a grid of p."""
    model, grid, p = bent
    torch.manual_seed(4)
    samples = model.sample(2000)
    for power in (1, 2):
        values, expected = samples**power, p @ grid**power
        spread = values.std(0) / 2000**0.5
        assert bool(((values.mean(0) - expected).abs() <= 4 * spread).all())


def test_shapes_dtypes_and_empty_batches():
    model = module()
    assert model.sample(0).shape == (0, 2) and model.log_prob(torch.zeros(0, 2, dtype=torch.float64)).shape == (0,)
    assert model.sample(3, times=(1.0, 0.5, 0.0)).shape == (3, 3, 2) and model.sample(np.int64(2)).shape == (2, 2)
    with torch.inference_mode():
        held = model.log_prob(torch.ones(1, 2, dtype=torch.float64))
    torch.testing.assert_close(held, model.log_prob(torch.ones(1, 2, dtype=torch.float64)).detach())
    assert model.float().sample(2).dtype == torch.float32
    x = torch.randn(2, 2, requires_grad=True)
    assert torch.autograd.grad(model.log_prob(x).sum(), x)[0].shape == (2, 2)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (torch.zeros(3, 4), r"shape \(4,\), expected \(2,\)"),
        (torch.tensor([[0.0, 0.0], [math.nan, 0.0]]), "sample 1 is not finite"),
        (torch.zeros(3, 2, dtype=torch.int64), "floating-point"),
        (torch.zeros(2), "floating-point"),
        ([[0.0, 1.0]], "got list"),
    ],
)
def test_what_has_no_density_is_refused(x, said):
    with pytest.raises(DataError, match=said):
        module().float().log_prob(x)


def test_words_that_do_not_fit_are_refused():
    with pytest.raises(Incompatible, match="density"):
        odeframe.compose("resnet", SMALL)
    with pytest.raises(Incompatible, match="density"):
        odeframe.compose("cnf", "two_moons")
    with pytest.raises(Incompatible, match="density"):
        odeframe.compose("resnet", "two_moons", trainer="flow_matching")
    with pytest.raises(InvalidOption, match="n = -1"):
        module().sample(-1)
    for option, value in (("trace", "no"), ("horizon", 0.0)):
        with pytest.raises(InvalidOption, match=option):
            build("architecture", "cnf", **{option: value})
    model = module()
    for times in ((0.0, 1.0), (0.5, 0.0), (0.0,)):
        with pytest.raises(InvalidOption, match="falling ones from 1 on"):
            model.sample(2, times)
    with pytest.raises(AttributeError, match="log_prob"):
        odeframe.compose("resnet", "two_moons").module.log_prob  # noqa: B018


@pytest.mark.parametrize("name", CLOUDS)
def test_clouds_are_fixed_and_of_the_size_of_a_screen(name):
    data = build("data", name, n=2000)
    (train,), (test,) = data.dataset("train").tensors, data.dataset("test").tensors
    assert train.shape == (1400, 2) and test.shape == (400, 2) and data.spec.target == "none"
    assert torch.equal(build("data", name, n=2000).dataset("test").tensors[0], test)
    assert not torch.equal(build("data", name, n=2000, seed=1).dataset("test").tensors[0], test)
    assert 0.8 < float(train.std()) < 2.5 and float(train.mean(0).norm()) < 0.2
    for option, value in (("n", 3), ("seed", -1)):
        with pytest.raises(InvalidOption, match=f"{name}.*{option}"):
            build("data", name, **{option: value})


def test_flow_matching_trains_without_a_solve(tmp_path):
    """The loss falls, without one solve in training."""
    run = odeframe.compose("cnf", SMALL, trainer="flow_matching", output=tmp_path, learning_rate=0.01)
    batch = (run.data.dataset("train").tensors[0],)
    torch.manual_seed(0)
    before = run.module.rule.training_step(run.module, batch)
    assert run.module.network.flows[0].stats.nfe == 0
    quiet = {"enable_progress_bar": False, "logger": False, "enable_checkpointing": False}
    run.fit(max_epochs=20, limit_val_batches=0, accelerator="cpu", **quiet)
    torch.manual_seed(0)
    assert run.module.rule.training_step(run.module, batch).item() < 0.8 * before.item()


def test_flow_matching_refuses_what_it_would_not_train(tmp_path, monkeypatch):
    with pytest.raises(Incompatible, match="flow_matching' refuses a control with the trait 'piecewise'"):
        odeframe.compose("cnf", SMALL, trainer="flow_matching", control="piecewise_constant")
    undeclared = odeframe.compose("cnf", SMALL, trainer="flow_matching", output=tmp_path)
    monkeypatch.setattr(undeclared.module.network.flows[0].control, "breakpoints", lambda: (0.5,))
    costly = odeframe.compose("cnf", SMALL, trainer="flow_matching", output=tmp_path, costs={"kinetic_energy": 1.0})
    quiet = {"enable_progress_bar": False, "logger": False, "enable_checkpointing": False}
    for run, said in ((undeclared, "other weights at other times"), (costly, "kinetic_energy")):
        with pytest.raises(Incompatible, match=said):
            run.fit(max_epochs=1, accelerator="cpu", **quiet)
    plain, dear = (
        odeframe.compose("cnf", SMALL, trainer="flow_matching", costs=c).module for c in ({}, {"weight_decay": 1.0})
    )
    dear.load_state_dict(plain.state_dict())
    losses = []
    for model in (plain, dear):
        torch.manual_seed(0)
        losses.append(model.rule.training_step(model, (torch.zeros(4, 2),)).item())
    assert losses[1] - losses[0] == pytest.approx(float(dear.control_cost().detach()), rel=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("trainer", ["gradient", "flow_matching"])
def test_likelihood_comes_near_the_entropy(tmp_path, trainer):
    """Eight Gaussians: log 8 + 1 + log(2 pi 0.04) = 1.699 nats; a fitted normal distribution has 3.7."""
    epochs, rate = (12, 0.01) if trainer == "gradient" else (100, 0.005)
    run = odeframe.compose(
        "cnf", {"name": "eight_gaussians", "n": 10000}, trainer=trainer, output=tmp_path, learning_rate=rate
    )
    torch.manual_seed(0)
    run.fit(max_epochs=epochs, enable_progress_bar=False, logger=False, accelerator="cpu", enable_checkpointing=False)
    found = run.test(logger=False, enable_progress_bar=False)["test_nll"]
    entropy = math.log(8) + 1 + math.log(2 * math.pi * 0.04)
    assert entropy - 0.05 < found < entropy + (0.1 if trainer == "gradient" else 0.15), f"{trainer}: {found:.3f}"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_moons_come_near_their_entropy(tmp_path):
    """Half circles of radius 1 with noise 0.1: 1.0076 nats, by a sum over a grid (benchmarks/density_entropy.py)."""
    data = {"name": "two_moons", "n": 10000, "batch_size": 256}
    run = odeframe.compose("cnf", data, task="density", output=tmp_path, learning_rate=0.01)
    torch.manual_seed(0)
    run.fit(max_epochs=20, enable_progress_bar=False, logger=False, accelerator="cpu", enable_checkpointing=False)
    found = run.test(logger=False, enable_progress_bar=False)["test_nll"]
    assert 1.0076 - 0.05 < found < 1.0076 + 0.1, f"{found:.3f}"
