"""The processes that share a depth between them: a chain in which neighbours exchange states."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from odeframe import InvalidOption

State = tuple[Tensor, ...]


class Chain:
    """One process alone, or the ranks of a process group in the order of depth.

    A chain counts what it sends: ``messages`` and ``bytes`` to neighbours, and ``collectives``.

    Args:
        group: a process group; ``None`` for one process.
        back: whether the chain runs from the last rank to the first, as costates do.
        like: tensors of the shapes and dtypes that neighbours exchange.
    """

    def __init__(self, group: Any = None, back: bool = False, like: State = ()) -> None:
        self.group, self.like = group, like
        self.size, self.rank = (1, 0) if group is None else (dist.get_world_size(group), dist.get_rank(group))
        self.place = self.size - 1 - self.rank if back else self.rank
        self._back = back
        self.messages = self.bytes = self.collectives = 0

    def _peer(self, place: int) -> int:
        return dist.get_global_rank(self.group, self.size - 1 - place if self._back else place)

    def receive(self, start: State) -> State:
        """The state that the neighbour before sends; ``start`` on the first process."""
        if self.place == 0:
            return start
        found = tuple(torch.empty_like(v, memory_format=torch.contiguous_format) for v in self.like)
        for v in found:
            dist.recv(v, self._peer(self.place - 1), group=self.group)
        return found

    def send(self, z: State) -> None:
        """Gives the neighbour behind a state; nothing to do on the last process."""
        for request in self._post(z):
            request.wait()

    def shift(self, start: State, last: State) -> State:
        """Sends ``last`` on and returns what the neighbour before sent: all at once, where a sweep would wait."""
        requests = self._post(last)
        found = self.receive(start)
        for request in requests:
            request.wait()
        return found

    def _post(self, z: State) -> list[Any]:
        if self.place == self.size - 1:
            return []
        if [(v.shape, v.dtype) for v in z] != [(v.shape, v.dtype) for v in self.like]:
            raise InvalidOption(
                "solver 'layer_parallel': ranks exchange states of one layout, and the memory of this scheme changes "
                "it along the way; wrap a scheme of one step, e.g. of: euler, of: rk4"
            )
        requests = []
        for v in z:
            requests.append(dist.isend(v.detach().contiguous(), self._peer(self.place + 1), group=self.group))
            self.messages, self.bytes = self.messages + 1, self.bytes + v.numel() * v.element_size()
        return requests

    def largest(self, values: list[float]) -> list[float]:
        """The maximum over processes of each number."""
        if self.group is None:
            return values
        top = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(top, dist.ReduceOp.MAX, group=self.group)
        self.collectives += 1
        return [float(v) for v in top]

    def from_last(self, x: Tensor) -> Tensor:
        """The last process's tensor, on all of them."""
        if self.group is None:
            return x
        shared = x.detach().clone(memory_format=torch.contiguous_format)
        dist.broadcast(shared, self._peer(self.size - 1), group=self.group)
        self.collectives += 1
        return shared

    def total(self, count: int) -> int:
        """The sum over processes of a count, all of which have to have states of the same size.

        Raises:
            InvalidOption: on all of them where they have not: what neighbours send would not fit.
        """
        if self.group is None:
            return count
        x = self.like[0]
        mine = torch.tensor([count, x.shape[0], x.numel()])
        found = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(found, mine, group=self.group)
        self.collectives += 1
        counts, batches, sizes = zip(*(each.tolist() for each in found), strict=True)
        if len(set(batches)) > 1 or len(set(sizes)) > 1:
            raise InvalidOption(
                f"solver 'layer_parallel': got batches of {list(batches)} samples on the ranks of one depth, with "
                f"{list(sizes)} numbers; give all of them the same x0"
            )
        return sum(counts)

    def share(self, count: int) -> range:
        """The intervals of this process, of ``count`` in the order of depth, as equal as can be."""
        if count < self.size:
            raise InvalidOption(
                f"solver 'layer_parallel': got {count} coarse intervals for {self.size} ranks; write a smaller "
                "coarsening, fewer levels, or more steps"
            )
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)
