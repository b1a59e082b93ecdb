"""Optimisers by name."""

from __future__ import annotations

import torch
from torch.optim import Optimizer

from odeframe.errors import InvalidOption, suggestion

__all__ = ["optimizer_class"]


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
