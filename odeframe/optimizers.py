"""Optimisers by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from odeframe.errors import InvalidOption, suggestion
from odeframe.options import check_options

__all__ = ["checked_optimizer", "optimizer_class"]


def optimizer_class(name: str) -> type[Optimizer]:
    """The optimiser of ``torch.optim`` with that name, upper or lower case."""
    known = {
        key.lower(): value
        for key, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, Optimizer) and value is not Optimizer
    }
    if name.lower() not in known:
        names = sorted(cls.__name__ for cls in known.values())
        near = suggestion(name, names)
        raise InvalidOption(f"optimizer: there is none named {name!r}.{near} Those of torch.optim: {', '.join(names)}.")
    return known[name.lower()]


def checked_optimizer(name: str, options: Mapping[str, Any]) -> type[Optimizer]:
    """The optimiser of that name, which takes these options.

    Raises:
        InvalidOption: there is no such optimiser, or an option is unknown, of a wrong type or out of its range.
    """
    made = optimizer_class(name)
    check_options("optimizer", made.__name__, made, options, partial=True)
    try:
        made([torch.nn.Parameter(torch.zeros(1, 1))], **options)
    except (TypeError, ValueError) as error:
        raise InvalidOption(f"optimizer {made.__name__!r}: {error}") from error
    return made
