"""Every registered control, and each basis and wrapper, against what a control must do."""

import pytest

import odeframe
from odeframe.testing import ControlConformance


class TestConstant(ControlConformance):
    control = "constant"


class TestPiecewiseConstant(ControlConformance):
    control = "piecewise_constant"


@pytest.mark.slow
class TestFewPieces(ControlConformance):
    control = {"name": "piecewise_constant", "pieces": 2}


class TestPiecewiseLinear(ControlConformance):
    control = {"name": "piecewise_linear", "pieces": 4}


class TestLegendre(ControlConformance):
    control = {"name": "galerkin", "basis": "legendre", "degree": 4, "init": "reset"}


@pytest.mark.slow
class TestChebyshev(ControlConformance):
    control = {"name": "galerkin", "basis": "chebyshev", "degree": 3, "init": "reset"}


@pytest.mark.slow
class TestFourier(ControlConformance):
    control = {"name": "galerkin", "basis": "fourier", "degree": 1, "init": "reset"}


class TestBSpline(ControlConformance):
    control = {"name": "galerkin", "basis": "bspline", "degree": 3, "intervals": 2, "init": "reset"}


class TestHypernetwork(ControlConformance):
    control = "hypernetwork"


@pytest.mark.slow
class TestLowRank(ControlConformance):
    control = {"name": "hypernetwork", "rank": 1}


class TestTimeConcat(ControlConformance):
    control = "time_concat"


class OnStatesOfAnyWidth(ControlConformance):
    """A feedback on the kit's dynamics, whose layers see half of the state, must be told its size."""

    def flow(self, seed=3, width=4, **words):
        words.setdefault("control", self.make(width=width))
        return super().flow(seed, width, **words)


class TestFeedback(OnStatesOfAnyWidth):
    control = "feedback"

    def test_drives_one_flow_only(self):
        control = self.make(width=4)
        odeframe.Flow(self.dynamics(), control, self.solver)
        with pytest.raises(odeframe.InvalidOption, match="already drives a flow"):
            odeframe.Flow(self.dynamics(), control, self.solver)


@pytest.mark.slow
class TestFeedbackAroundPieces(OnStatesOfAnyWidth):
    control = {"name": "feedback", "of": "piecewise_constant", "gains": {"name": "piecewise_linear", "pieces": 4}}


class TestFeedbackSummary(OnStatesOfAnyWidth):
    control = "feedback_summary"


class TestBox(ControlConformance):
    control = {"name": "box", "of": "piecewise_linear", "low": -0.3, "high": 0.3}


class TestAntisymmetric(ControlConformance):
    control = {"name": "antisymmetric", "of": {"name": "galerkin", "init": "reset"}, "damping": 0.1}


@pytest.mark.slow
class TestAntisymmetricPieces(ControlConformance):
    control = {"name": "antisymmetric", "of": "piecewise_constant"}


class TestSpectralNorm(ControlConformance):
    control = {"name": "spectral_norm", "of": "piecewise_constant", "bound": 0.5}


class TestBinary(ControlConformance):
    control = {"name": "binary", "of": "piecewise_constant"}


@pytest.mark.slow
class TestTernary(ControlConformance):
    control = "ternary"


def test_every_registered_control_is_here():
    tested = {cls.part.__class__ for cls in ControlConformance.__subclasses__() if cls.part is not None}
    tested |= {cls.part.__class__ for cls in OnStatesOfAnyWidth.__subclasses__()}
    registered = {type(odeframe.build("control", name)) for name in odeframe.available("control")}
    assert registered <= tested, registered - tested
