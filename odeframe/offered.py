"""What a task adds to the module that it is put to."""

from __future__ import annotations

import functools
from typing import Any


class OffersTaskMethods:
    """``module.name(...)`` is ``module.task.name(module.network, ...)`` for the names that the task offers.

    So a density has ``log_prob(x)`` and ``sample(n)``: what can be asked of a trained model depends on its task.
    """

    def __getattr__(self, name: str) -> Any:
        task = self.__dict__.get("task")
        if name in getattr(task, "offers", ()):
            return functools.partial(getattr(task, name), self.network)
        return super().__getattr__(name)  # type: ignore[misc]
