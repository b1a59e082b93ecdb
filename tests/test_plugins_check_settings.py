"""What a part says of itself decides how it is checked: traits, orders, options, networks; and all of ours pass."""

import pytest
import torch
from torch import nn

from odeframe import ControlTrainer, InvalidOption, StepSolver, plugin_check, plugins
from odeframe.component import components
from odeframe.hookspecs import KINDS, Part
from odeframe.plugin_check import check_words, word_of
from odeframe.testing import SolverConformance
from odeframe.testing.installed import conformance, remarks
from odeframe_plugins.solvers.multistep import AB4
from plugin_fakes import offer


def kit(solver, **settings):
    """The conformance class of a solver."""
    return type("Kit", (SolverConformance,), {"solver": solver, **settings})()


def complaint(solver, check, **settings):
    """What a check says of a solver that it must not let pass."""
    with pytest.raises(AssertionError) as caught:
        getattr(kit(solver, **settings), check)()
    return str(caught.value)


class Euler(StepSolver):
    """Sound, from which the others differ in one thing."""

    order = 1
    traits = ("step",)

    def step(self, field, t, dt, x, memory):
        return x + dt * field(t, x), ()


class Ahead(Euler):
    """Goes forward whatever it is told."""

    def step(self, field, t, dt, x, memory):
        return x + abs(dt) * field(t, x), ()


class Boastful(Euler):
    order = 2


class OneWay(Euler):
    traits = ("step", "one_way")


class Refusing(OneWay):
    def step(self, field, t, dt, x, memory):
        if not dt > 0:
            raise InvalidOption("steps go forward in time: sort the times")
        return super().step(field, t, dt, x, memory)


class Forgetful(AB4):
    """Carries its memory over jumps of the control, and says that it has the order there."""

    def grid(self, field, times):
        return super().grid(field, times).__class__(**{**vars(super().grid(field, times)), "restarts": frozenset()})


class Corrected(Euler):
    """Knows the size of the state."""

    traits, opaque = ("step", "partitioned"), False

    def __init__(self, width: int, steps=None, dt=None, on_failure="raise"):
        super().__init__(steps, dt, on_failure)
        self.scale = nn.Parameter(torch.zeros(width))

    def reset_parameters(self):
        nn.init.zeros_(self.scale)

    def step(self, field, t, dt, x, memory):
        scale = self.scale.to(x.dtype).reshape(1, -1, *[1] * (x.dim() - 2))
        return x + dt * field(t, x) + dt**2 * scale, ()


def test_an_order_that_shows_at_finer_steps_is_found_there():
    kit("ab4").test_order_across_jumps_of_the_control()
    for name in ("ab3", "ab4"):
        kit(name).test_solving_back_returns()


@pytest.mark.parametrize("check", ["test_order", "test_order_across_jumps_of_the_control"])
def test_an_order_that_is_not_there_is_not_found_at_finer_steps_either(check):
    assert "order 2 is claimed" in complaint(Boastful, check)


def test_a_memory_that_is_carried_over_jumps_costs_the_order_at_finer_steps_too():
    assert "a memory was carried over" in complaint(Forgetful, "test_order_across_jumps_of_the_control")


def test_a_solve_back_that_goes_forward_is_told_at_any_number_of_steps():
    assert "misses the start" in complaint(Ahead, "test_solving_back_returns")


def test_a_scheme_that_goes_one_way_has_to_refuse_the_other():
    assert kit(Refusing).test_solving_back_returns is None
    kit(Refusing).test_solving_back_is_refused()
    kit(Refusing).test_steps_stay_in_their_interval()
    assert "refuse a negative dt, or drop 'one_way'" in complaint(OneWay, "test_solving_back_is_refused")
    with pytest.raises(InvalidOption, match="forward in time"):  # without the trait both directions are asked for
        kit(type("Untold", (Refusing,), {"traits": ("step",)})).test_solving_back_returns()


def test_a_lower_order_of_the_start_is_checked_as_it_is_claimed():
    made = conformance("solver", "reversible_midpoint")
    assert (made.exact_degree, made.unequal_order) == (1, 1)
    made().test_exact_on_polynomials()
    made().test_order_with_unequal_steps()
    made().test_output_times_off_the_grid()
    other = conformance("solver", {"name": "reversible_midpoint", "start": "midpoint"})
    assert (other.exact_degree, other.unequal_order) == (None, None)
    other().test_exact_on_polynomials()
    assert "order 1 is claimed" in complaint("rk4", "test_order_with_unequal_steps", unequal_order=1)
    assert "x' = 2 t^1" in complaint({"name": "reversible_midpoint"}, "test_exact_on_polynomials")


def test_a_scheme_is_told_the_size_of_the_states():
    made = kit(Corrected)
    made.test_order()
    made.test_needs_are_declared()
    made.test_samples_do_not_see_each_other()
    for shape in ((3,), (3, 2), (0, 4, 3, 3)):
        made.test_shape_dtype_and_device_are_kept(shape, torch.float64)


def test_options_of_the_checks_stand_back_behind_those_that_are_given():
    assert kit("radau", options={"newton_tol": 1e-7}).make().newton_tol == 1e-7
    assert kit({"name": "radau", "newton_tol": 1e-3}, options={"newton_tol": 1e-7}).make().newton_tol == 1e-3


class Told(Euler):
    conformance = {"exact_degree": 1, "test_solving_back_returns": "what is lost does not come back"}


class Silent(Euler):
    conformance = {"test_solving_back_returns": None}


def own():
    """Our own plugin's entry."""
    return [entry for entry in plugins.installed() if entry.dist.name == "odeframe"]


@pytest.fixture
def offered():
    """A plugin with two parts that leave out a check."""
    plugins.reload([offer("two", solver={"told": Told, "silent": Silent}), *own()])
    try:
        yield
    finally:
        plugins.reload()


def test_what_is_left_out_is_said_with_its_reason(offered):
    made = conformance("solver", "told")
    assert made.test_solving_back_returns is None and made.exact_degree == 1
    assert remarks({"Test0": made})["Test0"] == [
        "checked with settings of its own: exact_degree = 1",
        "test_solving_back_returns is left out: what is lost does not come back",
    ]
    with pytest.raises(InvalidOption, match="leaves out test_solving_back_returns without a reason"):
        conformance("solver", "silent")


def test_a_rule_gets_a_network_and_data_that_go_with_it():
    matching, ending, basic = (conformance("trainer", name) for name in ("flow_matching", "moving_endpoint", "msa"))
    assert matching.network() == "cnf" and matching.spec().task == "density"
    assert ending.network()["name"] == "durr" and ending.spec().input_shape == (1, 8, 8)
    assert type(basic.network()).__name__ == "Priced"
    assert conformance("trainer", "gradient").network()["name"] == "resnet"
    assert conformance("trainer", "trades").labels()


class Lonely(ControlTrainer):
    """Goes with no network that there is."""

    traits, needs = ("automatic",), ("architecture:nowhere_to_be_found",)

    def training_step(self, module, batch):
        return module.objective(batch).loss


def test_a_rule_that_no_network_goes_with_is_told_so_by_its_checks_alone():
    plugins.reload([offer("alone", trainer={"lonely": Part(Lonely, Lonely.traits, Lonely.needs)}), *own()])
    try:
        made = conformance("trainer", "lonely")
        assert remarks({"Test0": made}) == {"Test0": []}
        with pytest.raises(AssertionError, match="say which: architecture ="):
            made().module()
    finally:
        plugins.reload()


def test_the_network_that_was_found_is_told():
    matching = conformance("trainer", "flow_matching")
    assert remarks({"Test0": matching})["Test0"][-1] == "trained: cnf, for the task density"
    assert remarks({"Test0": conformance("trainer", "gradient")}) == {"Test0": []}


HANGS = """
import time
from odeframe.testing.installed import classes
made = classes({words!r})
made["Test0"].test_traits_of_table_and_class_agree = lambda self: None
if len(made) > 1:
    made["Test0"].test_step_options_are_checked = lambda self: time.sleep(600)
globals().update(made)
"""


@pytest.mark.slow
def test_a_check_that_hangs_costs_neither_the_results_before_it_nor_the_parts_after_it(monkeypatch):
    monkeypatch.setattr(plugin_check, "MODULE", HANGS)
    monkeypatch.setattr(plugin_check, "SECONDS", 30)
    first, second = check_words([("solver", "euler"), ("solver", "rk4")])
    assert first.passed > 10 and first.failures == [("test_step_options_are_checked", "it did not end within 30 s")]
    assert second.passed > 40 and not second.failures


def our_words():
    """Our parts as ``odeframe plugins check odeframe`` has them, but those that miss an optional dependency."""
    every = [each for kind in KINDS for each in components(kind) if each.package == "odeframe"]
    return [word_of(each) for each in every if not each.missing]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_all_of_our_own_parts_pass():
    found = check_words(our_words())
    assert {each.part: each.failures for each in found if each.failures} == {}
    assert len(found) > 150 and all(each.passed >= 3 for each in found)
