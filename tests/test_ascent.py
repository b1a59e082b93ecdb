"""The search for the maximum of a Hamiltonian, on functions written down."""

import math

import pytest
import torch
from torch import nn

from odeframe.errors import SolveFailed
from odeframe_plugins.trainers.ascent import Search


class Written:
    """A function of parameters in place of a Hamiltonian."""

    def __init__(self, function, *start):
        self.function = function
        self.parameters = [nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in start]
        self.evaluations = 0

    def __call__(self):
        self.evaluations += 1
        value = self.function(*self.parameters)
        return float(value.detach()), list(torch.autograd.grad(value, self.parameters))


INNER = ["lbfgs", "adam", "closed_form"]


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize(
    "function", [lambda u: u.sum() * math.inf, lambda u: (u * math.nan).sum(), lambda u: u.sub(1).abs().sqrt().sum()]
)
def test_a_start_that_is_no_number_is_refused_and_kept(inner, function):
    """The objective may be finite where the product of states and costates, or its slope, overflows."""
    hamiltonian = Written(function, [1.0, 1.0])
    with pytest.raises(SolveFailed, match=r"a Hamiltonian under the present control is .*, and its slope (inf|nan)"):
        Search(inner, 10, 0.1, box=2.0)(hamiltonian)
    assert hamiltonian.parameters[0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("inner", INNER)
def test_a_point_at_which_it_overflows_is_not_taken(inner):
    """Half of the box is infinite: the best point is the best that has a value."""
    hamiltonian = Written(lambda u: torch.where(u > 0.5, math.inf, u).sum(), [0.1, -0.2])
    ascent = Search(inner, 20, 0.05, box=1.0)(hamiltonian)
    assert -0.1 <= ascent.before < ascent.after <= 1.0
    assert hamiltonian.parameters[0].max() <= 0.5 and float(hamiltonian()[0]) == ascent.after


@pytest.mark.parametrize("inner", INNER)
def test_a_start_far_out_of_the_box_is_no_plateau(inner):
    """What is clipped does not change along a slope that is short beside the distance to the box."""
    hamiltonian = Written(lambda u: (1e-2 * u - u.square()).sum(), [0.5, -0.5])
    ascent = Search(inner, 30, 0.003, box=0.02)(hamiltonian)
    assert ascent.gain > 0 and ascent.after == pytest.approx(5e-5, rel=0.1)


@pytest.mark.parametrize("inner", INNER)
def test_a_box_larger_than_the_numbers_of_the_precision(inner):
    hamiltonian = Written(lambda u: (u - u.square()).sum(), [0.25])
    hamiltonian.parameters = [nn.Parameter(torch.tensor([0.25]))]
    assert Search(inner, 10, 0.01, box=1e300)(hamiltonian).gain > 0


def test_a_bracket_without_a_number_in_it_ends_the_search(monkeypatch):
    """torch's line search divides by the length of its bracket."""

    def divides(*arguments, **options):
        return 1 / 0

    monkeypatch.setattr(torch.optim.LBFGS, "step", divides)
    hamiltonian = Written(lambda u: (u - u.square()).sum(), [0.25])
    assert Search("lbfgs", 10, 0.1)(hamiltonian).gain == 0 and hamiltonian.parameters[0].tolist() == [0.25]
