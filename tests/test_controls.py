"""Controls of the core set are conformant, and the kit catches what it is for."""

import copy

import pytest
import torch
from torch import nn

import odeframe
from odeframe import Control, Flow, InvalidOption
from odeframe.block import Block, empty, fresh_copy, reset
from odeframe.control import BlockLaw, FunctionalLaw
from odeframe.drive import equal_breakpoints, piece_index
from odeframe.testing import ControlConformance
from odeframe.testing.problems import Coupled, Ramp


class TestConstant(ControlConformance):
    control = "constant"


class TestPiecewiseConstant(ControlConformance):
    control = "piecewise_constant"


class TestFourPiecesFromOneStart(ControlConformance):
    control = {"name": "piecewise_constant", "pieces": 4, "init": "copy"}


class TestOnePiece(ControlConformance):
    control = {"name": "piecewise_constant", "pieces": 1}


class TestRampOfTheKit(ControlConformance):
    control = Ramp


def complaint(control, check, *arguments):
    """What a check says of a control that it must not let pass."""
    kit = type("Kit", (ControlConformance,), {"control": control})
    with pytest.raises((AssertionError, pytest.fail.Exception)) as caught:
        getattr(kit(), check)(*arguments)
    return str(caught.value)


class Pieces(Control):
    """Equal pieces, from which the wrong ones differ in one thing."""

    def build(self, block, steps):
        self.blocks = nn.ModuleList([block, *(fresh_copy(block) for _ in range((steps or 4) - 1))])

    @property
    def pieces(self):
        return len(self.blocks)

    @property
    def block(self):
        return self.blocks[0]

    def on(self, t, t_next):
        return BlockLaw(self.blocks[piece_index(t, t_next, self.horizon, self.pieces)])

    def breakpoints(self):
        return equal_breakpoints(self.horizon, self.pieces)


class TestPiecesOfTheseTests(ControlConformance):
    control = Pieces


class LookUp(Pieces):
    """Finds the piece by the first time of the interval, with its round-off and direction."""

    def on(self, t, t_next):
        return BlockLaw(self.blocks[piece_index(t, t, self.horizon, self.pieces)])


class Silent(Pieces):
    def breakpoints(self):
        return ()

    def on(self, t, t_next):
        return BlockLaw(self.blocks[min(int(float(t) * 4.5), self.pieces - 1)])


class Outside(Pieces):
    def breakpoints(self):
        return (*super().breakpoints(), self.horizon[1])


class Redrawing(Pieces):
    def refine(self, factor):
        self.blocks = nn.ModuleList(
            twin for b in self.blocks for twin in (b, *(fresh_copy(b) for _ in range(factor - 1)))
        )


class Leaking(Ramp):
    """Leaves the template its own parameters."""

    def build(self, block, steps):
        super().build(copy.deepcopy(block), steps)
        self.left = block


class Shared(Ramp):
    """One set of values for all flows."""

    values_of_all = None

    def build(self, block, steps):
        super().build(block, steps)
        if Shared.values_of_all is None:
            Shared.values_of_all = self.level
        self.level = Shared.values_of_all


class Hidden(Ramp):
    """Keeps the template out of the module's reach."""

    def build(self, block, steps):
        super().build(block, steps)
        template = self._block
        del self._block
        object.__setattr__(self, "_block", template)


class Stacked(Control):
    """Pieces in one tensor, indexed once a step."""

    def build(self, block, steps):
        values, self._block, count = empty(block), block, steps or 4
        self._names = list(values)
        self.stack = nn.ParameterList(
            torch.stack([value * (1 + 0.1 * k) for k in range(count)]) for value in values.values()
        )
        self.pieces = count

    @property
    def block(self):
        return self._block

    def on(self, t, t_next):
        k = piece_index(t, t_next, self.horizon, self.pieces)
        values = {name: stack[k] for name, stack in zip(self._names, self.stack, strict=True)}
        return FunctionalLaw(self._block, lambda time: values, self, t)

    def breakpoints(self):
        return equal_breakpoints(self.horizon, self.pieces)


class Cached(Pieces):
    """Remembers the first block that it has seen, past a deep copy."""

    def build(self, block, steps):
        super().build(block, steps)
        kept = self.blocks[0]
        self._first = lambda: kept

    def on(self, t, t_next):
        index = piece_index(t, t_next, self.horizon, self.pieces)
        return BlockLaw(self._first() if index == 0 else self.blocks[index])


FORWARD, BACKWARD = (0.0, 1.0), (2.0, -1.0)


@pytest.mark.parametrize(
    ("control", "check", "arguments", "said"),
    [
        (LookUp, "test_intervals_agree_with_each_other", (FORWARD,), "choose the piece by the middle"),
        (LookUp, "test_intervals_agree_with_each_other", (BACKWARD,), "choose the piece by the middle"),
        (Silent, "test_intervals_agree_with_each_other", (FORWARD,), "choose the piece by the middle"),
        (Silent, "test_rk4_keeps_its_order", (), "a jump is missing in breakpoints()"),
        (Outside, "test_breakpoints_lie_inside_the_horizon", (FORWARD,), "breakpoints"),
        (Redrawing, "test_refine_keeps_the_function", (), "refine changed the function"),
        (Leaking, "test_every_parameter_is_trainable_and_gets_a_gradient", (), "a template's own parameters are left"),
        (Shared, "test_flows_from_one_word_are_independent", (), "share parameters"),
        (Hidden, "test_modes_and_dtypes_reach_the_dynamics", (), "the template is not registered"),
        (Stacked, "test_cost_is_linear_in_depth", (), "unbind stacked pieces once a solve"),
        (Cached, "test_deepcopy_and_state_dict", (), "reads the original's parameters"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else value if isinstance(value, str) else "",
)
def test_the_kit_says_what_is_wrong(control, check, arguments, said):
    assert said in complaint(control, check, *arguments)


class TestPieces:
    def test_a_piece_a_step_unless_said(self):
        flow = Flow(Coupled(), "piecewise_constant", {"name": "euler", "steps": 5})
        assert flow.control.pieces == 5
        assert Flow(Coupled(), {"name": "piecewise_constant", "pieces": 3}, "dopri5").control.pieces == 3
        with pytest.raises(InvalidOption, match=r"\{name: piecewise_constant, pieces: 8\}"):
            Flow(Coupled(), "piecewise_constant", "dopri5")

    def test_pieces_are_drawn_one_by_one_or_copied(self):
        drawn, copied = (
            Flow(Coupled(), {"name": "piecewise_constant", "pieces": 3, "init": init}).control.blocks
            for init in ("reset", "copy")
        )
        weights = [[block.slots[0].lift.weight for block in blocks] for blocks in (drawn, copied)]
        assert not torch.equal(weights[0][0], weights[0][1]) and not torch.equal(weights[0][1], weights[0][2])
        assert torch.equal(weights[1][0], weights[1][1]) and weights[1][0] is not weights[1][1]

    def test_modules_that_cannot_be_drawn_anew(self):
        class Fixed(nn.Module):
            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(torch.ones(()))

            def forward(self, x):
                return self.scale * x

        with pytest.raises(InvalidOption, match=r"Fixed has parameters but no reset_parameters\(\).*init='copy'"):
            Flow(Fixed(), "piecewise_constant")
        Flow(Fixed(), {"name": "piecewise_constant", "init": "copy"})

    def test_running_statistics_belong_to_a_piece(self):
        flow = Flow(
            nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), "piecewise_constant", {"name": "euler", "steps": 2}
        )
        flow(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
        means = [block.slots[0].module[1].running_mean for block in flow.control.blocks]
        assert not torch.equal(means[0], means[1])
        counts = [int(block.slots[0].module[1].num_batches_tracked) for block in flow.control.blocks]
        assert counts == [1, 1]

    @pytest.mark.parametrize("options", [{"pieces": 0}, {"init": "zero"}, {"pieces": 2.5}])
    def test_options_are_checked(self, options):
        with pytest.raises(InvalidOption):
            odeframe.build("control", "piecewise_constant", **options)

    def test_a_refined_piece_is_a_module_of_its_own(self):
        flow = Flow(Coupled(), {"name": "piecewise_constant", "pieces": 2})
        flow.control.refine(3)
        weights = [block.slots[0].lift.weight for block in flow.control.blocks]
        assert len({w.data_ptr() for w in weights}) == 6
        assert all(torch.equal(w, weights[3 * (k // 3)]) for k, w in enumerate(weights))


class TestTools:
    def test_empty_takes_the_parameters_and_keeps_the_module(self):
        block = Block(Coupled())
        before = {name: parameter.detach().clone() for name, parameter in block.named_parameters()}
        values = empty(block)
        assert values.keys() == before.keys() and all(torch.equal(values[name], before[name]) for name in before)
        assert not list(block.parameters())
        assert {name for name, _ in block.named_modules()} >= {"slots.0.lift", "slots.0.lower"}

    def test_reset_draws_children_before_parents(self):
        class Scaled(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = nn.Linear(2, 2)

            def reset_parameters(self):
                nn.init.constant_(self.inner.weight, 3.0)

        module = Scaled()
        reset(module)
        assert bool((module.inner.weight == 3.0).all()), "a parent may overrule its children"

    def test_slots_are_drawn_one_by_one(self):
        block = Block(Coupled(), slots=3)
        weights = [slot.lift.weight for slot in block.slots]
        assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])

    def test_a_control_that_is_computed_reads_each_stage_at_its_time(self):
        flow = Flow(Coupled(), Ramp(), {"name": "euler", "steps": 2})
        seen = []
        values = flow.control.values
        flow.control.values = lambda t: seen.append(float(t)) or values(t)
        flow(torch.zeros(1, 4, dtype=torch.float64))
        assert seen == [0.0, 0.5]
