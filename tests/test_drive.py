"""Exogenous input on intervals: values, gradients, cost, and refusals."""

import pytest
import torch

from odeframe import Flow
from odeframe.drive import ConstantDrive, SequenceDrive, as_drive, equal_breakpoints, piece_index
from odeframe.errors import Incompatible, InvalidOption
from odeframe.testing.controls import Work
from problems import Driven, Rotation, batch

FINE = {"name": "rk4", "steps": 120}
TIGHT = {"name": "dopri5", "rtol": 1e-10, "atol": 1e-12}


@pytest.mark.parametrize("gradient", ["backprop", "adjoint"])
@pytest.mark.parametrize("solver", [FINE, TIGHT], ids=["rk4", "dopri5"])
@pytest.mark.parametrize("length", [1, 3, 4])
def test_a_sequence_is_held_on_equal_intervals(length, solver, gradient):
    x0, items = batch(2, 3), batch(2, length, 3, seed=1).requires_grad_(True)
    flow = Flow(Driven(), solver=solver, gradient=gradient)
    final, exact = flow(x0, drive=SequenceDrive(items)), Driven.exact(x0, items)
    assert torch.allclose(final, exact, atol=1e-8)
    expected, found = (torch.autograd.grad(value.square().sum(), items)[0] for value in (exact, final))
    assert torch.allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize("gradient", ["adjoint", "checkpoint"])
def test_an_interval_names_its_own_item_alone(gradient):
    """What a backward pass differentiates by grows with the length, not with its square."""
    sizes = []
    for length in (4, 16):
        items, flow = batch(2, length, 3, seed=1).requires_grad_(True), Flow(Driven(), solver=TIGHT, gradient=gradient)
        drive = SequenceDrive(items)
        cuts = torch.linspace(0, 1, length + 1, dtype=torch.float64)
        laws = [flow.field(drive).on(cuts[k], cuts[k + 1]) for k in range(length)]
        sizes.append(sum(v.numel() for law in laws for v in law.tensors if v.dim() > 1 and v.shape[0] == 2))
        again = [flow.field(drive).on(cuts[k], cuts[k + 1]) for k in range(length)]
        pairs = zip(laws, again, strict=True)
        assert all(a is b for one, two in pairs for a, b in zip(one.tensors, two.tensors, strict=True)), "found again"
        flow(batch(2, 3), drive=drive).square().sum().backward()
        expected = torch.autograd.grad(Driven.exact(batch(2, 3), items).square().sum(), items)[0]
        assert torch.allclose(items.grad, expected, atol=1e-7)
    assert sizes == [2 * 4 * 3, 2 * 16 * 3]


def test_a_tensor_is_constant_in_time():
    x0, value = batch(2, 3), batch(2, 3, seed=1)
    flow = Flow(Driven(), solver=FINE)
    assert torch.equal(flow(x0, drive=value), flow(x0, drive=ConstantDrive(value)))
    assert torch.allclose(flow(x0, drive=value), Driven.exact(x0, value[:, None]), atol=1e-9)


@pytest.mark.parametrize("horizon", [(0.0, 2.0), (2.0, 0.0), (-1.0, 1.0)])
def test_the_horizon_of_the_drive_is_that_of_the_flow(horizon):
    x0, items = batch(2, 3), batch(2, 4, 3, seed=1)
    flow = Flow(Driven(), solver=FINE, horizon=horizon)
    span = horizon[1] - horizon[0]
    final = flow(x0, drive=SequenceDrive(items, horizon))
    assert torch.allclose(final, Driven.exact(x0, items, span), atol=1e-7)


def test_a_drive_on_another_horizon_is_refused():
    flow = Flow(Driven(), solver=FINE, horizon=(0.0, 2.0))
    with pytest.raises(InvalidOption, match=r"SequenceDrive\(sequence, flow.horizon\)"):
        flow(batch(2, 3), drive=SequenceDrive(batch(2, 4, 3)))


def test_jumps_of_the_drive_are_respected():
    x0, drive = batch(2, 3), SequenceDrive(batch(2, 3, 3, seed=1))
    assert drive.breakpoints() == pytest.approx((1 / 3, 2 / 3))
    with pytest.raises(InvalidOption, match="steps=9 or steps=12"):
        Flow(Driven(), solver={"name": "rk4", "steps": 10})(x0, drive=drive)
    assert len(Flow(Driven(), solver="rk4").steps(drive)) == 1 + 12, "the default count fits the drive"
    both = Flow(Driven(), {"name": "piecewise_constant", "pieces": 2}, {"name": "rk4", "steps": 6})
    assert both.field(drive).breakpoints() == pytest.approx((1 / 3, 1 / 2, 2 / 3))
    same = Flow(Driven(), {"name": "piecewise_constant", "pieces": 3}, {"name": "rk4", "steps": 6})
    assert len(same.field(drive).breakpoints()) == 2, "jumps that differ by round-off are one"


def test_a_long_sequence_costs_as_much_an_item_as_a_short_one():
    works = []
    for length in (8, 32):
        items = batch(2, length, 16).requires_grad_(True)
        flow = Flow(Driven(), solver={"name": "euler", "steps": length})
        with Work() as work:
            flow(batch(2, 16), drive=SequenceDrive(items)).sum().backward()
        works.append(work.written)
    assert works[1] <= 5 * works[0], f"{works}: an index a step makes a gradient of the full size each time"


def test_one_drive_serves_several_solves():
    items = batch(2, 3, 3, seed=1).requires_grad_(True)
    drive, flow, x0 = SequenceDrive(items), Flow(Driven(), solver={"name": "rk4", "steps": 6}), batch(2, 3)
    with torch.no_grad():
        flow(x0, drive=drive)
    flow(x0, drive=drive).sum().backward()
    first = items.grad.clone()
    flow(x0, drive=drive).sum().backward()
    assert torch.allclose(items.grad, 2 * first)


def test_replaced_tensors_keep_the_intervals():
    drive = SequenceDrive(batch(2, 3, 4), (1.0, 2.0)).replace([batch(2, 3, 4, seed=5)])
    assert drive.horizon == (1.0, 2.0)
    assert torch.equal(drive.tensors[0], batch(2, 3, 4, seed=5))
    assert torch.equal(ConstantDrive(batch(2)).replace([batch(2, seed=5)]).tensors[0], batch(2, seed=5))


def test_pieces_are_told_by_the_middle_of_an_interval():
    t = torch.tensor([0.0, 0.1, 0.3, 0.5, 1.0], dtype=torch.float64)
    assert piece_index(t[1], t[2], (0.0, 1.0), 10) == 2
    assert piece_index(t[2], t[1], (0.0, 1.0), 10) == 2
    assert piece_index(t[3], t[4], (1.0, 0.0), 2) == 0
    assert piece_index(t[:2], t[1:3], (0.0, 1.0), 10) == 1, "samples that have their own times share the piece"
    for pieces in (3, 7, 10, 49):
        ends = [0.0, *equal_breakpoints((0.0, 1.0), pieces), 1.0]
        found = [
            piece_index(*torch.tensor(ends[k : k + 2], dtype=torch.float64), (0.0, 1.0), pieces) for k in range(pieces)
        ]
        assert found == list(range(pieces)), "ends that carry round-off do not change the piece"


def test_what_is_no_drive_is_refused():
    with pytest.raises(InvalidOption, match="expected a Drive or a tensor"):
        as_drive([1.0])
    with pytest.raises(InvalidOption, match=r"shape \(batch, length, ...\)"):
        SequenceDrive(batch(3))
    with pytest.raises(InvalidOption, match="length >= 1"):
        SequenceDrive(batch(3, 0, 2))
    assert as_drive(None) is None


def test_dynamics_without_a_drive_refuse_one():
    with pytest.raises(Incompatible, match=r"Rotation take no drive; write forward\(self, t, x, u=None, drive=None\)"):
        Flow(Rotation())(batch(2, 2), drive=batch(2, 2))
