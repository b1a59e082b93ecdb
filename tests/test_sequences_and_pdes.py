"""Networks for sequences and for differential equations: what they compute, and the property that they claim."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import odeframe
from odeframe import Flow, Incompatible, InvalidOption, build
from odeframe.drive import SequenceDrive
from odeframe.specification import NetworkSpec
from odeframe.testing.architectures import ArchitectureConformance


class TestAntisymmetricRNN(ArchitectureConformance):
    architecture = {"name": "antisymmetric_rnn", "width": 6, "step": 0.2}
    input_shapes = ((5, 2),)
    solvers = ({"name": "rk4", "steps": 5}, {"name": "ab2", "steps": 10}, "dopri5")


class TestGatedAntisymmetricRNN(TestAntisymmetricRNN):
    architecture = {"name": "antisymmetric_rnn", "width": 6, "step": 0.2, "gated": True}


class TestPDENet(ArchitectureConformance):
    architecture = {"name": "pdenet", "interval": 0.01}
    input_shapes = ((1, 8, 8), (2, 9, 8))
    output_shape = (3, 1, 8, 8)
    solvers = ({"name": "euler", "steps": 2}, "dopri5")

    def build(self, shape, **words):
        self.output_shape = (3, *shape)
        network = super().build(shape, **words)
        for parameter in network.parameters():  # as built, no derivative counts and the flow stands still
            nn.init.uniform_(parameter, 0.01, 0.02)
        return network


@pytest.mark.parametrize("gated", [False, True])
def test_a_step_an_item_is_the_recurrence(gated: bool) -> None:
    torch.manual_seed(0)
    network = build("architecture", "antisymmetric_rnn", width=4, step=0.3, gamma=0.1, gated=gated)
    network = network.build(NetworkSpec((6, 2), (3,))).double()
    (cell,) = (m for m in network.modules() if hasattr(m, "rate"))
    w, h = torch.randn(2, 6, 2, dtype=torch.float64), torch.zeros(2, 4, dtype=torch.float64)
    matrix = cell.operator.weight
    for k in range(6):
        turned = h @ (matrix - matrix.t() - 0.1 * torch.eye(4, dtype=torch.float64)).t()
        value = torch.tanh(turned + cell.read(w[:, k]))
        h = h + 0.3 * (value * torch.sigmoid(turned + cell.gate(w[:, k])) if gated else value)
    x0, drive = network.stages["stem"](w)
    torch.testing.assert_close(network.stages["flow"](x0, drive=drive), h, rtol=0, atol=1e-13)


def test_the_elman_cell_with_unit_steps_is_the_plain_recurrent_network() -> None:
    torch.manual_seed(0)
    plain = nn.RNN(2, 4, batch_first=True).double()
    cell = build("dynamics", "elman_cell", width=4, inputs=2).double()
    with torch.no_grad():
        cell.operator.weight.copy_(plain.weight_hh_l0)
        cell.read.weight.copy_(plain.weight_ih_l0)
        cell.read.bias.copy_(plain.bias_ih_l0 + plain.bias_hh_l0)
    w = torch.randn(3, 7, 2, dtype=torch.float64)
    flow = Flow(cell, solver={"name": "euler", "steps": 7}, horizon=(0.0, 7.0))
    x0 = torch.zeros(3, 4, dtype=torch.float64)
    torch.testing.assert_close(flow(x0, drive=SequenceDrive(w, flow.horizon)), plain(w)[1][0], rtol=0, atol=1e-13)


def gradient_range(name: str, step: float, scale: float = 1.0) -> float:
    """|dJ/dh_0| / |dJ/dh_T| over 400 items of noise, for untrained weights times ``scale``."""
    torch.manual_seed(0)
    cell = build("dynamics", name, width=32, inputs=1).double()
    with torch.no_grad():
        cell.operator.weight.mul_(scale)
    flow = Flow(cell, solver={"name": "euler", "steps": 400}, horizon=(0.0, 400 * step))
    x0 = torch.zeros(16, 32, dtype=torch.float64, requires_grad=True)
    w = torch.randn(16, 400, 1, dtype=torch.float64)
    p = torch.randn(16, 32, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((flow(x0, drive=SequenceDrive(w, flow.horizon)) * p).sum(), x0)
    return float(gradient.norm() / p.norm())


def test_gradients_through_400_items_keep_their_size_where_a_plain_network_loses_them() -> None:
    kept = gradient_range("antisymmetric_cell", step=0.05)
    assert 1 / 20 < kept < 20, f"antisymmetric: {kept:.2e}"
    lost = gradient_range("elman_cell", step=1.0)
    assert lost < 1e-6 or lost > 1e6, f"plain: {lost:.2e}"


def test_a_cell_without_a_sequence_says_where_one_comes_from() -> None:
    with pytest.raises(Incompatible, match="SequenceDrive"):
        Flow(build("dynamics", "elman_cell", width=4, inputs=2))(torch.zeros(1, 4))
    with pytest.raises(InvalidOption, match="digits_rows has them"):
        build("architecture", "antisymmetric_rnn").build(NetworkSpec((1, 8, 8), (10,)))
    with pytest.raises(Incompatible, match="sequence"):
        odeframe.compose("antisymmetric_rnn", "digits")
    with pytest.raises(
        Incompatible, match=r"'sequence'.* An architecture that fits the other choices: antisymmetric_rnn"
    ):
        odeframe.compose("resnet", "digits_rows")


def test_digits_rows_are_the_digits_and_noise_after_them() -> None:
    plain, padded = build("data", "digits", flat=True), build("data", "digits_rows", length=70)
    rows = build("data", "digits_rows", per_step=8)
    (x, y), (items, labels), (lines, _) = (each.dataset("test").tensors for each in (plain, padded, rows))
    assert torch.equal(items[:, :64, 0], x) and torch.equal(labels, y)
    assert torch.equal(lines, x.reshape(-1, 8, 8)) and rows.spec.input_shape == (8, 8)
    noise = items[:, 64:]
    assert noise.shape == (360, 6, 1) and abs(float(noise.std()) - 1) < 0.1 and noise.unique().numel() == noise.numel()
    for option, value in (("per_step", 5), ("length", 63), ("seed", -1)):
        with pytest.raises(InvalidOption, match=option):
            build("data", "digits_rows", **{option: value})


def test_copies_of_a_digit_differ_in_their_noise_alone() -> None:
    once, thrice = (build("data", "digits_rows", length=10, per_step=8, limit=50, copies=n) for n in (1, 3))
    (x, y), (copied, labels) = (each.dataset("train").tensors for each in (once, thrice))
    first, *others = copied.chunk(3)
    assert torch.equal(first, x) and torch.equal(labels, torch.cat([y, y, y]))
    assert all(torch.equal(other[:, :8], x[:, :8]) for other in others)
    noise = copied[:, 8:]
    assert noise.unique().numel() == noise.numel() and abs(float(noise.std()) - 1) < 0.1
    for split in ("val", "test"):
        assert torch.equal(once.dataset(split).tensors[0], thrice.dataset(split).tensors[0])
    for options in ({"copies": 0, "length": 10}, {"copies": 2}):
        with pytest.raises(InvalidOption, match="copies"):
            build("data", "digits_rows", per_step=8, **options)


@pytest.mark.parametrize("accuracy", [1, 2])
def test_kernels_have_the_moments_of_their_derivatives(accuracy: int) -> None:
    torch.manual_seed(0)
    block = build("dynamics", "pde_conv", accuracy=accuracy).double()
    with torch.no_grad():
        block.moments.normal_()
    kernels, m = block.kernels(), torch.arange(-2.0, 3.0, dtype=torch.float64)
    for kernel, (i, j) in zip(kernels, block.terms, strict=True):
        for k in range(5):
            for order in range(5 - k):
                moment = float((kernel * m[:, None] ** k * m**order).sum()) / math.factorial(k) / math.factorial(order)
                if k + order < max(i + j + accuracy, 3):
                    assert moment == pytest.approx(float((k, order) == (i, j)), abs=1e-6)


def test_the_operator_is_its_differential_equation() -> None:
    """On a wave of low frequency, c_ij D_ij u against the derivatives, with an error of order 2 in the spacing."""
    errors = []
    for side in (32, 64):
        x = torch.arange(side, dtype=torch.float64) * 2 * math.pi / side
        u = torch.sin(x[:, None] + 2 * x)[None, None]
        block = build("dynamics", "pde_conv", spacing=2 * math.pi / side, train_kernels=False).double()
        with torch.no_grad():
            block.coefficients.copy_(torch.tensor([0.3, 0.8, -0.6, 0.2, 0.1, 0.4]))
        wave = torch.cos(x[:, None] + 2 * x)[None, None]
        exact = 0.3 * u + (0.8 - 1.2) * wave - (0.2 + 0.2 + 1.6) * u
        errors.append(float((block(torch.tensor(0.0), u) - exact).abs().max()))
    assert errors[0] / errors[1] > 3.5


def test_records_stay_and_the_loss_sees_every_time() -> None:
    torch.manual_seed(0)
    network = build("architecture", "pdenet", interval=0.1, spacing=1.0).build(NetworkSpec((1, 8, 8), (3, 1, 8, 8)))
    flow = network.flows[0]
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.uniform_(-0.1, 0.1)
    x = torch.randn(2, 1, 8, 8)
    states = [flow(x)]
    states += [flow(states[-1])]
    states += [flow(states[-1])]
    torch.testing.assert_close(network(x), torch.stack(states, dim=1))
    assert sum(1 for _ in network.parameters()) == 2, "one set of weights for all intervals"


def test_solutions_of_the_data_solve_their_equation() -> None:
    data = build("data", "convection_diffusion", n=20, noise=0.0, velocity=(0.5, 0.0), diffusion=0.1, modes=2)
    start, states = data.dataset("train").tensors
    assert start.shape[1:] == (1, 32, 32) and states.shape[1:] == (4, 1, 32, 32)
    assert float(start.square().mean()) == pytest.approx(1, abs=1e-4)
    wave = np.fft.fftfreq(32, 1 / 32)
    k = torch.as_tensor(wave)[:, None], torch.as_tensor(wave)[None]
    rate = 1j * 0.5 * k[0] - 0.1 * (k[0] ** 2 + k[1] ** 2)
    expected = torch.fft.ifft2(torch.fft.fft2(start.double()) * torch.exp(rate * 4 * 0.03)).real
    torch.testing.assert_close(states[:, 3].double(), expected, rtol=0, atol=1e-5)
    for option, value in (("n", 5), ("modes", 16), ("velocity", (1.0,)), ("noise", -1.0)):
        with pytest.raises(InvalidOption, match=option):
            build("data", "convection_diffusion", **{option: value})


def test_pdenet_asks_for_observations() -> None:
    with pytest.raises(InvalidOption, match="convection_diffusion has them"):
        build("architecture", "pdenet").build(NetworkSpec((1, 8, 8), (10,)))
    with pytest.raises(Incompatible, match="observations"):
        odeframe.compose("pdenet", "digits")
    with pytest.raises(InvalidOption, match="leave it out"):
        odeframe.compose({"name": "pdenet", "interval": 0.1}, {"name": "convection_diffusion", "n": 20})
    with pytest.raises(InvalidOption, match="interval between observations"):
        build("architecture", "pdenet").build(NetworkSpec((1, 8, 8), (3, 1, 8, 8)))
    model = odeframe.compose("pdenet", {"name": "convection_diffusion", "n": 20, "interval": 0.1}).module
    assert model.network.flows[0].horizon == (0.0, 0.1)
    with pytest.raises(InvalidOption, match="fit into them"):
        build("dynamics", "pde_conv", kernel=9)(torch.zeros(()), torch.zeros(1, 1, 8, 8))


@pytest.mark.slow
@pytest.mark.parametrize("train_kernels", [True, False])
def test_pdenet_recovers_the_coefficients(train_kernels: bool) -> None:
    """Noise of 1 %, 42 samples: each coefficient to 5 % of the largest of its kind, and none that is not there."""
    data = build("data", "convection_diffusion", n=60)
    x, y = (each.double() for each in data.dataset("train").tensors)
    dynamics = {"name": "pde_conv", "train_kernels": train_kernels}
    spec = NetworkSpec((1, 32, 32), (4, 1, 32, 32), interval=0.03)
    network = build("architecture", "pdenet").build(spec, dynamics=dynamics).double()
    optimizer = torch.optim.LBFGS(network.parameters(), max_iter=60, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (network(x) - y).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    (block,) = (m for m in network.modules() if hasattr(m, "named_coefficients"))
    truth = {(0, 0): 0.0, (1, 0): 0.8, (0, 1): -0.6, (2, 0): 0.2, (1, 1): 0.0, (0, 2): 0.2}
    for term, found in block.named_coefficients().items():
        assert abs(found - truth[term]) <= 0.05 * (abs(truth[term]) or 0.2), f"c_{term}: {found:.4f}"
