"""Adapters to other libraries: accuracy of every method, failures as a status, gradients, absence."""

import subprocess
import sys

import pytest
import torch
import torchdiffeq
from torch import nn

import odeframe
from odeframe import Dynamics, Flow, Noise, Status, StochasticDynamics
from odeframe.costs import RunningCost
from odeframe.testing import SolverConformance
from odeframe.testing.problems import Liouville
from odeframe.testing.stepwise import WatchedField

FIXED = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4, "explicit_adams": 3, "implicit_adams": 4}
ADAPTIVE = ("dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun")
SCIPY = ("RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA")
SDE = [("ito", m) for m in ("euler", "milstein", "srk")] + [
    ("stratonovich", m) for m in ("euler_heun", "heun", "midpoint", "milstein", "reversible_heun")
]


class TestTorchdiffeqDopri5(SolverConformance):
    solver = {"name": "torchdiffeq", "method": "dopri5"}


@pytest.mark.slow
class TestTorchdiffeqRK4(SolverConformance):
    solver = {"name": "torchdiffeq", "method": "rk4"}
    order = 4


class TestTorchode(SolverConformance):
    solver = "torchode"

    def test_output_times_off_the_grid(self):
        """Between steps the library's interpolation is an order below: within 10 times the tolerance 1e-6."""
        times = (0.0, 0.03, 0.3, 0.59, 0.77, 1.0)
        states = self.flow(Liouville()).solve(X0, times).states
        for t, x in zip(times, states, strict=True):
            assert float((x - Liouville.exact(X0, Liouville.clock(t))).detach().abs().max()) < 1e-5


class ForwardOnly:
    """A solver without gradients of its own: in a flow it needs the adjoint, which needs no more than solves."""

    def flow(self, dynamics, control="constant", **options):
        words = {name: options.pop(name) for name in ("horizon", "quadratures") if name in options}
        options.pop("steps", None)
        return Flow(dynamics, control, self.make(**options), "adjoint", **words).eval()


@pytest.mark.slow
class TestScipyRK45(ForwardOnly, SolverConformance):
    solver = "scipy"


@pytest.mark.slow
class TestTorchsde(SolverConformance):
    solver = "torchsde"

    def test_solving_back_returns(self):
        """It does not: a stochastic equation is solved forward in time, and the refusal says so."""
        flow, x0 = self.flow(Liouville(), steps=4), Liouville.start()
        with pytest.raises(odeframe.InvalidOption, match="forward in time"):
            flow.solve(x0, (1.0, 0.0))

    def test_steps_stay_in_their_interval(self):
        """Every evaluation of a step lies between its ends."""
        flow, x0, noise = self.network()
        flow.solver.solve(WatchedField(flow.field(noise=noise)), x0, (0.0, 0.1, 1.0))


X0 = Liouville.start()


def error(solver, **options):
    gradient = "backprop" if solver == "torchode" else "adjoint"
    flow = Flow(Liouville(), solver={"name": solver, **options}, horizon=(0, 1.5), gradient=gradient)
    times = (0.0, 0.4, 1.1, 1.5)
    with torch.no_grad():
        states = flow.solve(X0, times).states
    return max(
        float((x - Liouville.exact(X0, Liouville.clock(t))).abs().max()) for t, x in zip(times, states, strict=True)
    )


def test_every_method_of_the_installed_torchdiffeq_is_tested():
    from torchdiffeq._impl.odeint import SOLVERS

    assert set(SOLVERS) == {*FIXED, *ADAPTIVE, "fixed_adams", "scipy_solver"}


@pytest.mark.parametrize("method", [*FIXED, "fixed_adams"])
def test_torchdiffeq_on_a_grid(method):
    """The error at output times falls with the method's order."""
    order, options = FIXED.get(method, 4), {}
    if method == "explicit_adams":
        options["options"] = {"max_order": 4}  # by default it goes to orders that are unstable here; it starts low
    coarse, fine = (error("torchdiffeq", method=method, steps=n, **options) for n in (30, 120))
    assert fine < 1.5 * coarse / 4**order + 1e-12 and coarse < 0.2


@pytest.mark.parametrize("method", [*ADAPTIVE, "scipy_solver"])
def test_torchdiffeq_with_tolerances(method):
    rtol = 1e-5 if method in ("fehlberg2", "adaptive_heun") else 1e-8
    assert error("torchdiffeq", method=method, rtol=rtol, atol=rtol / 10) < 1000 * rtol  # between steps, too


@pytest.mark.parametrize(("method", "rtol"), [("dopri5", 1e-8), ("tsit5", 1e-8), ("heun", 1e-5)])
def test_torchode_with_tolerances(method, rtol):
    assert error("torchode", method=method, rtol=rtol, atol=rtol / 10) < 100 * rtol


@pytest.mark.parametrize("method", SCIPY)
def test_scipy_with_tolerances(method):
    assert error("scipy", method=method, rtol=1e-8, atol=1e-9) < 1e-6


def test_torchdiffeq_equals_the_library_itself():
    """One stretch, one output: the same numbers."""
    flow = Flow(Liouville(), solver={"name": "torchdiffeq", "method": "dopri5", "rtol": 1e-6, "atol": 1e-8})
    with torch.no_grad():
        expected = torchdiffeq.odeint(flow.dynamics, X0, torch.tensor([0.0, 1.0]).double(), rtol=1e-6, atol=1e-8)
        assert torch.equal(flow(X0), expected[-1])


SQUARE = """
import torch, odeframe
field, x0 = (lambda t, x: x**2), torch.tensor([[0.1], [2.0]], dtype=torch.float64)
words = {words!r}
try:
    with torch.no_grad():
        odeframe.solve(field, x0, (0.0, 3.0), **words)
    print("SUCCESS")
except odeframe.SolveFailed as error:
    print(error.status.name, error.worst_sample, 0.2 < error.t < 3.0, error.nfe > 0)
"""
BLOW_UPS = [
    *({"solver": "torchdiffeq", "method": m, "rtol": 1e-3, "max_steps": 500} for m in (*ADAPTIVE, "scipy_solver")),
    *({"solver": "torchdiffeq", "method": m, "steps": 200} for m in (*FIXED, "fixed_adams")),
    *({"solver": "torchode", "method": m, "rtol": 1e-4, "max_steps": 500} for m in ("dopri5", "tsit5", "heun")),
    *({"solver": "scipy", "method": m, "rtol": 1e-4, "max_steps": 300} for m in SCIPY),
]
FAILURES = [f"{status} 1 True True" for status in ("NON_FINITE", "STEP_TOO_SMALL", "TOO_MANY_STEPS")]


@pytest.mark.parametrize(
    "words",
    [words for words in BLOW_UPS if words["method"] in ("dopri5", "rk4", "RK45", "BDF")],
    ids=lambda words: f"{words['solver']}-{words['method']}",
)
def test_a_pole_ends_in_a_status(words, capsys):
    """y' = y^2 past its pole at 1/2: no assertion, no silent NaN, no endless loop."""
    exec(SQUARE.format(words=words), {})
    (line,) = capsys.readouterr().out.splitlines()
    assert line in FAILURES


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["torchdiffeq", "torchode", "scipy"])
def test_a_pole_ends_in_a_status_without_asserts(solver):
    """The same under ``python -O``, for every method in one process."""
    scripts = "".join(SQUARE.format(words=words) for words in BLOW_UPS if words["solver"] == solver)
    command = [sys.executable, "-O", "-c", scripts]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == sum(words["solver"] == solver for words in BLOW_UPS)
    assert set(lines) <= set(FAILURES)


class Weighted(Dynamics):
    """f(t, x) = tanh(W x) with a per-sample time that it must take."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.3, 1.0], [-1.2, 0.1]], dtype=torch.float64))

    def forward(self, t, x, u=None):
        return torch.tanh(x @ self.weight.T) * (1 + 0.1 * t).reshape(-1, 1)


def gradients(**words):
    flow, x0 = (
        Flow(Weighted(), **words),
        torch.tensor([[1.0, 0.5], [-0.3, 0.8]], dtype=torch.float64, requires_grad=True),
    )
    cost = RunningCost(lambda t, x: x.square().sum(1), weight=0.3)
    flow = Flow(Weighted(), quadratures=[cost], **words)
    solution = flow.solve(x0)
    loss = solution.final.sin().sum() + flow.running_cost(solution).sum()
    return torch.autograd.grad(loss, [x0, *flow.parameters()])


@pytest.mark.parametrize(
    "words",
    [
        {"solver": {"name": "torchdiffeq", "method": "dopri5", "rtol": 1e-9}},
        {"solver": {"name": "torchdiffeq", "method": "rk4", "steps": 100}},
        {"solver": {"name": "torchdiffeq", "method": "dopri5", "rtol": 1e-9}, "gradient": "adjoint"},
        {"solver": {"name": "torchdiffeq", "method": "scipy_solver", "rtol": 1e-9}, "gradient": "adjoint"},
        {"solver": {"name": "torchode", "rtol": 1e-9}},
        {"solver": {"name": "scipy", "rtol": 1e-9}, "gradient": "adjoint"},
        {"solver": {"name": "scipy", "method": "Radau", "rtol": 1e-9}, "gradient": "adjoint"},
    ],
    ids=str,
)
def test_gradients_are_those_of_the_equation(words):
    """Of x0 and parameters, through the end state and a running cost, against fine steps of ours."""
    expected = gradients(solver={"name": "rk4", "steps": 200})
    for found, exact in zip(gradients(**words), expected, strict=True):
        assert float((found - exact).abs().max()) < 1e-6


@pytest.mark.parametrize("solver", ["scipy", {"name": "torchdiffeq", "method": "scipy_solver"}], ids=str)
def test_forward_only_solvers_lose_no_gradient_in_silence(solver):
    """Refused with a gradient that differentiates steps; refused at run time where something asks for one."""
    with pytest.raises(odeframe.Incompatible, match=r"forward_only.*adjoint"):
        Flow(Weighted(), solver=solver)
    built = (
        odeframe.build("solver", solver)
        if isinstance(solver, str)
        else odeframe.registry.word("solver", solver).build()
    )
    x0 = torch.ones(2, 2, dtype=torch.float64)
    with pytest.raises(odeframe.Incompatible, match="adjoint"):
        odeframe.solve(Weighted(), x0, (0, 1), built)  # a parameter
    with pytest.raises(odeframe.Incompatible, match="adjoint"):
        odeframe.solve(lambda t, x: -x, x0.requires_grad_(), (0, 1), built)
    with torch.no_grad():
        assert odeframe.solve(Weighted(), x0, (0, 1), built).status is Status.SUCCESS


def stiff(t, x):
    """x' = -r (x - cos t) with a rate for each sample, ``x = (x, r)``."""
    rate = x[:, 1:]
    return torch.cat([-rate * (x[:, :1] - torch.cos(t).reshape(-1, 1)), 0 * rate], dim=1)


@pytest.mark.slow
def test_torchode_steps_every_sample_alone():
    """One stiff sample of 32 leaves the others' states as they are alone; with one norm for all they change."""
    rates = torch.linspace(0.5, 2.0, 32, dtype=torch.float64)
    x0 = torch.stack([torch.linspace(-1, 1, 32, dtype=torch.float64), rates], dim=1)
    hard = x0.clone()
    hard[7, 1] = 2000.0
    others = [i for i in range(32) if i != 7]
    mild, mixed = (odeframe.solve(stiff, x, (0, 2), "torchode", rtol=1e-5) for x in (x0, hard))
    assert torch.equal(mixed.final[others], mild.final[others])
    assert mixed.stats.accepted > mild.stats.accepted + 300
    joint = odeframe.solve(stiff, hard, (0, 2), "dopri5", rtol=1e-5).final
    assert not torch.equal(joint[others], odeframe.solve(stiff, x0, (0, 2), "dopri5", rtol=1e-5).final[others])


def test_torchode_refuses_what_joins_the_batch():
    with pytest.raises(odeframe.Incompatible, match="batch_norm"):
        Flow(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), solver="torchode")
    with pytest.raises(odeframe.Incompatible, match="per_sample"):
        Flow(Weighted(), solver="torchode", gradient="adjoint")


class Geometric(StochasticDynamics):
    """dX = l X dt + m X dB: in Ito's sense log X(1) = l - m^2/2 + m B, in Stratonovich's l + m B."""

    drift, spread = 0.5, 0.6

    def forward(self, t, x, u=None):
        return self.drift * x

    def diffusion(self, t, x, u=None):
        return self.spread * x


@pytest.mark.slow
@pytest.mark.parametrize(("sense", "method"), SDE)
def test_torchsde_solves_the_equation_in_its_sense(sense, method):
    """Against the closed form along the same path: the strong error falls as the steps do, and is small."""
    n, errors = 400, []
    for steps in (16, 256):
        solver = {"name": "torchsde", "method": method, "sde_type": sense, "steps": steps}
        noise, x0 = Noise(3), torch.ones(n, 1, dtype=torch.float64)
        x = Flow(Geometric(), solver=solver)(x0, noise=noise).flatten()
        path = sum(noise.on(k).normal(x0, (1,)) for k in range(steps)).flatten() / steps**0.5
        drift = Geometric.drift - (Geometric.spread**2 / 2 if sense == "ito" else 0.0)
        errors.append(float((x - torch.exp(drift + Geometric.spread * path)).abs().mean()))
    order = {"euler": 0.5, "euler_heun": 1.0, "srk": 1.5}.get(method, 1.0)
    assert errors[1] < 2 * errors[0] / 16**order and errors[1] < 0.04


def test_torchsde_euler_is_euler_maruyama():
    """The same draws give the same states: noise is keyed by (seed, sample, step), and by nothing else."""
    torch.manual_seed(0)
    dynamics = odeframe.build("dynamics", "diffusion_mlp", width=3).double()
    x0 = torch.randn(4, 3, dtype=torch.float64)
    ours, theirs = (
        Flow(dynamics, solver={"name": name, "steps": 6})(x0, noise=Noise(1)) for name in ("euler_maruyama", "torchsde")
    )
    assert float((ours - theirs).detach().abs().max()) < 1e-14


@pytest.mark.slow
@pytest.mark.parametrize(("sense", "method"), SDE)
def test_torchsde_gradients_and_evaluation(sense, method):
    """Gradients of given draws equal central differences; without noise every method solves the drift."""
    torch.manual_seed(0)
    solver = {"name": "torchsde", "method": method, "sde_type": sense, "steps": 2}
    flow = Flow({"name": "diffusion_mlp", "width": 2}, solver=solver).double()
    names, values = zip(*flow.named_parameters(), strict=True)
    x0 = torch.randn(2, 2, dtype=torch.float64)

    def run(*parameters):
        words = (dict(zip(names, parameters, strict=True)), (x0,), {"noise": Noise(5)})
        return torch.func.functional_call(flow, *words)

    assert torch.autograd.gradcheck(run, tuple(v.detach().clone().requires_grad_() for v in values))
    fine = Flow(flow.dynamics, solver={**solver, "steps": 200}).eval()(x0)
    exact = odeframe.solve(flow.dynamics, x0, (0, 1), "rk4", steps=50).final
    assert float((fine - exact).detach().abs().max()) < 1e-2


def test_bad_options_are_refused():
    for name, options in (
        ("torchdiffeq", {"method": "rk5"}),
        ("torchdiffeq", {"method": "dopri5", "steps": 3}),
        ("torchdiffeq", {"options": {"speed": True}}),
        ("torchode", {"method": "euler"}),
        ("torchode", {"rtol": -1.0}),
        ("scipy", {"method": "odeint"}),
        ("scipy", {"max_steps": 0}),
        ("torchsde", {"method": "srk", "sde_type": "stratonovich"}),
        ("torchsde", {"sde_type": "both"}),
    ):
        with pytest.raises(odeframe.InvalidOption, match="|".join(options).replace("options", "no option speed")):
            odeframe.build("solver", name, **options)


def test_what_an_adapter_cannot_do_is_refused_in_one_line():
    x0, times = torch.ones(2, 2, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    for name in ("torchdiffeq", "torchode"):
        with pytest.raises(odeframe.InvalidOption, match="gradient of the times"):
            odeframe.solve(lambda t, x: -x, x0, times, name)
    with pytest.raises(odeframe.Incompatible, match="times"):
        odeframe.solve(lambda t, x: -x, x0, times, "scipy")
    for name in ("torchdiffeq", "torchode", "scipy"):
        flow = Flow(nn.Linear(2, 2), solver=name, gradient="backprop" if name != "scipy" else "adjoint")
        with pytest.raises(odeframe.InvalidOption, match="stop rules"):
            flow.double().solve(x0, stop=lambda t, x, memory: x[:, 0] > 0)
    with pytest.raises(odeframe.InvalidOption, match="complex"):
        odeframe.solve(lambda t, x: -x, x0.to(torch.complex128), (0, 1), "torchode")
    with pytest.raises(odeframe.InvalidOption, match="complex"):
        odeframe.solve(lambda t, x: -x, x0.to(torch.complex128), (0, 1), "scipy", method="LSODA")
    turned = odeframe.solve(lambda t, x: 1j * x, x0.to(torch.complex128), (0, 1), "scipy", rtol=1e-9).final
    assert float((turned - torch.exp(torch.tensor(1j))).abs().max()) < 1e-7


@pytest.mark.parametrize("name", ["torchode", "torchsde", "scipy"])
def test_an_absent_library_is_named_with_its_extra(name, monkeypatch):
    """Listed all the same, as "needs X"; asked for, the error says what to install."""
    monkeypatch.setitem(sys.modules, name, None)
    assert name in odeframe.available("solver")
    text = f"needs {name}: pip install odeframe[{name}]"
    assert odeframe.describe("solver", name)["missing"] == text
    with pytest.raises(odeframe.UnknownComponent) as caught:
        odeframe.build("solver", name)
    assert text in str(caught.value)


@pytest.mark.slow
def test_libraries_are_imported_on_use_alone():
    script = (
        "import sys, odeframe; odeframe.available('solver'); odeframe.build('solver', 'rk4'); "
        "print([m for m in ('torchode', 'torchsde', 'torchdiffeq', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.strip() == "[]"
