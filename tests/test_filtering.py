"""Bayesian filtering by particle flows: Bayes' rule, closed forms of the data, filters, what is refused."""

import csv
import functools
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import odeframe
from odeframe import DataError, Dynamics, Flow, FlowModule, Incompatible, InvalidOption, build
from odeframe.likelihoods import LIKELIHOODS, Likelihood, check_log_likelihood, likelihood_of
from odeframe.particle_filters import Weighted, moments, one_pass_smc, sis_resampling
from odeframe.registry import word
from odeframe.testing import ArchitectureConformance, DataConformance, DynamicsConformance, TaskConformance
from odeframe_plugins.architectures.particle_flow import ParticleDivergence
from odeframe_plugins.tasks.filtering_picture import picture

SMALL = {"name": "gaussian_stream", "n": 40, "particles": 6, "length": 4}
FLOW = {"name": "particle_flow", "hidden": 8, "summary": 3}


class TestParticleFlow(ArchitectureConformance):
    architecture = FLOW
    input_shapes = ((5 * 2 + 1,),)
    output_shape = (1, 5, 2)


class TestParticleField(DynamicsConformance):
    dynamics = {"name": "particle_field", "hidden": 8}
    state_shape = (5, 4)


class TestAffineParticleField(DynamicsConformance):
    dynamics = {"name": "affine_particle_field", "hidden": 8}


class TestFiltering(TaskConformance):
    task = "filtering"
    data = SMALL
    architecture = FLOW


class TestGaussianStream(DataConformance):
    data = SMALL
    architecture = FLOW


class TestMixtureStream(DataConformance):
    data = {"name": "mixture_stream", "n": 40, "particles": 6, "length": 3}
    architecture = FLOW


class TestLinearDynamicalSystem(DataConformance):
    data = {"name": "linear_dynamical_system", "n": 40, "particles": 6, "length": 5}
    architecture = FLOW


@pytest.fixture
def table(tmp_path):
    """A stream of 60 rows, ``y = 0.8 z - 0.3`` and noise."""
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(60, generator=generator)
    y = 0.8 * z - 0.3 + 0.5 * torch.randn(60, generator=generator)
    path = tmp_path / "stream.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["z", "y"])
        writer.writerows(torch.stack([z, y], 1).tolist())
    return str(path)


def test_csv_stream_conforms(table):
    class Kit(DataConformance):
        data = {"name": "csv_stream", "path": table, "length": 3, "particles": 6}
        architecture = FLOW

    # a shorter file: every check has its moments drawn anew
    shortened = Path(table).with_name("short.csv")
    shortened.write_text("".join(Path(table).read_text().splitlines(keepends=True)[:31]))
    Kit.data["path"] = str(shortened)
    kit = Kit()
    checks = [getattr(kit, name) for name in dir(Kit) if name.startswith("test_")]
    for check in filter(None, checks):  # one that does not concern the part is None
        check()
    assert len(checks) > 5


class Oracle(Dynamics):
    """From N(0, s^2 I) to the exact posterior of an observation o = x + r e: ``x' = log(c) (x + m / (c - 1))``."""

    traits = ("driven", "particles")

    def __init__(self, s, r):
        super().__init__()
        self.gain, self.c = s**2 / (s**2 + r**2), r / math.sqrt(s**2 + r**2)

    def forward(self, t, x, u=None, drive=None):
        mean = self.gain * drive[:, None, -2:]
        return math.log(self.c) * (x + mean / (self.c - 1))


def test_the_exact_velocity_makes_the_objective_the_evidence():
    """log q - log p(o | x) - log p0(x) = -log p(o) at every particle, whatever the set."""
    s, r = 1.3, 0.7
    spec = word("data", SMALL).build().spec.to_dict()
    module = FlowModule(
        {**spec, "likelihood": {"name": "linear_gaussian", "deviation": r}},
        FLOW,
        dynamics=Oracle(s, r),
        solver={"name": "dopri5", "rtol": 1e-10, "atol": 1e-10},
    ).double()
    generator = torch.Generator().manual_seed(0)
    particles = s * torch.randn(3, 6, 2, generator=generator, dtype=torch.float64)
    observation = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    mean, scale = torch.zeros(3, 2).double(), s * torch.eye(2).double().expand(3, 2, 2)
    truth = torch.zeros(3, 1, 2).double(), torch.zeros(3, 1, 2, 2).double()
    batch = (torch.cat([particles.flatten(1), observation], 1), observation[:, None], mean, scale, *truth)
    start = -0.5 * (particles / s).square().sum(2) - 2 * math.log(s)
    evidence = -0.5 * observation.square().sum(1) / (s**2 + r**2) - math.log(2 * math.pi * (s**2 + r**2))
    with torch.no_grad():
        loss = module.objective(batch).loss
    assert float(loss + start.mean()) == pytest.approx(-float(evidence.mean()), abs=1e-8)
    posterior = module.assimilate(particles, observation)
    expected = s**2 / (s**2 + r**2) * observation[:, None] + r / math.sqrt(s**2 + r**2) * particles
    torch.testing.assert_close(posterior, expected, rtol=0, atol=1e-8)


def test_an_affine_field_reaches_the_exact_posterior():
    """Trained on two updates: mean and covariance of the normal posterior to 1e-2."""
    torch.manual_seed(0)
    data = word("data", {"name": "gaussian_stream", "n": 20, "particles": 24, "deviation": 1.0}).build()
    module = FlowModule(data.spec.to_dict(), FLOW, dynamics={"name": "affine_particle_field", "hidden": 16}).double()
    batch = tuple(value[:2].double() for value in data.dataset("train").tensors)
    optimizer = torch.optim.LBFGS(module.parameters(), max_iter=30, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = module.objective(batch).loss
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        mean, covariance = moments(module(batch[0])[:, 0])
    torch.testing.assert_close(mean, batch[4][:, 0], rtol=0, atol=1e-2)
    torch.testing.assert_close(covariance, batch[5][:, 0], rtol=0, atol=1e-2)


def test_divergence_of_a_set_is_the_trace_of_its_jacobian():
    torch.manual_seed(0)
    field = build("dynamics", "particle_field", width=2, inputs=3, hidden=8).double()
    x, drive = torch.randn(2, 4, 2).double().requires_grad_(True), torch.randn(2, 3).double()
    rate = ParticleDivergence().rate(torch.tensor(0.3), x, field(torch.tensor(0.3), x, drive=drive))
    for sample in range(2):
        jacobian = torch.autograd.functional.jacobian(
            lambda v, s=sample: field(torch.tensor(0.3), v[None], drive=drive[s : s + 1])[0], x[sample].detach()
        )
        trace = jacobian.reshape(8, 8).trace()
        torch.testing.assert_close(rate[sample], -trace)


@functools.cache
def unrolled(stage):
    torch.manual_seed(0)
    data = word("data", {**SMALL, "ahead": 3}).build()
    module = FlowModule(data.spec.to_dict(), {**FLOW, "stage": stage}).double()
    batch = tuple(value[:3].double() for value in data.dataset("train").tensors)
    loss = module.objective(batch).loss
    loss.backward()
    return module, batch, float(loss.detach()), torch.cat([p.grad.flatten() for p in module.parameters()])


def test_stages_cut_the_gradient_and_leave_the_objective():
    module, batch, loss, gradient = unrolled(0)
    _, _, again, cut = unrolled(1)
    assert again == pytest.approx(loss, abs=1e-12)
    assert not torch.allclose(cut, gradient)
    _, _, same, whole = unrolled(3)
    assert same == pytest.approx(loss, abs=1e-12) and torch.equal(whole, gradient)
    sets = []
    particles, observations = module.network.stages["stem"].unpack(batch[0])
    for observation in observations.unbind(1):
        particles = module.assimilate(particles, observation)
        sets.append(particles)
    torch.testing.assert_close(torch.stack(sets, 1), module(batch[0]).detach())


def test_the_objective_of_several_observations_is_the_mean_over_steps():
    """Each step against its own posterior, with the evidence so far."""
    module, batch, loss, _ = unrolled(0)
    x, (seen, mean, scale, *_) = module.task.split(batch)
    with torch.no_grad():
        output, likelihood, terms = module(x), likelihood_of(module.spec.likelihood), []
        normal = torch.distributions.MultivariateNormal(mean[:, None], scale_tril=scale[:, None])
        for m in range(3):
            evidence = sum(likelihood.log_prob(seen[:, i, None], output[:, m]) for i in range(m + 1))
            terms.append(-(evidence + normal.log_prob(output[:, m])).mean() - math.log(2 * math.pi))
        change = module.network.run(x).cost.mean()
    assert float(torch.stack(terms).mean() + change) == pytest.approx(loss, abs=1e-6)


def test_assimilation_keeps_order_sizes_and_types():
    torch.manual_seed(0)
    module = odeframe.compose(FLOW, SMALL).module
    particles, observation = torch.randn(3, 50, 2), torch.randn(3, 2)
    found = module.assimilate(particles, observation)
    assert found.shape == (3, 50, 2) and not found.requires_grad
    order = torch.randperm(50)
    torch.testing.assert_close(module.assimilate(particles[:, order], observation), found[:, order])
    torch.testing.assert_close(module.assimilate(particles[1], observation[1]), found[1])
    assert module.assimilate(particles[:, :1], observation).shape == (3, 1, 2)
    assert module.assimilate(particles[:0], observation[:0]).shape == (0, 50, 2)
    assert module.double().assimilate(particles.double(), observation.double()).dtype == torch.float64


def test_a_checkpoint_assimilates_alike(tmp_path):
    torch.manual_seed(0)
    run = odeframe.compose(FLOW, SMALL, output=tmp_path)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    run.fit(max_epochs=1, limit_val_batches=0, **quiet)
    run.trainer.save_checkpoint(tmp_path / "flow.ckpt")
    particles, observation = torch.randn(2, 7, 2), torch.randn(2, 2)
    loaded = FlowModule.load(tmp_path / "flow.ckpt")
    torch.testing.assert_close(
        loaded.assimilate(particles, observation), run.module.eval().assimilate(particles, observation)
    )


def module_pictures(run, folder):
    batch = next(iter(run.data.test_dataloader()))
    return [path for path in run.module.task.draw(run.module.network, batch, folder) if path.stat().st_size]


def test_truth_of_the_streams_is_that_of_conditioning():
    """The recursion against conditioning the joint normal distribution of all at once."""
    data = word("data", {"name": "linear_dynamical_system", "length": 4}).build()
    found = data.sequences(3, 0)
    transition, seen = data._transition(), data._seen()
    blocks = [[None] * 4 for _ in range(4)]
    own = torch.eye(2, dtype=torch.float64)
    for j in range(4):
        blocks[j][j] = own
        for i in range(j + 1, 4):
            blocks[i][j] = transition @ blocks[i - 1][j]
            blocks[j][i] = blocks[i][j].t()
        own = transition @ own @ transition.t() + data.process**2 * torch.eye(2, dtype=torch.float64)
    joint = torch.cat([torch.cat(row, 1) for row in blocks])
    observe = torch.block_diag(*[seen] * 4)
    noisy = observe @ joint @ observe.t() + data.deviation**2 * torch.eye(4, dtype=torch.float64)
    gain = torch.linalg.solve(noisy, observe @ joint[:, -2:]).t()
    torch.testing.assert_close(found.mean[:, -1], found.observations.flatten(1) @ gain.t())
    torch.testing.assert_close(found.covariance[0, -1], joint[-2:, -2:] - gain @ observe @ joint[:, -2:])
    point = word("data", {"name": "gaussian_stream", "length": 5}).build().sequences(3, 1)
    torch.testing.assert_close(point.mean[:, -1], point.observations.sum(1) / (5 + 9))
    torch.testing.assert_close(point.covariance[0, -1], 9 / 14 * torch.eye(2, dtype=torch.float64))
    assert torch.equal(point.states[:, 0], point.states[:, -1])


def test_mixture_has_two_like_modes():
    data = word("data", {"name": "mixture_stream", "length": 6}).build()
    likelihood, (mean, covariance) = likelihood_of(data.likelihood()), data.prior()
    x = torch.randn(50, 2, dtype=torch.float64)
    other = torch.stack([x.sum(1), -x[:, 1]], 1)
    prior = torch.distributions.MultivariateNormal(mean, covariance)
    torch.testing.assert_close(likelihood.log_prob(x[:, :1], x), likelihood.log_prob(x[:, :1], other))
    torch.testing.assert_close(prior.log_prob(x), prior.log_prob(other))
    found = data.sequences(20, 0)
    assert float(found.mean[..., 1].abs().max()) < 1e-6, "both modes have probability 1/2, so that x_2 has mean 0"
    particles = torch.randn(1, 20000, 2, dtype=torch.float64) @ torch.linalg.cholesky(covariance).t()
    weighted = one_pass_smc(particles, found.observations[:1], likelihood)[-1]
    assert float((weighted.mean - found.mean[:1, -1]).abs().max()) < 0.15
    assert float((weighted.covariance - found.covariance[:1, -1]).abs().max()) < 0.25


def test_csv_stream_takes_a_function_as_its_likelihood(table):
    def residual(observation, x):
        return -2 * (observation[..., 1] - observation[..., 0] * x[..., 0] - x[..., 1]).square()

    options = {"path": table, "length": 5, "particles": 6, "standardise": False}
    data = build("data", "csv_stream", likelihood=residual, **options)
    assert data.spec.likelihood is None and data.spec.target_shape == (5, 6, 2)
    run = odeframe.compose(FLOW, data, task=build("task", "filtering", likelihood=residual))
    assert math.isfinite(float(run.module.objective(next(iter(data.train_dataloader()))).loss.detach()))
    with pytest.raises(InvalidOption, match="name no likelihood"):
        odeframe.compose(FLOW, data)
    named = build("data", "csv_stream", likelihood={"name": "linear_regression", "deviation": 0.5}, **options)
    found = named.sequences("test")
    assert torch.allclose(found.mean, data.sequences("test").mean)
    rows = found.observations[0]
    design = torch.stack([rows[:, 0], torch.ones(5, dtype=torch.float64)], 1)
    precision = torch.eye(2, dtype=torch.float64) + 4 * design.t() @ design
    exact = torch.linalg.solve(precision, 4 * design.t() @ rows[:, 1])
    torch.testing.assert_close(found.mean[0, -1], exact, rtol=0, atol=0.03)
    torch.testing.assert_close(found.covariance[0, -1], torch.linalg.inv(precision), rtol=0, atol=0.01)


def test_csv_stream_keeps_labels_and_tells_of_rough_moments(tmp_path):
    """Columns of 0 and 1 are what they are, standardised or not; a likelihood too narrow for the draws is told of."""
    z = torch.randn(60, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "labels.csv"
    path.write_text("z,y\n" + "\n".join(f"{value},{int(value > -1)}" for value in z.tolist()))
    options = {"path": str(path), "length": 4, "particles": 6}
    rows = build("data", "csv_stream", likelihood="logistic_regression", **options).windows("train").flatten(0, 1)
    assert set(rows[:, 1].tolist()) == {0.0, 1.0} and abs(float(rows[:, 0].mean())) < 0.2
    for standardise in (True, False):
        data = build("data", "csv_stream", likelihood="logistic_regression", standardise=standardise, **options)
        raw = [[value, value > -1] for value in z[:4].tolist()]  # the first window, as in the file
        torch.testing.assert_close(torch.as_tensor(data.scaling.apply(raw)), data.windows("train")[0])
    narrow = {"name": "linear_regression", "deviation": 0.001}
    with pytest.warns(UserWarning, match="of 10000 draws"):
        build("data", "csv_stream", likelihood=narrow, **options).sequences("test")
    flat = torch.tensor([[[[1.0, 1.0], [1.0, 1.0 - 1e-6]]]])  # of so few draws: it has no Cholesky factor
    (line,) = picture(torch.zeros(1, 2, 6, 2), torch.zeros(1, 1, 2), flat).axes[0].lines
    x, y = line.get_xydata().T
    assert x == pytest.approx(y, abs=1e-3) and x.max() == pytest.approx(math.sqrt(-2 * math.log(0.1)), rel=1e-2)
    path.write_text("1,2\n" * 60)
    with pytest.raises(DataError, match="first line looks like data"):
        build("data", "csv_stream", **options).spec  # noqa: B018


def test_filters_without_training_approach_the_closed_form():
    data = word("data", {"name": "gaussian_stream", "length": 8}).build()
    truth, likelihood = data.sequences(20, 3), likelihood_of(data.likelihood())
    generator = torch.Generator().manual_seed(0)
    particles = torch.randn(20, 4000, 2, generator=generator, dtype=torch.float64)
    plain = one_pass_smc(particles, truth.observations, data.likelihood())
    drawn = sis_resampling(particles, truth.observations, likelihood, generator=generator, threshold=1.0)
    for found in (plain, drawn):
        assert float((found[-1].mean - truth.mean[:, -1]).square().mean().sqrt()) < 0.04
        assert float((found[-1].covariance - truth.covariance[:, -1]).square().mean().sqrt()) < 0.04
        torch.testing.assert_close(found[-1].log_weights.exp().sum(1), torch.ones(20, dtype=torch.float64))
    assert len(torch.unique(plain[-1].particles[0], dim=0)) == 4000 > len(torch.unique(drawn[-1].particles[0], dim=0))
    never = sis_resampling(particles, truth.observations, likelihood, threshold=0.0)
    assert torch.equal(never[-1].log_weights, plain[-1].log_weights)
    even = Weighted(particles, torch.full((20, 4000), -math.log(4000), dtype=torch.float64))
    torch.testing.assert_close(even.effective_size, torch.full((20,), 4000.0).double())


def test_likelihoods_against_torch():
    o, x = torch.randn(7, 3).double(), torch.randn(7, 3).double()
    normal = torch.distributions.Normal
    plain = likelihood_of({"name": "linear_gaussian", "deviation": 2.0}).log_prob(o, x)
    torch.testing.assert_close(plain, normal(x, 2.0).log_prob(o).sum(1))
    seen = likelihood_of({"name": "linear_gaussian", "matrix": [[1, 0, 2]]})
    torch.testing.assert_close(seen.log_prob(o[:, :1], x), normal(x[:, 0] + 2 * x[:, 2], 1.0).log_prob(o[:, 0]))
    fitted = (o[:, :2] * x[:, :2]).sum(1) + x[:, 2]
    line = likelihood_of("linear_regression").log_prob(o, x)
    torch.testing.assert_close(line, normal(fitted, 1.0).log_prob(o[:, 2]))
    yes = (o[:, 2] > 0).double()
    coin = likelihood_of("logistic_regression").log_prob(torch.cat([o[:, :2], yes[:, None]], 1), x)
    torch.testing.assert_close(coin, torch.distributions.Bernoulli(logits=fitted).log_prob(yes))
    with pytest.raises(DataError, match="0 or 1, got -0"):
        likelihood_of("logistic_regression").log_prob(torch.tensor([[0.3, -0.5]]), x[:1, :2])
    assert {likelihood_of(name).state_size(3) for name in LIKELIHOODS} == {2, 3}


@pytest.mark.parametrize(
    ("particles", "observation", "error", "said"),
    [
        (torch.zeros(2, 0, 2), torch.zeros(2, 2), DataError, "the set is empty"),
        (
            torch.zeros(2, 5, 2),
            torch.tensor([[0.0, 0.0], [math.nan, 0.0]]),
            DataError,
            "observation: not finite in sample 1",
        ),
        (torch.full((1, 5, 2), math.inf), torch.zeros(1, 2), DataError, "particles: not finite in sample 0"),
        (torch.zeros(2, 5, 2), torch.zeros(3, 2), InvalidOption, "2 particle sets and 3 observations"),
        (torch.zeros(2, 5, 3), torch.zeros(2, 2), InvalidOption, "particles: got 3 components, expected the 2"),
        (torch.zeros(2, 5, 2), torch.zeros(2, 1), InvalidOption, "observation: got 1 components, expected the 2"),
        (torch.zeros(5, 2), torch.zeros(1, 2), InvalidOption, r"observation: got \(1, 2\) beside one set"),
        (torch.zeros(2, 5, 2, dtype=torch.int64), torch.zeros(2, 2), InvalidOption, "floating-point"),
        ([[0.0, 1.0]], torch.zeros(1, 2), InvalidOption, "got list"),
        (torch.zeros(2, 5, 2).double(), torch.zeros(2, 2).double(), InvalidOption, "torch.float64, and a parameter"),
    ],
)
def test_what_cannot_be_assimilated_is_refused(particles, observation, error, said):
    with pytest.raises(error, match=said):
        odeframe.compose(FLOW, SMALL).module.assimilate(particles, observation)


class Nowhere(Likelihood):
    """Zero for all states, or for those on the left."""

    name = "nowhere"

    def __init__(self, some=False, value=-math.inf):
        self.some, self.value = some, value

    def log_prob(self, observation, x):
        zero = torch.full(torch.broadcast_shapes(observation.shape[:-1], x.shape[:-1]), self.value)
        return torch.where(x[..., 0] > 0, 0.0, zero) if self.some else zero


def test_a_likelihood_that_is_zero_everywhere_is_named():
    run = odeframe.compose(FLOW, SMALL, task=build("task", "filtering", likelihood=Nowhere()))
    batch = next(iter(run.data.train_dataloader()))
    with pytest.raises(DataError, match=r"'nowhere' is zero .* for all 6 particles"):
        run.module.objective(batch)
    some = odeframe.compose(FLOW, SMALL, task=build("task", "filtering", likelihood=Nowhere(some=True)))
    with pytest.raises(DataError, match="for some particles"):
        some.module.objective(batch)
    particles, observations = torch.randn(2, 9, 2), torch.randn(2, 3, 2)
    for function in (one_pass_smc, sis_resampling):
        with pytest.raises(DataError, match="for all 9 particles"):
            function(particles, observations, Nowhere())
        assert function(particles, observations, Nowhere(some=True))[-1].mean[:, 0].min() > 0
        with pytest.raises(DataError, match="nan or inf"):
            function(particles, observations, Nowhere(value=math.nan))
        with pytest.raises(DataError, match="empty"):
            function(particles[:, :0], observations, Nowhere())
    with pytest.raises(InvalidOption, match="expected the shape"):
        check_log_likelihood("mine", torch.zeros(3), (2, 3))
    with pytest.raises(InvalidOption, match=r"torch.bool, expected log p"):
        check_log_likelihood("mine", torch.ones(2, 3) > 0, (2, 3))
    with pytest.raises(InvalidOption, match="threshold"):
        sis_resampling(particles, observations, Nowhere(), threshold=2.0)


@pytest.mark.parametrize(
    ("kind", "name", "options", "said"),
    [
        *(
            ("architecture", "particle_flow", {option: -1}, option)
            for option in ("summary", "hidden", "depth", "stage")
        ),
        ("architecture", "particle_flow", {"trace": "no"}, "trace"),
        ("architecture", "particle_flow", {"horizon": 0.0}, "horizon"),
        ("data", "gaussian_stream", {"deviation": 0.0}, "deviation"),
        ("data", "gaussian_stream", {"ahead": 30}, "ahead"),
        ("data", "mixture_stream", {"separation": -1.0}, "separation"),
        ("data", "mixture_stream", {"particles": 0}, "particles"),
        ("data", "linear_dynamical_system", {"process": 0.0}, "process"),
        ("data", "linear_dynamical_system", {"n": 3}, "option n"),
        ("data", "csv_stream", {"path": "x.csv", "prior": 0.0}, "prior"),
        ("data", "csv_stream", {"path": "x.csv", "likelihood": "os:system"}, "none named 'os:system'"),
        ("task", "filtering", {"likelihood": "two_mean"}, "Did you mean 'two_means'"),
        ("task", "filtering", {"likelihood": 3}, "expected a name"),
        ("task", "filtering", {"likelihood": {"name": "two_means", "spread": 1}}, "spread"),
        (
            "task",
            "filtering",
            {"likelihood": {"name": "linear_gaussian", "matrix": [[1], [1, 2]]}},
            "rows of one length",
        ),
        ("task", "filtering", {"likelihood": {"name": "linear_gaussian", "matrix": [[math.nan]]}}, "finite numbers"),
        ("dynamics", "particle_field", {"width": 2, "inputs": 1, "depth": 0}, "depth"),
        ("dynamics", "affine_particle_field", {"width": 0, "inputs": 1}, "width"),
    ],
)
def test_wrong_options_are_named(kind, name, options, said):
    with pytest.raises(InvalidOption, match=said):
        build(kind, name, **options)


@pytest.mark.parametrize(
    ("gradient", "tolerance"), [("checkpoint", 1e-11), ("adjoint", 1e-4), ("interpolated_adjoint", 1e-4)]
)
def test_gradients_through_the_solves_before(gradient, tolerance):
    """The weights act on a solve directly and through its context, which the solves before it made."""
    found = []
    for name in ("backprop", gradient):
        torch.manual_seed(0)
        solver = {"name": "dopri5", "rtol": 1e-5, "atol": 1e-7}
        run = odeframe.compose(FLOW, {**SMALL, "ahead": 3}, solver=solver, gradient=name)
        run.data.setup("fit")
        module = run.module.double().eval()
        batch = next(iter(torch.utils.data.DataLoader(run.data.train_dataloader().dataset, 4)))
        x, target = module.task.split([v.double() for v in batch])
        outcome = module.network.run(x[:4])
        (module.task.cost(outcome.output, [v[:4] for v in target]) + outcome.cost).mean().backward()
        found.append(torch.cat([p.grad.flatten() for p in module.network.parameters()]))
    assert float((found[1] - found[0]).abs().max()) <= tolerance * float(found[0].abs().max())


def test_parts_that_do_not_fit_are_refused(table):
    with pytest.raises(Incompatible, match="stream"):
        odeframe.compose(FLOW, "two_moons")
    with pytest.raises(Incompatible, match="particles"):
        odeframe.compose("resnet", SMALL)
    with pytest.raises(InvalidOption, match="expected states of 2"):
        data = build("data", "csv_stream", path=table, state=3, likelihood="two_means", length=4)
        data.spec  # noqa: B018
    with pytest.raises(InvalidOption, match="observations of 2 components, expected 1"):
        likelihood_of({"name": "linear_gaussian", "matrix": [[1.0, 0.0]]}).check(2, 2)
    with pytest.raises(DataError, match="windows of 30 rows"):
        build("data", "csv_stream", path=table, length=30).spec  # noqa: B018
    with pytest.raises(Incompatible, match="step maps for one observation"):
        odeframe.compose(FLOW, {**SMALL, "ahead": 2}).module.network.steps()
    with pytest.raises(InvalidOption, match=r"particles \(5, 3\), expected \(..., 2\)"):
        build("data", "linear_dynamical_system").advance(torch.zeros(5, 3))
    field = build("dynamics", "particle_field", width=2, inputs=3)
    with pytest.raises(Incompatible, match="drive=context"):
        Flow(field)(torch.zeros(1, 4, 2))
    assert isinstance(field, nn.Module)


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_trained_flow_beats_one_pass_monte_carlo():
    """On new sequences, after 10 observations, with the same 256 particles; without the summary it is worse."""
    data = word("data", {"name": "gaussian_stream", "n": 2400}).build()
    truth = data.sequences(100, 10**6)
    generator = torch.Generator().manual_seed(0)
    particles = torch.randn(100, 256, 2, generator=generator, dtype=torch.float64)
    weighted = one_pass_smc(particles, truth.observations[:, :10], likelihood_of(data.likelihood()))[-1]

    def error(mean, covariance):
        return float((mean - truth.mean[:, 9]).square().mean().sqrt()), float(
            (covariance - truth.covariance[:, 9]).square().mean().sqrt()
        )

    found = {}
    for summary in (16, 0):
        torch.manual_seed(0)
        flow = {"name": "particle_flow", "summary": summary, "hidden": 32}
        run = odeframe.compose(flow, data, dynamics="affine_particle_field", learning_rate=1e-2)
        run.fit(max_epochs=8, logger=False, enable_checkpointing=False, enable_progress_bar=False)
        sets = particles.float()
        for observation in truth.observations[:, :10].float().unbind(1):
            sets = run.module.eval().assimilate(sets, observation)
        found[summary] = error(*moments(sets.double()))
        assert all(len(torch.unique(each, dim=0)) == 256 for each in sets)
    reference = error(weighted.mean, weighted.covariance)
    assert found[16][0] < reference[0] and found[16][1] < reference[1]
    assert found[0][0] > 1.5 * found[16][0]
