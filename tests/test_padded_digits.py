"""Digits kept through 392 items of noise: what the benchmark measures, and its claim in a size for tests."""

from __future__ import annotations

import pytest
import torch

from benchmarks import padded_digits
from benchmarks.padded_digits import accuracy, cell_of, jacobian_cost, kept, network, objective, path, train
from odeframe import build
from odeframe.jacobian_costs import JacobianFrobenius


@pytest.mark.parametrize("name", ["gated", "ungated"])
def test_the_cost_is_the_running_cost_of_that_name(name: str) -> None:
    """``jacobian_frobenius``, exact, that Euler's steps integrate with the state."""
    torch.manual_seed(0)
    model, x, y = network(name, 12, 0.5).double(), torch.randn(4, 12, 8, dtype=torch.float64), torch.arange(4)
    loss, whole = objective(model, x, y, 0.3)
    flow, (h, drive) = model.get_submodule("stages.flow"), model.get_submodule("stages.stem")(x)
    solution = flow.solve(h, drive=drive, quadratures=[JacobianFrobenius(exact=True)])
    expected = solution.quadratures["jacobian_frobenius"][-1].mean()
    torch.testing.assert_close(whole - loss, 0.3 * expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(model(x), y), rtol=1e-12, atol=0)
    cost = jacobian_cost(cell_of(model), torch.stack(path(model, x)), x, 0.5)
    torch.testing.assert_close(0.3 * cost, whole - loss, rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", ["gated", "plain"])
def test_the_path_is_the_networks_own(name: str) -> None:
    torch.manual_seed(0)
    model, x = network(name, 12, 0.5), torch.randn(4, 12, 8)
    states = path(model, x)
    assert len(states) == 13
    torch.testing.assert_close(model.get_submodule("stages.head")(states[-1]), model(x))


@pytest.mark.parametrize(("gated", "sign"), [(False, -1), (True, 1)])
def test_a_gate_turns_the_shift_of_the_spectrum_into_growth(gated: bool, sign: int) -> None:
    """Where the value is near -1 the derivative of sigmoid tanh is negative, and ``gamma`` drives states apart."""
    cell = build("dynamics", "antisymmetric_cell", width=3, inputs=2, gamma=1.0, gated=gated).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        cell.read.bias.fill_(-2.0)
    rate = lambda h: cell.rate(h, torch.zeros(1, 2, dtype=torch.float64)).sum(0)  # noqa: E731
    jacobian = torch.autograd.functional.jacobian(rate, torch.zeros(1, 3, dtype=torch.float64))[:, 0]
    assert float(torch.linalg.eigvals(jacobian).real.max()) * sign > 0


def learned(name: str) -> tuple[float, list[float]]:
    """Test accuracy on 400 items, and sizes of the gradient, after the benchmark's stages with a short last one."""
    torch.manual_seed(0)
    model = network(name, 16, 0.5)
    for length, copies in ((16, 20), (32, 10), (64, 8), (128, 6), (400, 2)):
        model, before = network(name, length, 0.5), model
        model.load_state_dict(before.state_dict())
        train(model, length, copies, 0.01, padded_digits.WEIGHT)
    return accuracy(model, 400), kept(model, 400)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_was_read_is_kept_with_a_gradient_of_one_size() -> None:
    reached, sizes = learned("gated")
    assert reached > 0.8, f"guessing reads 0.10, the network {reached:.3f}"
    assert max(*sizes, 1.0) / min(*sizes, 1.0) < 20, sizes


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_plain_network_has_no_gradient_left_of_what_it_read() -> None:
    reached, sizes = learned("plain")
    assert reached < 0.6
    assert sizes[0] < 1e-6 or sizes[0] > 1e6, sizes
