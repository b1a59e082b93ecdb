"""FractalNet: columns of ever finer Euler steps that are joined, each of which can be taken out as a network."""

from __future__ import annotations

import copy
import itertools
from typing import Any, Literal

import torch

from odeframe import Flow, Incompatible, InvalidOption, Network, StepSolver, build
from odeframe.control import BlockLaw
from odeframe.flow import Choice
from odeframe.registry import word
from odeframe.specification import NetworkSpec
from odeframe_plugins.architectures.staged import Staged


class FractalNet(Staged):
    """Each step is a fractal of ``2^C - 1`` blocks: ``C`` columns, column ``j`` of ``2^j`` Euler steps, and joins.

    The joins take the mean of the active columns; drop-path, in training, leaves some of them (``"local"``), one column
    throughout (``"global"``), or each for half of the samples (``"mixed"``), so that every column is trained to do
    alone.  :func:`column` takes one out as a residual network of its own.

    Args:
        columns: ``C``.
        drop_path: ``"none"``, ``"local"``, ``"global"`` or ``"mixed"``.
        drop: probability of a local drop.
        width, blocks, stages, step: as for ``resnet``; a block is a whole fractal.

    A word for the solver replaces the first three.

    Source: Larsson, Maire, Shakhnarovich 2017, FractalNet: Ultra-Deep Neural Networks without Residuals, sections 2
    and 3; there ``f(x)`` in place of ``x + h f(x)``.
    """

    name = "fractalnet"

    def __init__(
        self,
        columns: int = 3,
        drop_path: Literal["none", "local", "global", "mixed"] = "mixed",
        drop: float = 0.15,
        width: int = 16,
        blocks: int = 1,
        stages: int | None = None,
        step: float = 1.0,
    ) -> None:
        super().__init__(width, blocks, stages, step)
        self.scheme: dict[str, Any] = {"name": "fractal", "columns": columns, "drop_path": drop_path, "drop": drop}
        word("solver", self.scheme).build()  # holds the options against the solver's

    def default(self, kind: str, spec: NetworkSpec) -> Choice:
        """The fractal scheme with these options."""
        return self.scheme if kind == "solver" else super().default(kind, spec)


def column(network: Network, index: int) -> Network:
    """One column of a fractal network as a network of its own: ``2^index`` Euler steps for each of its steps.

    The result has copies of that column's blocks alone, and no joins; it computes what the fractal network does with
    ``flow.solver.column = index`` in every flow.

    Args:
        network: its flows have the solver ``fractal``; their control owns blocks (``constant``,
            ``piecewise_constant``).
        index: 0, the shallowest, to ``C - 1``.

    Raises:
        Incompatible: a flow has another solver, or a control that computes its weights.
        InvalidOption: there is no such column.
    """
    stages = {
        name: _column(name, stage, index) if isinstance(stage, Flow) else copy.deepcopy(stage)
        for name, stage in network.stages.items()
    }
    return Network(stages).train(network.training)


def _column(name: str, flow: Flow, index: int) -> Flow:
    columns = getattr(flow.solver, "columns", None)
    if columns is None or not isinstance(flow.solver, StepSolver):
        raise Incompatible(
            f"{name} has the solver {type(flow.solver).__name__}, which has no columns; build the network with "
            "solver='fractal'"
        )
    if not 0 <= index < columns:
        raise InvalidOption(f"column: got {index}, expected 0 to {columns - 1}")
    nodes = flow.solver.grid(flow.field(), flow.times(None)).nodes
    laws = [flow.control.on(t, t_next) for t, t_next in itertools.pairwise(nodes)]
    if not all(isinstance(law, BlockLaw) for law in laws):
        raise Incompatible(
            f"{name} has the control {type(flow.control).__name__}, whose blocks are not its own; a column is taken "
            "out of a network with control='piecewise_constant' or 'constant'"
        )
    first = 2**index - 1  # of the blocks of a step: 1 of column 0, then 2, then 4
    blocks = [copy.deepcopy(law.block.slots[first + k]) for law in laws for k in range(2**index)]
    solver = build("solver", "euler", steps=len(blocks))
    control = build("control", "piecewise_constant", pieces=len(blocks), init="copy")
    made = Flow(blocks[0], control, solver, copy.deepcopy(flow.gradient), flow.horizon, flow.quadratures)
    for piece, block in enumerate(blocks):
        made.control.on(*_ends(made, piece)).block.slots[0].load_state_dict(block.state_dict())
    return made


def _ends(flow: Flow, piece: int) -> tuple[torch.Tensor, torch.Tensor]:
    start, end = flow.horizon
    nodes = torch.linspace(start, end, flow.control.pieces + 1, dtype=torch.float64)
    return nodes[piece], nodes[piece + 1]
