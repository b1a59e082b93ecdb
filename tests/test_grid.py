"""Where steps begin and end: counts, output times, breakpoints, and refusals that name what would do."""

import itertools
import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from odeframe.errors import InvalidOption
from odeframe.grid import check_times, inside, make_grid


def nodes(times, breakpoints=(), steps=None, dt=None):
    grid = make_grid(check_times(times), breakpoints, steps, dt)
    return grid, [float(node) for node in grid.nodes]


def test_equal_steps_from_first_to_last():
    grid, at = nodes((1.0, 3.0), steps=4)
    assert at == [1.0, 1.5, 2.0, 2.5, 3.0]
    assert grid.spacing == (0.5,) * 4
    assert grid.outputs == (0, 4)
    assert all(node.dtype == torch.float64 and node.dim() == 0 for node in grid.nodes)


def test_backwards_steps_are_negative():
    grid, at = nodes((1.0, 0.0), steps=4)
    assert at == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert grid.spacing == (-0.25,) * 4


def test_step_length_with_a_shorter_last_step():
    assert nodes((0.0, 1.0), dt=0.3)[1] == pytest.approx([0, 0.3, 0.6, 0.9, 1.0])
    assert len(nodes((0.0, 1.0), dt=0.1)[0].spacing) == 10, "round-off in 1 / 0.1 adds no step"
    assert nodes((2.0, 1.0), dt=0.5)[1] == [2.0, 1.5, 1.0]
    assert nodes((0.0, 1.0), dt=5.0)[1] == [0.0, 1.0]


def test_output_times_on_and_off_the_grid():
    grid, at = nodes((0.0, 0.25, 0.6, 1.0), steps=4)
    assert at == pytest.approx([0, 0.25, 0.5, 0.6, 0.75, 1.0])
    assert [at[i] for i in grid.outputs] == [0.0, 0.25, 0.6, 1.0]
    close, at = nodes((0.0, 1 / 3 + 1e-12, 1.0), steps=3)
    assert len(close.spacing) == 3, "a time that differs from a node by round-off is that node"
    assert at[close.outputs[1]] == 1 / 3 + 1e-12, "and it is the time that was asked for"


def test_one_time_has_no_steps():
    grid, at = nodes((0.7,), breakpoints=(0.5,), steps=4)
    assert at == [0.7]
    assert grid.spacing == () and grid.outputs == (0,)


def test_breakpoints_are_nodes_where_memory_may_restart():
    grid, at = nodes((0.0, 1.0), breakpoints=(0.25, 0.5), steps=8)
    assert {at[i] for i in grid.jumps} == {0.25, 0.5}
    grid, at = nodes((0.5, 1.0), breakpoints=(0.25, 0.5), steps=3)
    assert grid.jumps == frozenset(), "what lies at the ends or outside is no jump of this solve"


@pytest.mark.parametrize(
    ("pieces", "steps", "advice"),
    [
        (4, 6, "use steps=4 or steps=8"),
        (4, 3, "use steps=4"),
        (3, 4, "use steps=3 or steps=6"),
        (7, 20, "14 or steps=21"),
    ],
)
def test_a_straddled_breakpoint_names_the_nearest_legal_counts(pieces, steps, advice):
    points = [k / pieces for k in range(1, pieces)]
    with pytest.raises(InvalidOption, match="would straddle the breakpoint") as caught:
        nodes((0.0, 1.0), points, steps=steps)
    assert advice in str(caught.value)
    assert f"got {steps} steps" in str(caught.value) and f"{pieces} pieces" in str(caught.value)
    for count in map(int, re.findall(r"steps=(\d+)", advice)):
        nodes((0.0, 1.0), points, steps=count)


def test_a_breakpoint_that_no_count_meets():
    with pytest.raises(InvalidOption, match="choose another horizon"):
        nodes((0.0, 1.0), [1 / math.pi], steps=4)


@pytest.mark.parametrize(("pieces", "expected"), [(1, 10), (2, 10), (3, 12), (4, 12), (7, 14), (16, 16), (25, 25)])
def test_the_default_count_fits_equal_pieces(pieces, expected):
    assert len(nodes((0.0, 1.0), [k / pieces for k in range(1, pieces)])[0].spacing) == expected


def test_gradients_of_times_reach_the_nodes():
    times = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64, requires_grad=True)
    grid = make_grid(check_times(times), (), 4, None)
    assert [float(node.detach()) for node in grid.nodes] == pytest.approx([0.1, 0.3, 0.4, 0.5, 0.7, 0.9])
    (gradient,) = torch.autograd.grad(grid.nodes[1], times, retain_graph=True)
    assert gradient.tolist() == pytest.approx([0.75, 0.0, 0.25]), "equal steps stretch with both ends"
    (gradient,) = torch.autograd.grad(grid.spacing[1], times)
    assert gradient.tolist() == pytest.approx([-0.75, 1.0, -0.25])


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ((0.0, 1.0, 0.5), "strictly increasing or strictly decreasing"),
        ((0.0, 0.0), "drop the duplicates"),
        ((0.0, float("nan")), "non-finite"),
        ((float("-inf"), 0.0), "non-finite"),
        ((), r"shape \(0,\)"),
        (torch.tensor(1.0), r"shape \(\)"),
        (torch.tensor([True, False]), "torch.bool"),
        (torch.tensor([0j, 1j]), "complex"),
        ("abc", "expected a sequence of numbers"),
        ((0.0, None), "expected a sequence of numbers"),
        (((0.0, 1.0),), r"shape \(1, 2\)"),
    ],
)
def test_times_that_are_none(times, said):
    with pytest.raises(InvalidOption, match=said):
        check_times(times)


def test_times_keep_their_gradient_and_precision():
    times = torch.tensor([0.1, 0.2], dtype=torch.float32, requires_grad=True)
    checked = check_times(times)
    assert checked.dtype == torch.float64 and checked.requires_grad
    assert check_times([0, 1]).tolist() == [0.0, 1.0]
    assert check_times(range(3)).tolist() == [0.0, 1.0, 2.0]


def test_points_inside_come_in_the_order_of_the_solve():
    points = (0.0, 0.25, 0.5, 1.0)
    assert inside(points, check_times((0.0, 1.0))) == [0.25, 0.5]
    assert inside(points, check_times((1.0, 0.0))) == [0.5, 0.25]
    assert inside(points, check_times((0.1, 0.5 + 1e-13))) == [0.25], "an end is not inside, round-off or not"


@given(
    start=st.floats(-3, 3),
    span=st.floats(0.1, 5) | st.floats(-5, -0.1),
    steps=st.integers(1, 40),
    places=st.lists(st.floats(0.001, 0.999), max_size=6, unique_by=lambda place: round(place, 4)),
)
def test_any_grid_is_monotone_and_meets_its_times(start, span, steps, places):
    times = [start + span * place for place in (0.0, *sorted(places), 1.0)]
    grid, at = nodes(times, steps=steps)
    assert all((b - a) * span > 0 for a, b in itertools.pairwise(at))
    assert [at[i] for i in grid.outputs] == times
    assert math.fsum(grid.spacing) == pytest.approx(times[-1] - times[0], rel=1e-12)
    assert len(grid.spacing) <= steps + len(places)
    assert max(abs(h) for h in grid.spacing) <= abs(span) / steps * (1 + 1e-6)


@given(pieces=st.integers(1, 30), factor=st.integers(1, 5))
def test_multiples_of_the_pieces_are_legal(pieces, factor):
    grid, at = nodes((0.0, 1.0), [k / pieces for k in range(1, pieces)], steps=pieces * factor)
    assert len(grid.jumps) == pieces - 1
    assert [at[i] for i in sorted(grid.jumps)] == pytest.approx([k / pieces for k in range(1, pieces)])
