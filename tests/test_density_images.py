"""Densities of images: several scales, grey levels made continuous, the logit, and any table as data."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import odeframe
from odeframe import DataError, Dynamics, Incompatible, InvalidOption, build
from odeframe.plots_density import image_picture
from odeframe.registry import word
from odeframe.specification import DataSpec, NetworkSpec
from odeframe.testing import ArchitectureConformance, DynamicsConformance

QUIET = {"enable_progress_bar": False, "logger": False, "accelerator": "cpu", "enable_checkpointing": False}
DIGITS = {"name": "digits", "dequantise": 1, "limit": 40}
TIGHT = {"name": "rk4", "steps": 6}


class TestConcatSquashConv(DynamicsConformance):
    dynamics = {"name": "concat_squash_conv", "hidden": 5}


class TestCNFImage(ArchitectureConformance):
    architecture = {"name": "cnf_image", "hidden": 4, "depth": 1}
    input_shapes = ((1, 4, 4),)
    output_shape = (1, 4, 4)
    solvers = ({"name": "rk4", "steps": 2},)


def images(shape=(1, 4, 4), scales=2, solver=TIGHT, task="density", **words):
    """A network for images of a shape, its weights far from zero, and the task that is put to it; float64."""
    torch.manual_seed(0)
    asked = word("task", task).build()
    spec = DataSpec("mine", shape, input_range=(-1.0, 2.0))
    architecture = build("architecture", "cnf_image", scales=scales, hidden=4, depth=1)
    network = architecture.build(NetworkSpec(shape, asked.output_shape(spec)), solver=solver, **words).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)
    asked.bind(network)
    return asked, network.eval()


@pytest.mark.parametrize(
    ("shape", "scales", "task"),
    [
        ((1, 2, 2), 1, "density"),
        ((1, 2, 2), 2, "density"),
        ((1, 2, 2), 2, {"name": "density", "logit": 0.1}),
        ((1, 4, 4), 3, "density"),
    ],
)
def test_density_is_that_of_the_jacobian_of_the_map(shape, scales, task):
    """log p(x) = log N(z; 0, I) + log |det dz/dx|, the determinant by autograd."""
    asked, network = images(shape, scales, task=task)
    x = torch.rand(1, *shape, dtype=torch.float64)
    with torch.no_grad():
        found = asked.log_prob(network, x)
    for sample, density in zip(x, found, strict=True):
        through = lambda v: network(asked.split((v[None],))[0])[0]  # noqa: E731
        jacobian = torch.autograd.functional.jacobian(through, sample, vectorize=True)
        size = sample.numel()
        z = network(asked.split((sample[None],))[0]).detach()
        base = -0.5 * z.square().sum() - 0.5 * size * math.log(2 * math.pi)
        expected = base + torch.linalg.slogdet(jacobian.reshape(size, size))[1]
        torch.testing.assert_close(density, expected, rtol=0, atol=1e-6)


def test_scales_leave_half_of_the_components_behind():
    """The second flow of a 4 x 4 image moves 8 of 16 components, the third 4."""
    _, network = images(scales=3)
    first, second, third = network.flows
    x = torch.randn(3, 4, 2, 2, dtype=torch.float64)
    after = second(x)
    assert torch.equal(after[:, 2:], x[:, 2:]) and bool((after[:, :2] != x[:, :2]).all())
    deep = torch.randn(3, 16, 1, 1, dtype=torch.float64)
    assert bool(((third(deep) != deep).flatten(1).sum(1) == 4).all()) and first.horizon == (0.0, 1.0)


@pytest.mark.parametrize("task", ["density", {"name": "density", "logit": 0.05}])
def test_samples_go_back_to_their_noise(task):
    asked, network = images(task=task, solver={"name": "rk4", "steps": 20})
    torch.manual_seed(3)
    x = asked.sample(network, 5)
    torch.manual_seed(3)
    z = torch.randn(5, 1, 4, 4, dtype=torch.float64)
    assert x.shape == (5, 1, 4, 4) and asked.sample(network, 0).shape == (0, 1, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(network(asked.split((x,))[0]), z, rtol=0, atol=1e-4)
    with pytest.raises(InvalidOption, match="several horizons"):
        asked.sample(network, 2, times=(1.0, 0.0))


def test_hutchinson_on_images_is_unbiased_within_two_standard_errors():
    """The mean over probes of the training objective against the exact log p of one image, over all scales."""
    asked, network = images(solver={"name": "rk4", "steps": 2})
    x = torch.randn(1, 1, 4, 4, dtype=torch.float64).expand(1000, 1, 4, 4)
    torch.manual_seed(1)
    with torch.no_grad():
        exact = -asked.log_prob(network, x[:1])
        outcome = network.train().run(x)
        found = asked.cost(outcome.output, None) + outcome.cost
    error = float(found.mean()) - float(exact[0])
    assert float(found.std()) > 0.01, "an estimate varies"
    assert abs(error) <= 2 * float(found.std()) / 1000**0.5


class Still(Dynamics):
    """``x' = 0``: z = x."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.zeros(()))

    def forward(self, t, x, u=None):
        return self.rate * x


def test_noise_makes_the_density_a_bound_of_the_probability_of_grey_levels():
    """One pixel of a normal density: exp(log p + log quantum), averaged over the noise, is the normal's own integral
    over the grey level; the metrics have the same constant, in nats and in bits a dimension."""
    task, quantum = build("task", "density"), 0.25
    spec = DataSpec("mine", (1, 1, 1), quantum=quantum)
    network = build("architecture", "cnf_image", scales=1).build(
        NetworkSpec((1, 1, 1), task.output_shape(spec)), dynamics=Still()
    )
    network = network.double()
    level, noise = -0.6, torch.rand(100000, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        log_p = task.log_prob(network, level + quantum * noise)
    normal = torch.distributions.Normal(0.0, 1.0)
    probability = float(normal.cdf(torch.tensor(level + quantum)) - normal.cdf(torch.tensor(level)))
    assert float(log_p.exp().mean()) * quantum == pytest.approx(probability, rel=1e-3)
    metrics = task.metrics(spec)
    metrics.update(-log_p, None)
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found["nll"] == pytest.approx(-float(log_p.mean()) - math.log(quantum), rel=1e-5)
    assert found["nll"] >= -math.log(probability), "a bound of -log P from above"
    assert found["nll"] == pytest.approx(-math.log(probability), abs=0.01)
    assert found["bits_per_dim"] == pytest.approx(found["nll"] / math.log(2), rel=1e-6)


def test_a_uniform_density_costs_the_logarithm_of_the_number_of_levels():
    """-log p = d log(high - low) is log2(17) bits a dimension for the digits' 17 grey levels."""
    spec = word("data", DIGITS).build().spec
    task = build("task", "density")
    task.output_shape(spec)
    low, high = spec.input_range
    metrics = task.metrics(spec)
    metrics.update(torch.full((3,), 64 * math.log(high - low)), None)
    assert float(metrics.compute()["bits_per_dim"]) == pytest.approx(math.log2(17), rel=1e-5)
    assert float(metrics.compute()["nll"]) == pytest.approx(64 * math.log(17), rel=1e-5)


def test_noise_of_grey_levels_is_a_function_of_seed_image_and_draw():
    whole = word("data", {"name": "digits", "dequantise": 2, "flat": True}).build()
    few = word("data", {"name": "digits", "dequantise": 3, "flat": True, "limit": 10}).build()
    plain = word("data", {"name": "digits", "flat": True, "limit": 10}).build()
    x, labels = few.dataset("train").tensors
    first, _ = whole.dataset("train").tensors
    assert len(first) == 2 * 1257 and len(whole.dataset("test")) == 360 and x.shape == (30, 64)
    assert torch.equal(x[:10], first[:10]) and torch.equal(labels[:10], labels[10:20])
    levels = (x - plain.dataset("train").tensors[0].repeat(3, 1)) * few.std
    assert float(levels.min()) > -1e-4 and float(levels.max()) < 1 + 1e-4
    assert float(levels.mean()) == pytest.approx(0.5, abs=0.02) and float(levels.var()) == pytest.approx(
        1 / 12, rel=0.05
    )
    draws = levels.reshape(3, 640)
    assert float(torch.corrcoef(draws).fill_diagonal_(0).abs().max()) < 0.15
    low, high = few.spec.input_range
    assert low <= float(x.min()) and float(x.max()) <= high and few.spec.quantum == pytest.approx(1 / few.std)
    assert plain.spec.quantum is None
    with pytest.raises(InvalidOption, match="dequantise: got -1"):
        build("data", "digits", dequantise=-1)


def test_density_under_the_logit_integrates_to_the_share_inside():
    """One component, z = y: p is the normal density of the logit, and has all its mass where a logit is."""
    task = build("task", "density", logit=0.1)
    spec = DataSpec("mine", (1,), input_range=(-1.0, 2.0))
    network = build("architecture", "cnf").build(NetworkSpec((1,), task.output_shape(spec)), dynamics=Still()).double()
    reach = 0.1 / (0.8 / 3)
    axis = torch.linspace(-1 - reach, 2 + reach, 20003, dtype=torch.float64)[1:-1, None]
    with torch.no_grad():
        p = task.log_prob(network, axis).exp()
    assert float(p.sum() * (axis[1] - axis[0])) == pytest.approx(1, abs=1e-4)
    with pytest.raises(DataError, match=r"sample 1 has components outside \(-1.375, 2.375\)"):
        task.log_prob(network, torch.tensor([[0.0], [2.4]]))


def test_what_is_no_image_or_no_density_is_refused():
    module = odeframe.compose({"name": "cnf_image", "hidden": 4}, DIGITS, "density").module
    for x, said in (
        (torch.zeros(3, 64), r"shape \(64,\), expected \(1, 8, 8\)"),
        (torch.full((1, 1, 8, 8), math.inf), "sample 0 is not finite"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "floating-point"),
    ):
        with pytest.raises(DataError, match=said):
            module.log_prob(x)
    with pytest.raises(InvalidOption, match="7 x 8 is not divisible by 2: write fewer scales"):
        images((1, 7, 8))
    with pytest.raises(InvalidOption, match="dynamics of 2 widths, and got one module"):
        images(dynamics=Still())
    with pytest.raises(Incompatible, match="one_flow"):
        odeframe.compose("cnf_image", DIGITS, "density", trainer="flow_matching")
    with pytest.raises(Incompatible, match="image"):
        odeframe.compose("cnf_image", {**DIGITS, "flat": True}, "density")
    with pytest.raises(InvalidOption, match="state no least and greatest number"):
        odeframe.compose("cnf", "rings", {"name": "density", "logit": 0.05})
    for option, value in (("scales", 0), ("horizon", 0.0), ("trace", "no")):
        with pytest.raises(InvalidOption, match=option):
            build("architecture", "cnf_image", **{option: value})
    for value in (0.0, 0.5):
        with pytest.raises(InvalidOption, match="option logit"):
            build("task", "density", logit=value)
    for option in ("hidden", "depth"):
        with pytest.raises(InvalidOption, match=option):
            build("dynamics", "concat_squash_conv", width=1, **{option: 0})


def write(path, rows):
    path.write_text("a,b,c\n" + "\n".join(",".join(map(str, row)) for row in rows), "utf-8")
    return {"name": "csv", "path": str(path), "task": "density"}


def test_any_table_is_data_of_a_density(tmp_path):
    """No target: the columns that are asked for, standardised."""
    rows = np.random.default_rng(0).normal(size=(60, 3)) * 5 + 2
    choice = write(tmp_path / "mine.csv", rows)
    run = odeframe.compose("cnf", choice, output=tmp_path)
    assert run.data.spec.task == "density" and run.data.spec.input_shape == (3,) and run.data.spec.target == "none"
    (x,) = run.data.dataset("train").tensors
    assert x.shape == (42, 3) and float(x.mean().abs()) < 1e-6
    assert run.module.log_prob(x).shape == (42,)
    one = odeframe.compose("cnf", {**choice, "columns": ["b"]})
    axis, scaling = np.linspace(-40, 40, 801)[:, None], one.data.scaling
    log_p = one.module.log_prob(torch.as_tensor(scaling.apply(axis)).float()).detach() - math.log(scaling.std[0])
    assert float(log_p.exp().sum()) * 0.1 == pytest.approx(1, abs=0.01), "a density in the unit of the file"
    assert odeframe.compose("cnf", {**choice, "columns": ["a", "c"]}).data.spec.input_shape == (2,)
    with pytest.raises(Incompatible, match="class labels"):
        odeframe.compose("resnet", choice, "classification")
    with pytest.raises(InvalidOption, match="'density' beside the target 'a'"):
        build("data", "csv", path=choice["path"], target="a", task="density")
    with pytest.raises(InvalidOption, match=r"needs the option 'target'.*task: density"):
        build("data", "csv", path=choice["path"])
    for bad, said in (("nan", "line 3"), ("", "line 3"), ("x", "line 3")):
        broken = write(tmp_path / "bad.csv", [[1, 2, 3], [1, bad, 3], *rows.tolist()])
        with pytest.raises(DataError, match=said):
            odeframe.compose("cnf", broken)
    bare = tmp_path / "bare.csv"
    for text, said in (
        ("1,2\n" + 30 * "3,4\n5,6\n", "first line looks like data.*list them in columns"),
        ("a;b\n" + 30 * "3;4\n5;6\n", "is the delimiter another one"),
        ("a,b\n" + 30 * "3,4\n5,4\n", "without a density: b"),
    ):
        bare.write_text(text)
        with pytest.raises(DataError, match=said):
            odeframe.compose("cnf", {"name": "csv", "path": str(bare), "task": "density"})
    bare.write_text("2020,2021\n" + 30 * "3,4\n5,6\n")
    named = {"name": "csv", "path": str(bare), "task": "density", "columns": ["2020", "2021"]}
    assert odeframe.compose("cnf", named).data.spec.input_shape == (2,)
    ragged = write(tmp_path / "ragged.csv", [[1, 2, 3], [1, 2], *rows.tolist()])
    with pytest.raises(DataError, match="line 3"):
        odeframe.compose("cnf", ragged)


def test_the_picture_has_data_and_samples(tmp_path):
    run = odeframe.compose({"name": "cnf_image", "hidden": 4}, DIGITS, {"name": "density", "logit": 0.05})
    batch = run.data.dataset("test")[:5]
    (path,) = run.module.task.draw(run.module.network, batch, tmp_path)
    assert path.name == "samples.png" and path.stat().st_size > 1000
    panels = image_picture(run.module.task, run.module.network, batch[0]).axes
    assert [panel.get_title() for panel in panels] == ["data", "samples"]
    shown = panels[0].images[0].get_array()
    low, high = float(batch[0].min()), float(batch[0].max())
    np.testing.assert_allclose(shown[:8, 9:17], (batch[0][1, 0] - low) / (high - low), atol=1e-6)


def test_both_trainers_fit_images(tmp_path):
    for trainer, scales in (("gradient", 2), ("flow_matching", 1)):
        run = odeframe.compose(
            {"name": "cnf_image", "scales": scales, "hidden": 4, "depth": 1},
            DIGITS,
            {"name": "density", "logit": 0.05},
            trainer=trainer,
            solver={"name": "rk4", "steps": 2},
            output=tmp_path / trainer,
            learning_rate=0.02,
        )
        batch = run.data.dataset("train").tensors
        torch.manual_seed(0)
        before = run.module.rule.training_step(run.module, batch).item()
        run.fit(max_epochs=4, limit_val_batches=0, **QUIET)
        torch.manual_seed(0)
        assert run.module.rule.training_step(run.module.train(), batch).item() < 0.95 * before


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("cost", ["kinetic_energy", "jacobian_frobenius"])
def test_regularised_flows_take_fewer_evaluations(tmp_path, cost):
    """The same fit with the cost, by word: paths are straighter, and dopri5 takes fewer evaluations at a tolerance."""
    data, fine = (
        {"name": "eight_gaussians", "n": 2000, "batch_size": 200},
        {"name": "dopri5", "rtol": 1e-7, "atol": 1e-7},
    )
    evaluations, paths = {}, {}
    for weight in (0.0, 0.3):
        torch.manual_seed(0)
        words = {"architecture": {"name": "cnf", "hidden": 32}, "costs": {cost: weight}, "learning_rate": 0.01}
        run = odeframe.compose(data=data, output=tmp_path / str(weight), **words)
        run.fit(max_epochs=18, limit_val_batches=0, **QUIET)
        exact = odeframe.compose(data=data, solver=fine, **words).module
        exact.load_state_dict(run.module.state_dict())
        with torch.no_grad():
            solution = exact.eval().network.flows[0].solve(run.data.dataset("test").tensors[0])
        evaluations[weight], paths[weight] = solution.stats.nfe, float(solution.quadratures[cost][-1].mean())
    assert paths[0.3] < 0.8 * paths[0.0] and evaluations[0.3] < evaluations[0.0], (evaluations, paths)
