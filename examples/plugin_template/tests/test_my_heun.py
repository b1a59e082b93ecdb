"""The solver does what every solver must do, and what it promises itself."""

import odeframe
from odeframe.testing import SolverConformance


class TestMyHeun(SolverConformance):
    """The checks of the kit; `odeframe plugins check` runs the same."""

    solver = "my_heun"


def test_one_word_puts_it_into_a_network():
    run = odeframe.compose(solver="my_heun", data="two_moons")
    batch = next(iter(run.data.train_dataloader()))
    assert run.module.objective(batch).loss.isfinite()
