"""Mixed precision: states and error norms in float32 or better, the fields in half, for every part that takes it."""

import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

import odeframe
from odeframe import Flow, Incompatible
from odeframe.compatibility import traits_of
from odeframe.component import resolve
from odeframe.event import StopWatch
from odeframe.field import FlowField
from odeframe.sample_pace import SamplePace
from odeframe.testing.trainers import QUIET
from test_data_parallel import composed

TRAINERS = odeframe.available("trainer")
SOLVERS = odeframe.available("solver")
RANDOM = ("bernoulli_euler", "euler_maruyama", "shake", "torchsde")
QUICK = ("euler", "rk4", "ab3", "layer_parallel", "implicit_midpoint")
DYNAMICS = ({"name": "mlp", "width": 4}, *({"name": name, "width": 4} for name in odeframe.available("dynamics")))
PAGE = Path(__file__).resolve().parents[1] / "docs" / "parts" / "precision.md"


def takes_mixed(trainer):
    return bool({"automatic", "mixed_precision"} & set(traits_of("trainer", trainer)))


def fit(trainer, folder, **options):
    module, data = composed(trainer)
    module = module.float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = pl.Trainer(max_epochs=1, default_root_dir=str(folder), **{**QUIET, "devices": 1, **options})
        before = [p.detach().clone() for p in module.network.parameters()]
        engine.fit(module, datamodule=data)
    return module, before, engine


@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_trainer_trains_in_bf16_mixed_or_refuses_it_by_name(trainer, tmp_path):
    if not takes_mixed(trainer):
        with pytest.raises(Incompatible, match=rf"{trainer}.*bf16-mixed; write 32-true"):
            fit(trainer, tmp_path, precision="bf16-mixed")
        return
    module, before, engine = fit(trainer, tmp_path, precision="bf16-mixed")
    after = list(module.network.parameters())
    assert all(p.dtype == torch.float32 and bool(p.isfinite().all()) for p in after)
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.isfinite(engine.callback_metrics["train_loss"])


def built(solver):
    """A flow with the solver and the first dynamics that it takes."""
    options = dict(resolve("solver", solver).part.example)
    if solver == "hyper_euler":
        options["width"] = 4
    gradient = "adjoint" if "forward_only" in traits_of("solver", solver) else "backprop"
    for dynamics in DYNAMICS:
        try:
            torch.manual_seed(0)
            flow = Flow(dynamics, solver={"name": solver, **options}, gradient=gradient)
        except Incompatible:
            continue
        shape = (6, 4, 4, 4) if "conv" in dynamics["name"] else (6, 4)
        return flow, torch.randn(shape, generator=torch.Generator().manual_seed(1))
    raise AssertionError(f"no dynamics for {solver}")


@pytest.mark.parametrize("solver", [s if s in QUICK else pytest.param(s, marks=pytest.mark.slow) for s in SOLVERS])
def test_states_are_float32_under_autocast_and_results_close(solver):
    """The gradients too, with the backward pass outside of autocast; implicit equations are refused."""
    flow, x = built(solver)
    if "implicit" in traits_of("solver", solver):
        with pytest.raises(Incompatible, match="autocast"), torch.autocast("cpu", torch.bfloat16):
            flow(x)
        return
    x.requires_grad_(True)
    exact = flow(x)
    exact.square().mean().backward()
    expected, x.grad = x.grad, None
    with torch.autocast("cpu", torch.bfloat16):
        found = flow(x.bfloat16())
    found.square().mean().backward()
    assert found.dtype == torch.float32
    if solver not in RANDOM:
        assert float((found - exact).detach().abs().max()) < 0.05 * float(exact.detach().abs().max())
        assert float((x.grad - expected).abs().max()) < 0.1 * float(expected.abs().max())


@pytest.mark.parametrize("solver", ["dopri5", {"name": "dopri5", "per_sample": True}])
def test_slopes_and_error_norms_are_float32_where_the_field_computes_in_half(solver, monkeypatch):
    """In bfloat16 the differences of stages would lose all digits below 1/256 of a slope before they are summed."""
    seen, norms = set(), set()
    for name in ("error_norm", "sample_norm"):
        plain = getattr(FlowField, name)
        monkeypatch.setattr(FlowField, name, lambda self, r, f=plain: norms.add(r.dtype) or f(self, r))
    flow = Flow(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4)), solver=solver)
    flow.dynamics.register_forward_hook(lambda module, given, out: seen.add((given[1].dtype, out.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        end = flow(torch.randn(5, 4).bfloat16())
    assert seen == {(torch.float32, torch.bfloat16)} and norms == {torch.float32} and end.dtype == torch.float32


def test_without_autocast_nothing_is_lifted():
    flow = Flow(nn.Linear(4, 4), solver="euler").bfloat16()
    assert flow(torch.randn(5, 4).bfloat16()).dtype == torch.bfloat16
    with pytest.raises(odeframe.InvalidOption, match="bfloat16"):
        Flow(nn.Linear(4, 4), solver="euler")(torch.randn(5, 4).bfloat16())


def test_fp16_on_a_cpu_becomes_bf16_and_says_so():
    with pytest.warns(UserWarning, match=r"fp16 is not supported on CPU.*bf16-mixed"):
        engine = pl.Trainer(**{**QUIET, "devices": 1, "precision": "16-mixed"})
    assert engine.precision == "bf16-mixed"


def test_a_device_without_float64_is_refused_where_samples_have_times_of_their_own():
    """All other times are on the host; without the device at hand a shape and its name stand for the state."""
    state = SimpleNamespace(shape=(3, 2), device=torch.device("mps"))
    with pytest.raises(Incompatible, match=r"Dopri5: per_sample=True .* mps has none: write per_sample=False"):
        SamplePace(odeframe.build("solver", "dopri5", per_sample=True), None, state, None)
    with pytest.raises(Incompatible, match=r"a stop rule .* mps has none"):
        StopWatch(None, state, (0.0, 1.0))


def test_the_page_lists_who_takes_it():
    """Every trainer and every refused solver, in the line where it belongs."""
    lines = {line.split("|")[1].strip(): line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("|")}
    for trainer in TRAINERS:
        assert f"`{trainer}`" in lines["trainers that take it" if takes_mixed(trainer) else "trainers that refuse it"]
    for solver in SOLVERS:
        assert (f"`{solver}`" in lines["solvers that refuse it"]) == ("implicit" in traits_of("solver", solver))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("trainer", [name for name in TRAINERS if takes_mixed(name)])
def test_on_a_gpu(trainer, precision, tmp_path):
    module, before, _ = fit(trainer, tmp_path, precision=precision, accelerator="cuda")
    after = [p.cpu() for p in module.network.parameters()]
    assert all(bool(p.isfinite().all()) for p in after)
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
