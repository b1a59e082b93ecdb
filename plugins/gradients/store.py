"""Where kept states wait for the backward pass: on their device, or in the host's memory."""

from __future__ import annotations

import torch
from torch import Tensor

from odeframe.field import State


class Store:
    """Puts states away and gets them back.

    Copies go through pinned memory in the order of the device's stream, so that nobody waits for them.

    Args:
        device: of the states.
        offload: whether they wait on the host.
    """

    def __init__(self, device: torch.device, offload: bool) -> None:
        self.device, self.away = device, offload and device.type != "cpu"

    def put(self, state: State) -> State:
        """The state as it is kept."""
        x, memory = state
        return (self._host(x), tuple(self._host(v) for v in memory)) if self.away else state

    def get(self, state: State) -> State:
        """The state as it was, on its device."""
        x, memory = state
        return (self._back(x), tuple(self._back(v) for v in memory)) if self.away else state

    def _host(self, v: Tensor) -> Tensor:
        kept = torch.empty_like(v, device="cpu", pin_memory=v.device.type == "cuda")
        return kept.copy_(v.detach(), non_blocking=v.device.type == "cuda")

    def _back(self, v: Tensor) -> Tensor:
        return v.to(self.device, non_blocking=v.is_pinned() if self.device.type == "cuda" else False)
