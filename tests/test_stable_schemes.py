"""Networks designed from schemes are those schemes: the same numbers as a loop written by hand."""

import pytest
import torch

from odeframe import build
from odeframe.registry import components
from odeframe.specification import NetworkSpec
from odeframe_plugins.architectures import stable

WIDTH, BLOCKS = 4, 4
START = torch.tensor(0.0)


def euler(blocks, x, h):
    for block in blocks:
        x = x + h * block(START, x)
    return x


def midpoint(blocks, x, h):
    before, x = x, x + h * blocks[0](START, x)
    for block in blocks[1:]:
        before, x = x, before + 2 * h * block(START, x)
    return x


def symplectic_euler(blocks, x, h):
    y, z = x.chunk(2, dim=1)
    for block in blocks:
        y = y + h * block.first(START, z)
        z = z + h * block.second(START, y)
    return torch.cat([y, z], dim=1)


def leapfrog_from_rest(blocks, x, h):
    before, x = x, x + h**2 / 2 * blocks[0](START, x)
    for block in blocks[1:]:
        before, x = x, 2 * x - before + h**2 * block(START, x)
    return x


def semi_implicit(blocks, x, h):
    for block in blocks:
        x = block.solve_shifted(h, x + h * block.nonlinear(START, x))
    return x


LOOPS = {
    "antisymmetric": euler,
    "parabolic": euler,
    "midpoint": midpoint,
    "hamiltonian": symplectic_euler,
    "hyperbolic": leapfrog_from_rest,
    "leapfrog": leapfrog_from_rest,
    "imexnet": semi_implicit,
}


@pytest.mark.parametrize("name", LOOPS)
def test_the_network_is_its_scheme(name):
    torch.manual_seed(0)
    architecture = build("architecture", name, width=WIDTH, blocks=BLOCKS)
    (flow,) = architecture.build(NetworkSpec((WIDTH,), (2,))).double().flows
    blocks = [piece.slots[0] for piece in flow.control.blocks]
    assert len(blocks) == BLOCKS
    x = torch.randn(3, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(flow(x), LOOPS[name](blocks, x, architecture.step), rtol=0, atol=1e-13)


def test_every_stable_network_states_scheme_order_property_and_source():
    found = {component.name: component.part for component in components("architecture")}
    for name in stable.PARTS:
        facts = found[name].facts
        assert all(facts.get(key) for key in ("scheme", "order", "property")) and found[name].source, name
