"""Every family of networks reads digits: the small networks of the benchmark of controls, twelve epochs each."""

import pytest

from benchmarks.controls_digits import FAMILIES, trained, words
from odeframe.matrix import reasons


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("family", FAMILIES)
def test_family_reaches_95_of_100(family):
    pieces = {kind: word for kind, word in words(family, "piecewise_constant").items() if kind != "solver"}
    control = "constant" if reasons(pieces) else "piecewise_constant"
    found = trained(family, control, 12 * FAMILIES[family].get("rounds", 1), seed=0)
    assert found["test"] >= 0.95, found
