"""Depth over the ranks of a process group: each has the layers of its slice, and nothing of the others'."""

from __future__ import annotations

import itertools
from typing import Any

import torch.distributed as dist
from torch import nn

from odeframe import Flow, InvalidOption
from odeframe.block import Block, empty
from odeframe_plugins.solvers.layer_parallel import LayerParallel
from odeframe_plugins.solvers.layer_parallel_chain import Chain
from odeframe_plugins.solvers.layer_parallel_levels import level_bounds


def split_depth(flow: Flow, group: Any = None) -> range:
    """Gives this rank the flow's layers of its slice of depth, and drops the parameters of the others.

    Every rank builds the same flow (the same seed), calls this, and then makes its optimiser of ``flow.parameters()``:
    parameters, gradients, graphs and the optimiser's state of a slice are on one rank.  From then on ``flow(x0)`` and
    its backward pass are collective: every rank calls them with the same ``x0`` and computes the same loss of the
    result, which all of them get.  ``x0.grad`` is the same on all, so what comes before and after the flow is
    replicated and needs no reduction.  In a mesh with data parallelism ``group`` is the ranks of one replica, and
    gradients are averaged over the ranks with the same slice.

    Args:
        flow: with the solver ``layer_parallel`` and a control with parameters of their own for each piece.
        group: a process group; by default that of all processes.

    Returns:
        The indices of the steps of this rank.

    Raises:
        InvalidOption: another solver or control, a piece that two ranks would share, or fewer runs than ranks.
    """
    solver = flow.solver
    if not isinstance(solver, LayerParallel):
        raise InvalidOption(f"split_depth: got the solver {type(solver).__name__}, expected layer_parallel")
    if not (dist.is_available() and dist.is_initialized()):
        raise InvalidOption("split_depth: no process group; call torch.distributed.init_process_group first")
    if solver.group is not None:
        raise InvalidOption("split_depth: this flow is split already; build it anew to split it otherwise")
    group = dist.group.WORLD if group is None else group
    nodes = solver.grid(flow.field(), flow.times(None)).nodes
    modules = [flow.control.on(a, b).module for a, b in itertools.pairwise(nodes)]
    bounds, spans = level_bounds(len(modules), solver.coarsening, solver.levels, Chain(group))
    own = range(bounds[0][spans[0].start], bounds[0][spans[0].stop])
    mine = {id(module) for module in modules[own.start : own.stop]}
    others = {id(m): m for m in (*modules[: own.start], *modules[own.stop :])}
    if mine & others.keys() or not all(isinstance(m, Block) for m in modules) or _loose(flow.control, modules):
        raise InvalidOption(
            "split_depth: a set of weights is used by layers of two ranks, so that no rank could own it; write "
            "control='piecewise_constant' with a piece a step, or pieces that are whole runs of `coarsening` steps"
        )
    for block in others.values():
        empty(block)
    solver.group = group
    return own


def _loose(control: nn.Module, modules: list[nn.Module]) -> bool:
    """Whether the control has parameters that belong to no step alone."""
    owned = {id(p) for module in modules for p in module.parameters()}
    return any(id(p) not in owned for p in control.parameters())
