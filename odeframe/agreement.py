"""What ranks have to agree on before any of them stops: a failure of one is an error of all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from odeframe.errors import InvalidOption, OdeframeError, SolveFailed

__all__ = [
    "BACKWARD",
    "Deferred",
    "Message",
    "Share",
    "agree",
    "at_least_one",
    "check_finite_loss",
    "missing_ranks",
    "several",
    "together",
]

GRACE = 5.0
"""Seconds in which the ranks that are left report, once one has seen that another is gone."""

_LOST = re.compile(
    r"gloo|nccl|connection (?:was )?(?:closed|reset)|broken pipe|timed out waiting|pair closure|tcpstore", re.I
)
_FACTS = ("status", "t", "dt", "nfe", "worst_sample")


def several() -> bool:
    """Whether this process is one of several ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class Share:
    """What a rank brings to an agreement, and the mean that all take from it.

    Attributes:
        number: 0-d, of this rank; after the agreement the mean over ranks by weight, of the same type.
        weight: of this rank's number, its samples.
    """

    def __init__(self) -> None:
        self.number: Tensor | None = None
        self.weight = 0

    def put(self, number: Tensor, weight: int) -> None:
        """Sets both."""
        self.number, self.weight = number.detach(), weight


class Message:
    """One agreement on its way, 24 bytes a rank: sent where it is made, read where it is settled.

    All ranks must send the same number of times and in the same order; one that fails sends once more, in place of its
    next message.  With a single process nothing is sent.

    Args:
        failure: what went wrong on this rank.
        share: a number that goes with the message, and becomes the mean over ranks where it is settled.
    """

    def __init__(self, failure: Exception | None = None, share: Share | None = None) -> None:
        self._failure, self._share = failure, share or Share()
        self._every: list[Tensor] = []
        if not several():
            return
        mine = torch.tensor([failure is not None, self._share.weight, 0.0], dtype=torch.float64, device=_device())
        if self._share.number is not None:
            mine[2] = self._share.weight * self._share.number.to(mine)
        self._every = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        self._work = dist.all_gather(self._every, mine, async_op=True)

    def settle(self) -> None:
        """Raises on every rank where one of them has failed.

        Raises:
            SolveFailed: the solve of a rank failed; the message has its number.
            OdeframeError: another rank stopped by any other error, which it raises itself.
        """
        try:
            if self._every:
                self._work.wait()
                self._read()
            elif self._failure is not None:
                raise self._failure
        except Exception as error:
            error.agreed = True  # type: ignore[attr-defined]  # a block around this call has nothing more to tell
            raise

    def _read(self) -> None:
        failure, share, ranks = self._failure, self._share, len(self._every)
        flags, weights, numbers = torch.stack(self._every).unbind(1)
        failed = flags.nonzero().flatten().tolist()
        if not failed:
            if share.number is not None:
                share.number = (numbers.sum() / weights.sum()).to(share.number)
            return
        if len(failed) == ranks and failure is not None and not isinstance(failure, SolveFailed):
            raise failure  # a wrong option is wrong everywhere
        first = failed[0]
        told: list[Any] = [_told(failure) if dist.get_rank() == first else None]
        dist.broadcast_object_list(told, src=first, device=_device())
        text, facts = told[0]
        if facts is not None and (failure is None or isinstance(failure, SolveFailed)):
            raise SolveFailed(f"on rank {first} of {ranks}, {text}", **facts) from failure
        if failure is not None:
            raise failure
        raise OdeframeError(f"rank {first} of {ranks} stopped, and with it all: {text}")


def agree(failure: Exception | None = None, share: Share | None = None) -> None:
    """A :class:`Message` sent and settled at once, before any with data."""
    Message(failure, share).settle()


@contextmanager
def together(share: Share | None = None) -> Iterator[None]:
    """Within it an error of one rank is an error of all at its end; raises what :meth:`Message.settle` raises.

    Args:
        share: what is put into it within the block is the mean over ranks behind it.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        if not several() or getattr(error, "agreed", False):
            raise
        failure = error
    agree(failure or BACKWARD.taken(), share)


class Deferred:
    """Keeps a failure for later, where ranks do not pass the same number of times.

    With a single process it is raised at once.
    """

    def __init__(self) -> None:
        self._failure: Exception | None = None

    def run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """What the call returns; with several ranks a failure is kept, the first of them, and that is ``None``."""
        try:
            return call(*arguments)
        except Exception as error:
            if not several():
                raise
            self._failure = self._failure or error
            return None

    def taken(self) -> Exception | None:
        """The failure, which is forgotten."""
        failure, self._failure = self._failure, None
        return failure

    def sent(self, share: Share | None = None) -> Message:
        """A message with the failure, which is forgotten here."""
        return Message(self.taken(), share)

    def settle(self) -> None:
        """Raises what :meth:`Message.settle` raises, and forgets."""
        self.sent().settle()


BACKWARD = Deferred()
"""Failures that wait for the end of the backward pass, in which other ranks wait for this one's gradient."""


def check_finite_loss(loss: Tensor) -> None:
    """Raises ``SolveFailed`` where the loss of a batch is no number, before it reaches the weights of any rank."""
    if not bool(torch.isfinite(loss.detach()).all()):
        raise SolveFailed(f"the loss of the batch is {float(loss)}", status="non-finite")


def missing_ranks(error: BaseException) -> list[int] | None:
    """The ranks that do not answer, asked for by those that are left; ``None`` where the error is of another kind.

    Args:
        error: what was raised: by a message that never came, or by anything else.
    """
    if not (several() and isinstance(error, RuntimeError) and _LOST.search(str(error))):
        return None
    store = dist.PrefixStore("odeframe/left", dist.distributed_c10d._get_default_store())
    missing: list[int] = []
    left = GRACE
    try:
        store.set(str(dist.get_rank()), "here")
        for rank in range(dist.get_world_size()):
            try:
                store.wait([str(rank)], timedelta(seconds=left))
            except dist.DistStoreError:  # the time is over
                missing, left = [*missing, rank], 0.1
    except dist.DistNetworkError:
        return [0]  # it keeps the store
    return missing


def _told(failure: Exception | None) -> tuple[str, dict[str, Any] | None]:
    if isinstance(failure, SolveFailed):
        status = failure.status
        text = failure.message or getattr(status, "message", "") or str(status)
        return text, {name: getattr(failure, name) for name in _FACTS}
    return f"{type(failure).__name__}: {failure}", None


def _device() -> torch.device:
    """Where a message has to lie: on the host, unless the ranks speak through their GPUs alone."""
    if "nccl" in dist.get_backend():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def at_least_one(size: int) -> int:
    """The size of a batch; one without samples has no loss.

    Raises:
        InvalidOption: there are none.
    """
    if not size:
        raise InvalidOption("got a training batch without samples, expected at least one; leave empty batches out")
    return size
