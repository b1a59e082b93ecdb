"""The zero of a function in a bracket, for every sample of a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MOST_ITERATIONS = 60  # each at least halves the bracket, and 60 halvings reach round-off


def ridders(
    function: Callable[[Tensor], Tensor],
    bracket: tuple[Tensor, Tensor],
    ends: tuple[Tensor, Tensor],
    tolerance: Tensor,
    active: Tensor,
    smooth: bool,
) -> Tensor:
    """The zero of a function of each sample between two values of other sign, on the far side of it where one can.

    ``y = m +- (m - l) f(m) / sqrt(f(m)^2 - f(l) f(h))`` beside the midpoint ``m``: of second order for smooth
    functions, and the bracket is at least halved; that alone counts where the function is a jump.

    Source: Ridders 1979, A new algorithm for computing a single root of a real continuous function.
    """
    (low, high), (f_low, f_high) = bracket, ends
    side = -f_low.sign()  # that of the far end, which may be zero itself
    best, last = high, low
    for _ in range(MOST_ITERATIONS):
        middle = 0.5 * (low + high)
        f_middle = function(middle)
        root = (f_middle * f_middle - f_low * f_high).clamp(min=0).sqrt()
        shift = (middle - low) * side * f_middle / torch.where(root == 0, torch.ones_like(root), root)
        near = torch.minimum(torch.maximum(middle - shift, low), high)
        f_near = function(near)
        first = near <= middle
        points = torch.where(first, near, middle), torch.where(first, middle, near)
        found = torch.where(first, f_near, f_middle), torch.where(first, f_middle, f_near)
        beyond = found[0] * side >= 0, found[1] * side >= 0
        new_low = torch.where(beyond[0], low, torch.where(beyond[1], points[0], points[1]))
        new_high = torch.where(beyond[0], points[0], torch.where(beyond[1], points[1], high))
        f_low = torch.where(beyond[0], f_low, torch.where(beyond[1], found[0], found[1]))
        f_high = torch.where(beyond[0], found[0], torch.where(beyond[1], found[1], f_high))
        low, high, last, best = new_low, new_high, best, near
        settled = ((best - last).abs() <= tolerance) | (f_near == 0) if smooth else torch.zeros_like(active)
        if bool((settled | (high - low <= tolerance) | ~active).all()):
            break
    if not smooth:
        return high
    past = torch.minimum(best + tolerance, high)
    return torch.where(function(best) * side < 0, past, best)
