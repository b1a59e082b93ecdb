"""A solve cut at the field's breakpoints, for adapters to libraries that know nothing of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from odeframe import Field, Incompatible, Law, Status
from odeframe.grid import inside
from odeframe.transforms import transforming


def stretches(field: Field, times: Tensor) -> Iterator[tuple[Law, Tensor, int]]:
    """Each interval without breakpoints, in the order in which the solve meets them.

    Args:
        field: what is solved.
        times: checked output times ``(num_times,)``.

    Yields:
        The law; the times to ask for, float64 ``(2 or more,)``: the interval's start, the output times after it and up
        to its end, and its end; and how many output times are among them.
    """
    if transforming():
        raise Incompatible(
            "a solver of another library: got a transform of torch.func (grad, vjp, jvp, vmap), expected plain "
            "autograd; write a solver of odeframe's own, e.g. solver='dopri5'"
        )
    plain = [float(time) for time in times.detach()]
    cuts = [plain[0], *inside(field.breakpoints(), times), plain[-1]] if len(plain) > 1 else []
    for index, (start, end) in enumerate(itertools.pairwise(cuts)):
        law = field.on(*torch.tensor([start, end], dtype=torch.float64), step=index)
        outputs = [t for t in plain[1:] if (start < t <= end if end >= start else end <= t < start)]
        asked = [start, *outputs, *([] if outputs and outputs[-1] == end else [end])]
        yield law, torch.tensor(asked, dtype=torch.float64), len(outputs)


class Halt(Exception):  # noqa: N818 - not an error: it carries a failure out of a library's loop
    """A failure: where a solve stopped, with which step, from which last good state, and what was wrong."""

    passed: Sequence[Tensor] = ()  # states at output times that are known nevertheless

    def __init__(self, status: Status, t: float, dt: float, last: Tensor, suspect: Tensor) -> None:
        super().__init__(status.message)
        self.status, self.t, self.dt, self.last, self.suspect = status, t, dt, last, suspect
