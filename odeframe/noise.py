"""Randomness on intervals, keyed by (seed, sample, step): every replay, reversal and rank draws the same."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(value: Tensor, bits: int) -> Tensor:
    """Logical right shift of signed 64-bit integers (torch's is arithmetic)."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mix(value: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): a bijection that scatters every bit."""
    value = (value ^ _shift(value, 30)) * _MIX_1
    value = (value ^ _shift(value, 27)) * _MIX_2
    return value ^ _shift(value, 31)


class Noise:
    """A counter-based source of random numbers for the samples of one batch.

    The draws are a pure function of ``(seed, sample, step, stream)``; they do not depend on the batch a sample is
    in, on the order of calls, nor on the device.

    Args:
        seed: any integer.
        samples: identity of each sample, ``(batch,)`` integers; ``None`` counts them from 0.
    """

    def __init__(self, seed: int, samples: Tensor | None = None) -> None:
        self.seed, self.samples = int(seed), samples

    def on(self, step: int) -> StepNoise:
        """The noise of one step, counted from the start of the horizon."""
        return StepNoise(self, step)


class StepNoise:
    """The draws of one step; ``stream`` tells apart several draws of the same shape in it."""

    def __init__(self, noise: Noise, step: int) -> None:
        self._noise, self.step = noise, step

    @property
    def shared(self) -> StepNoise:
        """Draws that all steps of a solve have in common, as a path chosen once for the whole depth."""
        return self._noise.on(-1)

    def uniform(self, like: Tensor, shape: tuple[int, ...] = (), stream: int = 0) -> Tensor:
        """Uniform on (0, 1), shape ``(batch, *shape)``, of the dtype and on the device of ``like`` ``(batch, ...)``."""
        batch, device = like.shape[0], like.device
        samples = self._noise.samples
        ids = torch.arange(batch, device=device) if samples is None else samples.to(device)
        count = 1
        for size in shape:
            count *= size
        origin = torch.tensor([self._noise.seed, self.step, stream], dtype=torch.int64, device=device)
        key = _mix(_mix(_mix(origin[0] + _GOLDEN) ^ (origin[1] + 1) * _GOLDEN) ^ (origin[2] + 1) * _GOLDEN)
        key = _mix(key ^ _mix((ids.to(torch.int64) + 1) * _GOLDEN))
        bits = _mix(key[:, None] + torch.arange(1, count + 1, device=device) * _GOLDEN)
        # As many binary digits as the dtype holds below 1, less one for the half that keeps 0 and 1 out of reach.
        digits = round(-math.log2(torch.finfo(like.dtype).eps))
        uniform = (_shift(bits, 64 - digits).to(torch.float64) + 0.5) * 2.0**-digits
        return uniform.reshape(batch, *shape).to(like.dtype)

    def normal(self, like: Tensor, shape: tuple[int, ...] = (), stream: int = 0) -> Tensor:
        """Standard normal by the inverse distribution function, shape ``(batch, *shape)``."""
        return torch.special.ndtri(self.uniform(_wide(like), shape, stream)).to(like.dtype)

    def bernoulli(self, probability: float, like: Tensor, shape: tuple[int, ...] = (), stream: int = 0) -> Tensor:
        """1 with the given probability, else 0, shape ``(batch, *shape)``."""
        return (self.uniform(_wide(like), shape, stream) < probability).to(like.dtype)


def _wide(like: Tensor) -> Tensor:
    """The same tensor in single precision at least: half precision has too few digits for a distribution's tails."""
    return like if like.dtype == torch.float64 else like.to(torch.float32)


def world_and_rank() -> tuple[int, int]:
    """How many ranks there are, and which this is; ``(1, 0)`` on a single process."""
    return (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)


def sample_numbers(x: Tensor) -> Tensor:
    """Numbers of the samples of a batch, unique over ranks: sample ``k`` of rank ``r`` of ``W`` is ``k W + r``."""
    world, rank = world_and_rank()
    return torch.arange(x.shape[0], device=x.device) * world + rank
