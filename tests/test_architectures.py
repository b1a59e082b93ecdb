"""The architectures that come with odeframe."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from odeframe import Flow, Incompatible, InvalidOption, build
from odeframe.specification import NetworkSpec
from odeframe.testing.architectures import ArchitectureConformance


class TestResNet(ArchitectureConformance):
    architecture = {"name": "resnet", "width": 4, "blocks": 2}


class TestNeuralODE(ArchitectureConformance):
    architecture = {"name": "neural_ode", "width": 4}


class Block(nn.Module):
    """f(x) of a given width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.linear(x))


def test_resnet_is_a_hand_written_loop_of_preactivation_blocks() -> None:
    torch.manual_seed(0)
    network = build("architecture", "resnet", width=4, blocks=3).build(NetworkSpec((1, 8, 8), (5,))).double()
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    y = network.stages["stem"](x)
    for index in (1, 2):
        flow = network.stages[f"flow{index}"]
        assert flow.control.pieces == 3
        for piece in flow.control.blocks:
            f = piece.slots[0]
            y = y + f.conv2(torch.relu(f.norm2(f.conv1(torch.relu(f.norm1(y))))))
        if index == 1:
            y = network.stages["transition1"](y)
    torch.testing.assert_close(network(x), network.stages["head"](y), rtol=0, atol=1e-12)


def test_stages_halve_the_resolution_and_double_the_width() -> None:
    network = build("architecture", "resnet", width=4, blocks=1, stages=3).build(NetworkSpec((3, 12, 16), (2,)))
    shapes = [solution.final.shape[1:] for solution in network.run(torch.zeros(1, 3, 12, 16)).solutions]
    assert shapes == [(4, 12, 16), (8, 6, 8), (16, 3, 4)]


def test_a_class_or_an_object_can_be_the_block() -> None:
    spec = NetworkSpec((6,), (2,))
    by_class = build("architecture", "resnet", width=5, blocks=2, stages=2).build(spec, dynamics=Block)
    assert [flow.dynamics.module.linear.in_features for flow in by_class.flows] == [5, 10]
    by_object = build("architecture", "resnet", width=5, blocks=2).build(spec, dynamics=Block(5))
    assert by_object(torch.zeros(3, 6)).shape == (3, 2)


def test_a_block_of_two_flows_is_two_blocks() -> None:
    block = nn.Conv2d(4, 4, 3, padding=1)
    recipe = build("architecture", "resnet", width=4, blocks=1, stages=1)
    network = recipe.build(NetworkSpec((1, 8, 8), (2,)), dynamics=block)
    assert isinstance(network.stages["flow1"], Flow)
    assert network.stages["flow1"].dynamics.module is block


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("resnet", {"width": 0}, "option width"),
        ("resnet", {"blocks": 0}, "option blocks"),
        ("resnet", {"stages": 0}, "option stages"),
        ("resnet", {"step": 0.0}, "option step"),
        ("neural_ode", {"width": 0}, "option width"),
        ("neural_ode", {"horizon": -1.0}, "option horizon"),
        ("neural_ode", {"blocks": 3}, "no option 'blocks'"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, float], text: str) -> None:
    with pytest.raises(InvalidOption, match=text):
        build("architecture", name, **options)


def test_shapes_that_no_stem_takes_are_refused() -> None:
    with pytest.raises(InvalidOption, match=r"\(5, 7\)"):
        build("architecture", "resnet").build(NetworkSpec((5, 7), (2,)))


def test_dynamics_for_other_states_are_refused_by_name() -> None:
    recipe = build("architecture", "resnet", width=4)
    with pytest.raises(Incompatible, match=r"'conv' takes image states.*vectors.*mlp"):
        recipe.build(NetworkSpec((5,), (2,)), dynamics="conv")
    with pytest.raises(Incompatible, match=r"'mlp' takes vector states.*images.*conv"):
        recipe.build(NetworkSpec((1, 8, 8), (2,)), dynamics="mlp")
