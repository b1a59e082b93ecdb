"""Vector fields and their parts: what is called how, and what is refused."""

import pytest
import torch
from torch import nn

import odeframe
from odeframe.dynamics import (
    Autonomous,
    BranchedDynamics,
    SemilinearDynamics,
    SeparableDynamics,
    as_dynamics,
    observed,
    takes_keyword,
    takes_time,
)
from odeframe.errors import Incompatible, InvalidOption
from problems import Linear, batch


class OfState(nn.Module):
    def forward(self, x):
        return -x


class OfStateWithOption(nn.Module):
    def forward(self, x, scale=1.0):
        return -scale * x


class OfTimeAndState(nn.Module):
    def forward(self, t, x):
        return -t * x


class OfTimeByName(nn.Module):
    def forward(self, t, x=None):
        return -x


class OfAnything(nn.Module):
    def forward(self, *args):
        return -args[-1]


@pytest.mark.parametrize(
    ("module", "timed"),
    [
        (OfState(), False),
        (OfStateWithOption(), False),
        (nn.Sequential(nn.Linear(2, 2), nn.Tanh()), False),
        (OfTimeAndState(), True),
        (OfTimeByName(), True),
        (OfAnything(), True),
        (Linear(torch.eye(2)), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_and_timed_modules_are_told_apart(module, timed):
    assert takes_time(module) is timed
    assert isinstance(as_dynamics(module), Autonomous) is not timed
    assert takes_time(torch.compile(module, backend="eager")) is timed


def test_autonomous_ignores_time_and_refuses_feedback():
    dynamics, x = as_dynamics(OfState()), batch(3, 2)
    assert torch.equal(dynamics(torch.tensor(7.0), x), -x)
    with pytest.raises(Incompatible, match=r"OfState is a plain f\(x\).*forward\(self, t, x, u\)"):
        dynamics(torch.tensor(0.0), x, u=x)


def test_what_is_no_module_is_refused_with_the_way_for_functions():
    with pytest.raises(InvalidOption, match=r"a bare function goes to odeframe.solve\(field, x0, times\)"):
        as_dynamics(lambda t, x: -x)
    with pytest.raises(InvalidOption, match=r"expected an nn\.Module") as caught:
        as_dynamics(3)
    assert "odeframe.solve" not in str(caught.value)


class Halves(SeparableDynamics):
    def first(self, t, z, u=None):
        return 2 * z

    def second(self, t, y, u=None):
        return 3 * y


class Branches(BranchedDynamics):
    def branches(self, t, x, u=None):
        return x, 3 * x


class Stiff(SemilinearDynamics):
    def matvec(self, x):
        return 5 * x

    def solve_shifted(self, dt, rhs):
        return rhs / (1 + 5 * dt)

    def nonlinear(self, t, x, u=None):
        return x.sin()


def test_parts_make_the_field():
    t, x = torch.tensor(0.0), batch(3, 4)
    assert torch.equal(Halves()(t, x), torch.cat([2 * x[:, 2:], 3 * x[:, :2]], dim=1))
    assert torch.allclose(Branches()(t, x), 2 * x)
    assert torch.allclose(Stiff()(t, x), x.sin() - 5 * x)
    image = batch(2, 4, 3, 3)
    y, z = Halves.split(image)
    assert y.shape == z.shape == (2, 2, 3, 3)
    assert torch.equal(torch.cat([y, z], dim=1), image)


@pytest.mark.parametrize("shape", [(3,), (3, 5)])
def test_a_state_without_halves_is_refused(shape):
    with pytest.raises(InvalidOption, match=r"two halves along dimension 1: got shape .*widen the stem"):
        Halves.split(torch.zeros(shape))


def test_the_shown_traits_are_those_of_all_children():
    block = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    stand_in = observed(as_dynamics(block))
    assert type(stand_in).__name__ == "Sequential", "messages name the user's module, not the wrapper"
    assert set(stand_in.traits) == {"batch_norm", "dropout"}
    assert observed(nn.Dropout(0.0)).traits == (), "dropout that never drops is no randomness"
    assert observed(Halves()).traits == ("separable",)
    assert observed(nn.Sequential(nn.Identity(), Branches())).traits == ("branched",)


def test_keywords_of_forward():
    class WithDrive(nn.Module):
        def forward(self, t, x, drive=None):
            return x

    class Open(nn.Module):
        def forward(self, t, x, **words):
            return x

    assert takes_keyword(WithDrive(), "drive")
    assert takes_keyword(Open(), "drive")
    assert not takes_keyword(OfTimeAndState(), "drive")


@pytest.mark.parametrize("preactivate", [False, True])
@pytest.mark.parametrize("time", [False, True])
def test_registered_fields_take_one_time_or_one_a_sample(time, preactivate):
    mlp = odeframe.build("dynamics", "mlp", width=4, hidden=5, preactivate=preactivate, time=time).double()
    conv = odeframe.build("dynamics", "conv", width=4, norm="group", time=time).double()
    times = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    for dynamics, x in ((mlp, batch(3, 4)), (conv, batch(3, 4, 5, 5))):
        together = dynamics(times, x)
        for i, t in enumerate(times):
            assert torch.allclose(together[i], dynamics(t, x)[i], atol=1e-12)
        moved = float((together - dynamics(times + 0.3, x)).detach().abs().max())
        assert (moved > 1e-6) == time
