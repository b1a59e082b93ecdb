"""What depth in parallel costs: seconds, memory and messages of a rank, and where it beats data parallelism."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from odeframe import InvalidOption


@dataclass(frozen=True)
class Machine:
    """A layer on a machine.

    Attributes:
        layer_seconds: forward time of a layer on the whole batch.
        state_bytes: a state ``(batch, *state)``, the size of a message.
        parameter_bytes: parameters of a layer.
        graph_bytes: what a layer keeps for its backward pass on the whole batch.
        latency: seconds of a message of no length.
        bandwidth: bytes a second between two ranks.
        backward: time of a layer's backward pass over that of its forward pass.
        copies: parameters, gradients and the optimiser's state over the parameters: 4 for Adam.
        least: the least share of ``layer_seconds`` that a layer takes, however small the batch.
    """

    layer_seconds: float = 1e-3
    state_bytes: float = 4e5
    parameter_bytes: float = 4e6
    graph_bytes: float = 8e5
    latency: float = 1e-5
    bandwidth: float = 1e10
    backward: float = 2.0
    copies: float = 4.0
    least: float = 0.05


@dataclass(frozen=True)
class Prediction:
    """Of one training step on one rank: ``seconds``, ``memory`` in bytes, ``messages`` that a rank inside the chain
    sends to its neighbours and their ``sent`` bytes, ``speed_up`` over one process."""

    seconds: float
    memory: float
    messages: int
    sent: float
    speed_up: float


def serial_seconds(machine: Machine, layers: int) -> float:
    """``(1 + b) N c``: forward and backward of ``N`` layers on one process."""
    return (1 + machine.backward) * layers * machine.layer_seconds


def layer_parallel(
    machine: Machine,
    layers: int,
    ranks: int,
    coarsening: int,
    iterations: int | tuple[int, int],
    fcf: bool = False,
    levels: int = 2,
) -> Prediction:
    """A training step by ``layer_parallel``, ``N`` layers in ``M_l = N / coarsening^l`` runs on ``R`` ranks.

    With ``K`` corrections, of a pass whose layer costs ``c`` (backward ``b c``) and a message ``s``::

        fine    (K + 1) (N / R) c                in parallel; FCF adds K (N / R) c + K (M_1 / R) c
        coarse  (K + 1) (M c + (R - 1) s)        one after the other, M on the last level whatever R is
        between (1 + 2 K) (M_l / R) c + K (M_{l+1} / R) c   in parallel; FCF adds K (M_l / R) c
        ends    (K + 2) log2(R) s_0              the jump of every sweep and the count of runs; the last state log2(R) s

    with ``K s`` for each level that relaxes by FCF, and ``(M_l / R) c`` once, for the graphs of the coarse maps
    backward.  ``s = s_0 + state_bytes / bandwidth``.  With two levels the speed-up is below ``cf / (K + 1)`` however
    many ranks there are: more of them want more coarsening, or more levels.  A rank keeps parameters, optimiser's state
    and graphs of ``N / R`` layers, graphs of all ``M_l / R`` coarse ones, and twice as many states.

    Args:
        machine: costs of a layer and of a message.
        layers: ``N``.
        ranks: ``R``, at most ``M`` of the last level.
        coarsening: layers of a run.
        iterations: ``K``, or those of the states and of the costates.
        fcf: whether the relaxation is FCF.
        levels: of the solver.
    """
    sizes = [math.ceil(layers / coarsening**level) for level in range(1, levels)]
    if not 1 <= ranks <= sizes[-1]:
        raise InvalidOption(
            f"layer_parallel model: got {ranks} ranks for {sizes[-1]} runs on the last level, expected 1 to {sizes[-1]}"
        )
    c, message = machine.layer_seconds, machine.latency + machine.state_bytes / machine.bandwidth
    message = message if ranks > 1 else 0.0
    tree, seconds, messages = math.ceil(math.log2(ranks)), 0.0, 0
    corrections = (iterations, iterations) if isinstance(iterations, int) else iterations
    for k, cost in zip(corrections, (c, machine.backward * c), strict=True):
        seconds += evaluations(layers, sizes, k, fcf, ranks) * cost
        seconds += ((k + 1) * (ranks - 1) + k * fcf * len(sizes)) * message
        seconds += (k + 2) * tree * machine.latency + tree * message
        messages += (k + 1 + k * fcf * len(sizes)) * (ranks > 1)
    own, coarse = layers / ranks, sum(sizes) / ranks
    seconds += coarse * c
    memory = own * (machine.copies * machine.parameter_bytes + machine.graph_bytes)
    memory += coarse * (machine.graph_bytes + 2 * machine.state_bytes)
    speed_up = serial_seconds(machine, layers) / seconds
    return Prediction(seconds, memory, messages, messages * machine.state_bytes, speed_up)


def evaluations(layers: int, sizes: Sequence[int], corrections: int, fcf: bool, ranks: int = 1) -> float:
    """Layers that a rank waits for in one pass, one after the other; with one rank, all evaluations of the pass.

    Args:
        layers: ``N``.
        sizes: intervals of every coarse level.
        corrections: ``K``.
        fcf: whether the relaxation is FCF.
        ranks: ``R``.
    """
    k = corrections
    shared = (k + 1 + k * fcf) * layers + k * fcf * sizes[0]
    shared += sum((1 + (2 + fcf) * k) * low + k * high for low, high in itertools.pairwise(sizes))
    return shared / ranks + (k + 1) * sizes[-1]


def data_parallel(machine: Machine, layers: int, ranks: int, batch: int) -> Prediction:
    """The same training step with the batch over the ranks: a ring reduces ``N`` layers of gradients.

    Compute falls with the share of the batch down to ``least``; ``2 (R - 1) / R`` of the parameters go over the wire.
    Ranks beyond the samples of the batch have nothing to do.
    """
    share = min(ranks, batch)
    compute = serial_seconds(machine, layers) * max(1 / share, machine.least)
    sent = 2 * (ranks - 1) / ranks * layers * machine.parameter_bytes
    hops = 2 * (ranks - 1)
    seconds = compute + sent / machine.bandwidth + hops * machine.latency
    memory = layers * (machine.copies * machine.parameter_bytes + machine.graph_bytes / share)
    return Prediction(seconds, memory, hops, sent, serial_seconds(machine, layers) / seconds)


def crossing(
    machine: Machine, layers: int, coarsening: int, iterations: int, batch: int, most: int = 1024
) -> int | None:
    """The least power of two of ranks from which on depth in parallel is faster, up to ``most``; ``None`` if never."""
    found = None
    for power in range(1, most.bit_length()):
        ranks = 2**power
        if ranks > min(most, math.ceil(layers / coarsening)):
            break
        deep = layer_parallel(machine, layers, ranks, coarsening, iterations).seconds
        faster = deep < data_parallel(machine, layers, ranks, batch).seconds
        found = (found or ranks) if faster else None
    return found
