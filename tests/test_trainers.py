"""The trainers that come with odeframe, and what reduces their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from odeframe import InvalidOption
from odeframe.reduction import average, reduce_gradients
from odeframe.testing.trainers import TrainerConformance


class TestGradientTrainer(TrainerConformance):
    trainer = "gradient"


@pytest.mark.slow
class TestGradientTrainerWithTheAdjoint(TrainerConformance):
    trainer = "adjoint"
    architecture = {"name": "neural_ode", "width": 4}
    options = {"optimizer": "Adam", "learning_rate": 0.01, "solver": {"name": "rk4", "steps": 4}}


@pytest.mark.slow
class TestGradientTrainerWithCheckpoints(TrainerConformance):
    trainer = "checkpoint"


@pytest.mark.slow
class TestGradientTrainerWithReversal(TrainerConformance):
    trainer = "reversible"
    architecture = {"name": "neural_ode", "width": 4}
    options = {
        "optimizer": "Adam",
        "learning_rate": 0.01,
        "solver": {"name": "reversible_midpoint", "steps": 4},
    }


def test_reduce_gradients_sets_them_and_counts_a_missing_one_as_zero() -> None:
    layer = nn.Linear(2, 1)
    reduce_gradients(layer.parameters(), [torch.ones(1, 2), None])
    assert torch.equal(layer.weight.grad, torch.ones(1, 2))
    assert torch.equal(layer.bias.grad, torch.zeros(1))


def test_reduce_gradients_refuses_another_shape() -> None:
    layer = nn.Linear(2, 1, bias=False)
    with pytest.raises(InvalidOption, match=r"\(2,\).*\(1, 2\)"):
        reduce_gradients(layer.parameters(), [torch.ones(2)])


def test_average_on_one_process_is_the_identity() -> None:
    tensors = [torch.ones(2), torch.zeros(1)]
    assert all(a is b for a, b in zip(average(tensors), tensors, strict=True))
