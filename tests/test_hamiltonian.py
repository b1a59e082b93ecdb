"""The blocks whose structure carries the property that they claim."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import odeframe
from odeframe import Flow, Incompatible, InvalidOption, build
from odeframe.costs import KineticEnergy, RunningCost


def states(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_the_hamiltonian_is_constant_along_the_flow() -> None:
    torch.manual_seed(0)
    block = build("dynamics", "hamiltonian_mlp", width=4, hidden=3).double()

    def energy(x: Tensor) -> Tensor:
        y, z = block.split(x)
        # the integral of tanh is log cosh
        sums = [torch.log(torch.cosh(s.affine(v))).sum(-1) for v, s in ((z, block.by_z), (y, block.by_y))]
        return sums[0] + sums[1]

    x = states(5, 4)
    solution = Flow(block, solver={"name": "rk4", "steps": 200}, horizon=(0.0, 5.0)).solve(x)
    torch.testing.assert_close(energy(solution.final), energy(x), rtol=0, atol=1e-8)
    drift = Flow(block, solver={"name": "verlet", "steps": 2000}, horizon=(0.0, 200.0)).solve(x).final
    assert (energy(drift) - energy(x)).abs().max().item() < 1e-2


def test_symplectic_euler_with_unit_steps_is_revnets_block() -> None:
    torch.manual_seed(0)
    block = build("dynamics", "coupled_mlp", width=6).double()
    flow = Flow(block, solver={"name": "symplectic_euler", "steps": 1})
    x = states(3, 6)
    x1, x2 = x[:, :3], x[:, 3:]
    y1 = x1 + block.by_z(x2)
    y2 = x2 + block.by_y(y1)
    torch.testing.assert_close(flow(x), torch.cat([y1, y2], 1), rtol=0, atol=1e-12)


def test_a_parabolic_step_contracts_up_to_its_bound_and_not_beyond() -> None:
    torch.manual_seed(0)
    block = build("dynamics", "symmetric_mlp", width=4, activation="relu").double()
    with torch.no_grad():
        block.symmetric.affine.offset.bias.fill_(100.0)  # every unit is on: the map is linear, and the bound is sharp
    bound = 2 / float(torch.linalg.matrix_norm(block.symmetric.affine.operator.weight.detach(), 2)) ** 2
    _, _, axes = torch.linalg.svd(block.symmetric.affine.operator.weight.detach())
    x = states(1, 4)
    y = x + 1e-3 * axes[:1]
    for factor, contracts in ((0.99, True), (1.01, False)):
        flow = Flow(block, solver={"name": "euler", "steps": 1}, horizon=(0.0, factor * bound))
        ratio = float((flow(x) - flow(y)).norm() / (x - y).norm())
        assert (ratio <= 1) == contracts, f"h = {factor} x bound: distances are multiplied by {ratio:.4f}"


def test_an_odd_width_has_no_halves() -> None:
    for name in ("hamiltonian_mlp", "coupled_mlp"):
        with pytest.raises(InvalidOption, match="even"):
            build("dynamics", name, width=5)


def test_a_cost_of_the_velocity_is_refused_where_there_is_no_one_velocity() -> None:
    block = build("dynamics", "symmetric_mlp", width=4)
    with pytest.raises(Incompatible, match=r"kinetic_energy.*Leapfrog"):
        Flow(block, solver="leapfrog", quadratures=[KineticEnergy()])
    Flow(block, solver="leapfrog", quadratures=[RunningCost(lambda t, x: x[:, 0])])


@pytest.mark.parametrize(
    ("dynamics", "solver"),
    [("hamiltonian_mlp", "verlet"), ("coupled_mlp", "symplectic_euler"), ("symmetric_mlp", "leapfrog")],
)
def test_each_trains_by_words(tmp_path: Path, dynamics: str, solver: str) -> None:
    run = odeframe.compose(
        architecture={"name": "resnet", "width": 8, "blocks": 4},
        data={"name": "two_moons", "n": 200},
        dynamics=dynamics,
        solver=solver,
        gradient="reversible",
        output=tmp_path,
    )
    batch = next(iter(run.data.train_dataloader()))
    run.module.objective(batch).loss.backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in run.module.parameters())
