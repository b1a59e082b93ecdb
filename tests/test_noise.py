"""Keyed noise: its distribution within four standard errors, and what a draw depends on."""

import math

import pytest
import torch

from odeframe.noise import Noise
from problems import batch

COUNT = 100_000


def draws(kind, shape=(), seed=1, step=0, stream=0, count=COUNT, dtype=torch.float64):
    return getattr(Noise(seed).on(step), kind)(torch.empty(count, dtype=dtype), shape, stream)


def within(value, expected, standard_error):
    assert abs(float(value) - expected) <= 4 * standard_error, f"{float(value)} is not {expected} +- {standard_error}"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("seed", [0, 1, -5, 2**62])
def test_uniform(seed, dtype):
    u = draws("uniform", seed=seed, dtype=dtype)
    assert u.dtype == dtype
    assert float(u.min()) > 0 and float(u.max()) < 1
    u = u.double()
    within(u.mean(), 0.5, math.sqrt(1 / 12 / COUNT))
    within(u.var(), 1 / 12, math.sqrt(1 / 180 / COUNT))
    counts = torch.histc(u, 50, 0, 1)
    chi_square = float(((counts - COUNT / 50) ** 2 / (COUNT / 50)).sum())
    within(chi_square, 49, math.sqrt(2 * 49))


def test_normal():
    n = draws("normal")
    within(n.mean(), 0, math.sqrt(1 / COUNT))
    within(n.var(), 1, math.sqrt(2 / COUNT))
    within((n**3).mean(), 0, math.sqrt(15 / COUNT))
    within((n**4).mean(), 3, math.sqrt(96 / COUNT))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.99])
def test_bernoulli(p, dtype):
    b = Noise(1).on(0).bernoulli(p, torch.empty(COUNT, dtype=dtype))
    assert b.dtype == dtype
    assert set(b.double().unique().tolist()) <= {0.0, 1.0}
    within(b.double().mean(), p, math.sqrt(p * (1 - p) / COUNT))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_keeps_its_ends_and_moments(dtype):
    u = draws("uniform", dtype=dtype)
    assert u.dtype == dtype
    assert float(u.min()) > 0 and float(u.max()) < 1
    within(u.double().mean(), 0.5, math.sqrt(1 / 12 / COUNT))
    n = draws("normal", dtype=dtype)
    assert bool(torch.isfinite(n).all())
    within(n.double().var(), 1, math.sqrt(2 / COUNT) + 1e-3)


@pytest.mark.parametrize(
    "other",
    [{"seed": 2}, {"step": 1}, {"stream": 1}, {"seed": 1 + 2**32}],
    ids=["seed", "step", "stream", "high bits of the seed"],
)
def test_draws_of_other_keys_are_uncorrelated(other):
    a, b = draws("uniform"), draws("uniform", **other)
    within(((a - 0.5) * (b - 0.5)).mean() * 12, 0, math.sqrt(1 / COUNT))


def test_components_and_neighbours_are_uncorrelated():
    u = draws("uniform", (3,), count=COUNT) - 0.5
    for a, b in ((u[:, 0], u[:, 1]), (u[:, 1], u[:, 2]), (u[:-1, 0], u[1:, 0]), (u[:-1, 2], u[1:, 0])):
        within((a * b).mean() * 12, 0, math.sqrt(1 / COUNT))


def test_a_draw_is_a_function_of_seed_sample_step_and_stream():
    x, ids = batch(6, 2), torch.tensor([5, 3, 9, 0, 1, 7])
    whole = Noise(3, ids).on(2).normal(x, (2, 4))
    assert whole.shape == (6, 2, 4)
    assert torch.equal(whole, Noise(3, ids).on(2).normal(x, (2, 4))), "no hidden state"
    some = torch.tensor([4, 0, 2])
    assert torch.equal(Noise(3, ids[some]).on(2).normal(x[some], (2, 4)), whole[some]), "the batch does not matter"
    assert torch.equal(Noise(3).on(2).uniform(x), Noise(3, torch.arange(6)).on(2).uniform(x)), "counted from 0"
    single, double = Noise(3).on(2).uniform(x.float()), Noise(3).on(2).uniform(x)
    assert float((single - double).abs().max()) <= 2**-23, "the precision does not matter but for the digits"


def test_no_sample_no_draw():
    assert Noise(0).on(0).normal(batch(0, 3), (3,)).shape == (0, 3)
    assert Noise(0).on(0).uniform(batch(4, 3)).shape == (4,)
