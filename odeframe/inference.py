"""Evaluation without a graph, where one can still be asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map


@contextmanager
def without_graph(batch: Any) -> Iterator[Any]:
    """No graph, unless ``torch.enable_grad()`` asks for one: Lightning's inference mode makes tensors that never have.

    Running costs that differentiate the field (a Jacobian's norm, a log-density) do so in evaluation too.

    Yields:
        the batch, with ordinary tensors in place of inference tensors.
    """
    with torch.inference_mode(False), torch.no_grad():
        yield tree_map(lambda each: ordinary(each) if torch.is_tensor(each) else each, batch)


def ordinary(value: Tensor) -> Tensor:
    """The tensor, or, outside inference mode, a copy that autograd takes of one that was made in it."""
    return value.clone() if value.is_inference() else value
