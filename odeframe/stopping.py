"""A network whose flow a policy ends, for each sample: the learned end time of a control problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from odeframe.drive import Drive
from odeframe.errors import Incompatible, InvalidOption
from odeframe.field import merge_times
from odeframe.flow import Flow
from odeframe.network import Network, Outcome
from odeframe.solution import Solution
from odeframe.solver import StepSolver
from odeframe.stepmap import StepMap

__all__ = ["StoppingNetwork", "Trajectory"]


@dataclass
class Trajectory:
    """A solve without a stop, seen after each loop.

    Attributes:
        states: at the start and after each loop, ``(loops + 1, batch, *state)``.
        costs: weighted running costs up to there, ``(loops + 1, batch)``; ``None`` where there are none.
        solution: of the flow.
    """

    states: Tensor
    costs: Tensor | None
    solution: Solution


class StoppingNetwork(Network):
    """Stages of which one is a flow, cut into ``loops`` equal intervals, after each of which a sample may stop.

    The policy says what going on is worth, ``Q(x)`` of states ``x``, stopping being worth 0: a sample stops after the
    first loop where ``Q(x) <= 0``, or after the last.  Before it has been trained all loops are walked.

    Args:
        stages: name to module, exactly one of them a flow.
        policy: from states ``(batch, *state)`` to ``Q`` ``(batch,)``.
        loops: the most of them.

    Attributes:
        decides: whether the policy ends samples; part of the state dict.
    """

    decides: Tensor

    def __init__(self, stages: Mapping[str, nn.Module], policy: nn.Module, loops: int) -> None:
        super().__init__(stages)
        if len(self.flows) != 1 or loops < 1:
            raise InvalidOption(
                f"StoppingNetwork: got {len(self.flows)} flows and loops = {loops}, expected one flow and at least 1"
            )
        self.policy, self.loops = policy, loops
        self.register_buffer("decides", torch.tensor(False))

    @property
    def flow(self) -> Flow:
        """The one flow."""
        return self.flows[0]

    @property
    def loop_times(self) -> list[float]:
        """Start of the flow and ends of its loops."""
        start, end = self.flow.horizon
        return [start + (end - start) * k / self.loops for k in range(self.loops + 1)]

    def run(self, x: Tensor, times: Sequence[float] | None = None) -> Outcome:
        """Output, running cost and solution, whose ``stop_times`` say where each sample stopped."""
        if not bool(self.decides):
            outcome = super().run(x, times)
            outcome.output = self._with_policy(outcome.output)
            return outcome
        state, drive = self._enter(x)
        start, end = self.flow.horizon
        asked = [start, end] if times is None else [start + (end - start) * fraction for fraction in times]
        if torch.is_grad_enabled() or type(self.flow.solver).solve is not StepSolver.solve:
            solution = self._chosen_afterwards(state, drive, asked)
        else:
            kept = asked if self._steps_fit() else self._nodes(asked)
            solution = self.flow.solve(state, kept, drive=drive, stop=self._rule)
            rows = [kept.index(_nearest(time, kept)) for time in asked]
            solution.times, solution.states = solution.times[rows], solution.states[rows]
            solution.quadratures = {name: cost[rows] for name, cost in solution.quadratures.items()}
        cost = self.flow.running_cost(solution) if self.flow.quadratures else None
        return Outcome(self._with_policy(self.leave(solution.final)), cost, [solution])

    def trajectory(self, x: Tensor) -> Trajectory:
        """All loops, whatever the policy says."""
        state, drive = self._enter(x)
        solution = self.flow.solve(state, self.loop_times, drive=drive)
        costs = None
        if self.flow.quadratures:
            weights = [(quadrature.weight, quadrature.name) for quadrature in self.flow.quadratures]
            costs = torch.stack([weight * solution.quadratures[name] for weight, name in weights]).sum(0)
        return Trajectory(solution.states, costs, solution)

    def leave(self, state: Tensor) -> Tensor:
        """What stands behind the flow: states ``(batch, *state)`` to outputs."""
        behind = False
        for stage in self.stages.values():
            state = stage(state) if behind else state
            behind = behind or stage is self.flow
        return state

    def stops(self, states: Tensor) -> Tensor:
        """After which loop each sample stops, ``(batch,)`` from 1 on, of states ``(loops + 1, batch, *state)``."""
        with torch.no_grad():
            between = states[1:-1]
            worth = self.policy(between.flatten(0, 1)).reshape(between.shape[:2])
        stop = torch.cat([worth <= 0, torch.ones_like(states[0].flatten(1).any(1))[None]])
        return stop.int().argmax(0) + 1

    def steps(self, example: Tensor | None = None) -> list[StepMap]:
        """The step maps of all loops.

        Raises:
            Incompatible: a policy ends samples before the last.
        """
        if bool(self.decides):
            raise Incompatible("a network that a trained policy stops has no fixed chain of step maps; train it anew")
        return super().steps(example)

    def _enter(self, x: Tensor) -> tuple[Tensor, Drive | None]:
        """What stands before the flow: its state and its drive."""
        drive: Drive | None = None
        for stage in self.stages.values():
            if stage is self.flow:
                break
            x = stage(x)
            if isinstance(x, tuple):
                x, drive = x
        return x, drive

    def _steps_fit(self) -> bool:
        """Whether the solver's own grid has a node at the end of each loop."""
        solver = self.flow.solver
        return isinstance(solver, StepSolver) and solver.dt is None and (solver.steps or 0) % self.loops == 0

    def _nodes(self, asked: Sequence[float]) -> list[float]:
        """The ends of the loops and the times asked for, in order."""
        merged = list(merge_times((*asked, *self.loop_times)))
        return merged if self.flow.horizon[0] <= self.flow.horizon[1] else merged[::-1]

    def _rule(self, t: Tensor, x: Tensor, memory: tuple[Tensor, ...]) -> Tensor:
        """Who stops here; nobody between the ends of loops."""
        time = float(t)
        if abs(time - _nearest(time, self.loop_times)) > 1e-9 * abs(self.loop_times[-1] - self.loop_times[0]):
            return torch.zeros(x.shape[0], dtype=torch.bool, device=x.device)
        return self.policy(x) <= 0

    def _chosen_afterwards(self, state: Tensor, drive: Drive | None, asked: Sequence[float]) -> Solution:
        """All loops walked, then the states at which the policy would have stopped: differentiable, by any solver."""
        nodes = self._nodes(asked)
        solution = self.flow.solve(state, nodes, drive=drive)
        ends = [nodes.index(_nearest(time, nodes)) for time in self.loop_times]
        stop = torch.tensor(ends, device=state.device)[self.stops(solution.states[ends])]
        rows = torch.tensor([nodes.index(_nearest(time, nodes)) for time in asked], device=state.device)
        index, sample = torch.minimum(rows[:, None], stop[None]), torch.arange(len(stop), device=stop.device)
        solution.states = solution.states[index, sample]
        solution.quadratures = {name: cost[index, sample] for name, cost in solution.quadratures.items()}
        solution.stop_times = solution.times.to(state.device)[stop]
        solution.stopped = stop < ends[-1]
        solution.times = solution.times[rows.cpu()]
        return solution

    def _with_policy(self, output: Tensor) -> Tensor:
        """The output; in training the policy's weights take part in it with zero, as ranks expect of all weights."""
        if not self.training or not torch.is_grad_enabled():
            return output
        return output + 0 * torch.stack([parameter.sum() for parameter in self.policy.parameters()]).sum()


def _nearest(time: float, times: Sequence[float]) -> float:
    return min(times, key=lambda each: abs(each - time))
