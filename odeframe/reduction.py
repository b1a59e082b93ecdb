"""The one place where gradients that no ``loss.backward()`` made are averaged over ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from odeframe.agreement import agree, several
from odeframe.errors import InvalidOption


def average(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The mean over ranks of each tensor, by one message; the tensors themselves on a single process.

    Every rank must call it with the same shapes in the same order.  Before it goes the small message by which a rank
    tells that it has failed (:func:`odeframe.agreement.agree`), so that none waits for numbers that never come.

    Raises:
        OdeframeError: another rank has failed.
    """
    if not several() or not tensors:
        return list(tensors)
    agree()
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)  # a sum: gloo has no mean
    flat /= dist.get_world_size()
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def reduce_gradients(parameters: Iterable[nn.Parameter], gradients: Iterable[Tensor | None]) -> None:
    """Sets ``parameter.grad`` to the mean over ranks; a missing gradient counts as zero.

    Raises:
        InvalidOption: a gradient has another shape than its parameter.
    """
    wanted = list(parameters)
    values = [torch.zeros_like(p) if g is None else g.detach() for p, g in zip(wanted, gradients, strict=True)]
    for parameter, value in zip(wanted, values, strict=True):
        if parameter.shape != value.shape:
            raise InvalidOption(
                f"reduce_gradients: got a gradient of shape {tuple(value.shape)} for a parameter of shape "
                f"{tuple(parameter.shape)}"
            )
    for parameter, value in zip(wanted, average(values), strict=True):
        parameter.grad = value
