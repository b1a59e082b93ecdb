"""Every control trains on digits."""

import pytest
import pytorch_lightning as pl

import odeframe

PIECES = {"name": "piecewise_constant", "pieces": 3}
CONTROLS = {
    "constant": "constant",
    "piecewise_constant": "piecewise_constant",
    "piecewise_linear": "piecewise_linear",
    "legendre": "galerkin",
    "chebyshev": {"name": "galerkin", "basis": "chebyshev"},
    "fourier": {"name": "galerkin", "basis": "fourier", "degree": 1},
    "bspline": {"name": "galerkin", "basis": "bspline", "degree": 2},
    "hypernetwork": {"name": "hypernetwork", "rank": 4},
    "time_concat": "time_concat",
    "feedback": "feedback",
    "feedback_summary": "feedback_summary",
    **{name: {"name": name, "of": PIECES} for name in ("binary", "ternary", "box", "antisymmetric", "spectral_norm")},
}


def accuracy(architecture, control, path):
    """On the test images, after ten epochs."""
    pl.seed_everything(0)
    run = odeframe.compose({"name": architecture, "width": 16}, data="digits", control=control, output=str(path))
    run.fit(max_epochs=10, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    return run.test()["test_accuracy"]


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", CONTROLS)
def test_resnet(name, tmp_path):
    """A pre-activation ResNet of two stages of three blocks."""
    assert accuracy("resnet", CONTROLS[name], tmp_path) >= 0.95


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", ["legendre", "feedback"])
def test_neural_ode(name, tmp_path):
    """One block under adaptive steps."""
    assert accuracy("neural_ode", CONTROLS[name], tmp_path) >= 0.95
