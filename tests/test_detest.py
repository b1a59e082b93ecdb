"""Accuracy and work against scipy on the DETEST problems."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from detest import PROBLEMS

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import detest


def test_there_are_25_problems_and_the_fields_take_batches():
    assert len(PROBLEMS) == 25
    for problem in PROBLEMS.values():
        start = torch.tensor([problem.start, problem.start], dtype=torch.float64)
        rates = problem.field(torch.tensor(0.5, dtype=torch.float64), start)
        assert rates.shape == start.shape and torch.equal(rates[0], rates[1])


def test_known_solutions():
    """Closed forms of A1, A2, A3, A4; the energy of D3; the solid body's two invariants of B5."""
    times = detest.TIMES
    closed = {
        "A1": np.exp(-times),
        "A2": 1 / np.sqrt(1 + times),
        "A3": np.exp(np.sin(times)),
        "A4": 20 / (1 + 19 * np.exp(-times / 4)),
    }
    for name, values in closed.items():
        assert np.abs(detest.reference(PROBLEMS[name])[:, 0] - values).max() < 1e-10
    x = detest.reference(PROBLEMS["D3"])
    energy = 0.5 * (x[:, 2] ** 2 + x[:, 3] ** 2) - 1 / np.hypot(x[:, 0], x[:, 1])
    assert np.abs(energy - energy[0]).max() < 1e-9
    x = detest.reference(PROBLEMS["B5"])
    assert np.abs(x[:, 0] ** 2 + x[:, 1] ** 2 - 1).max() < 1e-10


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("solver", detest.PAIRS)
def test_the_targets_hold_against_scipy(solver):
    """All 75 finish; mean error <= 1.1 x, mean evaluations <= 1.05 x, worst error over the path <= 5 x scipy's."""
    rows = detest.compare(solver)
    assert all(np.isfinite(ours.nfe) for ours, _ in rows.values())
    assert detest.mean(detest.ratios(rows, "path")) <= 1.1 and detest.mean(detest.ratios(rows, "end")) <= 1.1
    assert detest.mean(detest.ratios(rows, "nfe")) <= 1.05
    assert detest.worst(solver, rows, "path", 5) <= 5 and detest.worst(solver, rows, "end", 5) <= 5
