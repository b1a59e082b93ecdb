"""Constrained weights: what each constraint promises, over stored pieces and computed weights alike."""

import math

import pytest
import torch
from torch import nn

import odeframe
from odeframe import Dynamics, Flow, InvalidOption

RK4 = {"name": "rk4", "steps": 4}
UNDERNEATH = [
    "constant",
    "piecewise_constant",
    "piecewise_linear",
    {"name": "galerkin", "init": "reset"},
    "hypernetwork",
    "time_concat",
]


@pytest.fixture(autouse=True)
def double_precision():
    """Identities are claimed to round-off."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Net(Dynamics):
    """Two layers, of which one is square."""

    def __init__(self, width=4, hidden=4):
        super().__init__()
        self.lift, self.lower = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, t, x, u=None):
        return self.lower(torch.tanh(self.lift(x)))


def matrices(flow, t=0.3):
    """The weight matrices at a time."""
    time = torch.tensor(t)
    values = flow.control.on(time, time).parameters(time)
    return [value for name, value in values.items() if value.dim() >= 2]


@pytest.mark.parametrize("of", UNDERNEATH, ids=str)
class TestPromises:
    def test_binary(self, of):
        for matrix in matrices(Flow(Net(), {"name": "binary", "of": of}, RK4)):
            size = matrix.abs()
            assert float((size - size[:, :1]).abs().max()) <= 1e-15 and bool((size > 0).all())

    def test_ternary(self, of):
        flow = Flow(Net(16, 16), {"name": "ternary", "of": of}, RK4)
        for matrix in matrices(flow):
            size, top = matrix.abs(), matrix.abs().amax(1, keepdim=True)
            assert bool(((size <= 1e-15) | ((size - top).abs() <= 1e-15)).all())
            assert 0.1 < float((size <= 1e-15).double().mean()) < 0.9

    def test_antisymmetric(self, of):
        for matrix in matrices(Flow(Net(), {"name": "antisymmetric", "of": of, "damping": 0.2}, RK4)):
            real = torch.linalg.eigvals(matrix).real
            torch.testing.assert_close(real, torch.full((4,), -0.2), rtol=0, atol=1e-12)

    def test_spectral_norm(self, of):
        for matrix in matrices(Flow(Net(), {"name": "spectral_norm", "of": of, "bound": 0.1}, RK4)):
            assert float(torch.linalg.matrix_norm(matrix, 2)) == pytest.approx(0.1, abs=1e-12)
        free, bounded = (Flow(Net(), word, RK4) for word in (of, {"name": "spectral_norm", "of": of, "bound": 1e3}))
        bounded.control.inner.load_state_dict(free.control.state_dict())
        x0 = torch.randn(3, 4)
        torch.testing.assert_close(bounded(x0), free(x0), rtol=0, atol=1e-14)

    def test_gradients_reach_the_weights_underneath(self, of):
        for name in ("binary", "ternary", "antisymmetric", "spectral_norm"):
            flow = Flow(Net(), {"name": name, "of": of}, RK4)
            flow(torch.randn(3, 4)).sin().sum().backward()
            assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in flow.parameters())

    def test_biases_and_coefficients_are_left(self, of):
        flow = Flow(Net(), {"name": "binary", "of": of}, RK4)
        time = torch.tensor(0.3)
        underneath = flow.control.inner.on(time, time).parameters(time)
        found = flow.control.on(time, time).parameters(time)
        assert all(torch.equal(found[n], underneath[n]) for n in found if found[n].dim() < 2)
        assert any(not torch.equal(found[n], underneath[n]) for n in found if found[n].dim() >= 2)


class TestQuantised:
    def test_the_scales_are_the_nearest_in_least_squares(self):
        """Of all a sign(V), the mean of |V| is nearest to V."""
        matrix = torch.randn(3, 50)
        control = odeframe.build("control", "binary")
        found = control.constrain(matrix)
        for factor in (0.9, 1.1):
            assert (found - matrix).square().sum() < (factor * found - matrix).square().sum()
        row = torch.tensor([[1.0, -0.1, 0.8, 0.05]])  # threshold 0.7 * 0.4875 = 0.34
        torch.testing.assert_close(
            odeframe.build("control", "ternary").constrain(row), torch.tensor([[0.9, 0, 0.9, 0]])
        )

    def test_straight_through(self):
        matrix = torch.randn(3, 5, requires_grad=True)
        weights = torch.randn(3, 5)
        for name in ("binary", "ternary"):
            (grad,) = torch.autograd.grad((odeframe.build("control", name).constrain(matrix) * weights).sum(), matrix)
            torch.testing.assert_close(grad, weights)

    def test_zero_has_a_sign(self):
        assert bool(torch.isfinite(odeframe.build("control", "ternary").constrain(torch.zeros(2, 3))).all())
        assert torch.equal(odeframe.build("control", "binary").constrain(torch.zeros(2, 3)), torch.zeros(2, 3))


class TestAntisymmetric:
    def test_a_linear_flow_keeps_the_norm(self):
        flow = Flow(nn.Linear(4, 4, bias=False), "antisymmetric", {"name": "rk4", "steps": 50}, horizon=(0.0, 2.0))
        x0 = torch.randn(5, 4)
        torch.testing.assert_close(flow(x0).norm(dim=1), x0.norm(dim=1), rtol=1e-6, atol=0)

    def test_a_convolution_is_antisymmetric_as_a_matrix(self):
        flow = Flow(nn.Conv2d(2, 2, 3, padding=1, bias=False), {"name": "antisymmetric", "damping": 0.3}, RK4)
        field = flow.field().on(torch.tensor(0.0), torch.tensor(1.0))
        inputs = torch.eye(2 * 16).reshape(32, 2, 4, 4)
        matrix = field(torch.tensor(0.0), inputs).reshape(32, 32)
        torch.testing.assert_close(matrix + matrix.T, -0.6 * torch.eye(32), rtol=0, atol=1e-14)

    def test_other_shapes_are_left_and_blocks_without_a_square_refused(self):
        flow = Flow(Net(4, 4), "antisymmetric", RK4)
        assert len(flow.control._names) == 2
        with pytest.raises(InvalidOption, match="none of the parameters"):
            Flow(Net(4, 5), "antisymmetric", RK4)


class TestSpectralNorm:
    def test_a_convolution_is_a_contraction(self):
        block = nn.Conv2d(2, 3, 3, padding=1, bias=False)
        with torch.no_grad():
            block.weight.mul_(20)
        kernel = odeframe.build("control", "spectral_norm", bound=0.7).constrain(block.weight)
        inputs = torch.eye(2 * 25).reshape(50, 2, 5, 5)
        matrix = nn.functional.conv2d(inputs, kernel, padding=1).reshape(50, -1)
        assert 0.2 < float(torch.linalg.matrix_norm(matrix, 2)) <= 0.7 + 1e-12

    def test_a_residual_step_is_lipschitz(self):
        flow = Flow(
            Net(), {"name": "spectral_norm", "of": "piecewise_constant", "bound": 0.5}, {"name": "euler", "steps": 4}
        )
        x, y = torch.randn(2, 50, 4).unbind(0)
        ratio = (flow(x) - flow(y)).norm(dim=1) / (x - y).norm(dim=1)
        assert float(ratio.max()) <= (1 + 0.25 / 4) ** 4 + 1e-12


class TestBox:
    @pytest.mark.parametrize(
        "of", ["constant", "piecewise_constant", {"name": "galerkin", "basis": "bspline"}], ids=str
    )
    def test_projection_after_a_step(self, of):
        flow = Flow(Net(), {"name": "box", "of": of, "low": -0.2, "high": 0.1}, RK4)
        optimizer = torch.optim.SGD(flow.parameters(), lr=10.0)
        flow(torch.randn(3, 4)).square().sum().backward()
        optimizer.step()
        assert max(float(p.detach().abs().max()) for p in flow.parameters()) > 0.2
        flow.control.project()
        for t in (0.0, 0.3, 1.0):
            time = torch.tensor(t)
            for value in flow.control.on(time, time).parameters(time).values():
                assert float(value.min()) >= -0.2 - 1e-15 and float(value.max()) <= 0.1 + 1e-15

    def test_starts_inside(self):
        flow = Flow(Net(), {"name": "box", "low": 0.0, "high": 0.01}, RK4)
        assert all(float(p.min()) >= 0 and float(p.max()) <= 0.01 for p in flow.parameters())

    @pytest.mark.parametrize("of", ["galerkin", "hypernetwork", "time_concat", "binary"])
    def test_computed_weights_are_refused(self, of):
        with pytest.raises(InvalidOption, match="no bounds on the weights"):
            Flow(Net(), {"name": "box", "of": of})

    def test_a_box_underneath_keeps_real_weights_of_binary_ones_small(self):
        flow = Flow(Net(), {"name": "binary", "of": {"name": "box", "low": -0.1, "high": 0.1}}, RK4)
        assert max(float(p.detach().abs().max()) for p in flow.parameters()) <= 0.1

    def test_projected_in_every_fit(self, tmp_path):
        torch.set_default_dtype(torch.float32)
        control = {"name": "box", "of": "piecewise_constant", "low": -0.05, "high": 0.05}
        run = odeframe.compose(
            {"name": "resnet", "blocks": 2}, data={"name": "two_moons"}, control=control, output=str(tmp_path)
        )
        run.fit(max_epochs=1, accelerator="cpu")
        sizes = [float(p.detach().abs().max()) for flow in run.module.network.flows for p in flow.parameters()]
        assert max(sizes) == pytest.approx(0.05)


class TestRefusals:
    def test_options(self):
        for word, match in (
            ({"name": "box", "low": 1.0, "high": 1.0}, "low < high"),
            ({"name": "spectral_norm", "bound": 0.0}, "bound"),
            ({"name": "antisymmetric", "damping": -1.0}, "damping"),
            ({"name": "binary", "of": "feedback"}, "other way round"),
            ({"name": "binary", "of": {"name": "galerkin", "order": 3}}, "no option 'order'"),
        ):
            with pytest.raises(InvalidOption, match=match):
                Flow(Net(), word)

    def test_nothing_to_constrain(self):
        with pytest.raises(InvalidOption, match="none of the parameters"):
            Flow(nn.LayerNorm(3), "binary")

    def test_pieces_are_passed_on(self):
        flow = Flow(Net(), {"name": "ternary", "of": "piecewise_constant", "pieces": 3}, "dopri5")
        assert flow.control.pieces == 3 and math.isclose(flow.control.breakpoints()[0], 1 / 3)


class ComplexField(nn.Module):
    """``x -> x W`` with a complex matrix."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 3, dtype=torch.complex128))

    def forward(self, t, x):
        return x @ self.w


@pytest.mark.parametrize("word", ["binary", "ternary", "box"])
def test_complex_weights_have_no_order(word):
    with pytest.raises(InvalidOption, match=r"got complex weights \(w\), expected real ones"):
        Flow(ComplexField(), word, {"name": "rk4", "steps": 4})


def test_complex_antisymmetric_weights_keep_the_norm():
    flow = Flow(ComplexField(), "antisymmetric", {"name": "rk4", "steps": 400})
    x = torch.randn(5, 3, dtype=torch.complex128)
    torch.testing.assert_close(flow(x).abs().square().sum(1), x.abs().square().sum(1), rtol=1e-8, atol=0)
