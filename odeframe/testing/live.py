"""Bytes that autograd keeps at a time, through a forward and a backward pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class LiveBytes:
    """A context that counts what autograd keeps at a time: activations, without the parameters.

    A tensor that is kept twice counts twice.  Only what is kept within the context counts; a backward pass within it
    may keep tensors of its own, those of steps that it takes again.

    Args:
        parameters: tensors that do not count, and nothing that shares their memory.

    Attributes:
        now: bytes that are kept at present.
        peak: the most that was kept at a time.

    Example:
        >>> weight = torch.ones(8, requires_grad=True)
        >>> with LiveBytes([weight]) as live:
        ...     (weight * torch.ones(8)).sin().sum().backward()
        >>> live.now, live.peak  # the factor, and what the sine takes, 4 bytes a number
        (0, 64)
    """

    def __init__(self, parameters: Iterable[Tensor] = ()) -> None:
        self.now = self.peak = 0
        self._apart = {p.untyped_storage().data_ptr() for p in parameters}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(lambda v: _Kept(self, v), lambda kept: kept.value)

    def __enter__(self) -> LiveBytes:
        self._hooks.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._hooks.__exit__(*raised)

    def add(self, v: Tensor) -> int:
        """The bytes of a tensor, counted as kept."""
        size = 0 if v.untyped_storage().data_ptr() in self._apart else v.nbytes
        self.now += size
        self.peak = max(self.peak, self.now)
        return size


class _Kept:
    """A tensor that autograd keeps until it drops this."""

    def __init__(self, live: LiveBytes, value: Tensor) -> None:
        self.live, self.value = live, value
        self.size = live.add(value)

    def __del__(self) -> None:
        self.live.now -= self.size
