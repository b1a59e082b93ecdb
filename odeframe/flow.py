"""A flow: dynamics, control, solver and gradient on a horizon, as one ``nn.Module``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from odeframe.block import Block
from odeframe.compatibility import check
from odeframe.control import Control, check_factor
from odeframe.drive import Drive, as_drive
from odeframe.dynamics import as_dynamics, observed, sleeping, takes_keyword
from odeframe.errors import Incompatible, InvalidOption, SolveFailed
from odeframe.event import Event
from odeframe.field import Field, FlowField
from odeframe.gradient import Gradient
from odeframe.grid import DEFAULT_STEPS, check_times
from odeframe.inference import without_graph
from odeframe.initial_value import Choice, build_part, matching
from odeframe.noise import Noise, sample_numbers
from odeframe.quadrature import PackedField, Quadrature, blame
from odeframe.registry import word
from odeframe.solution import Solution, Stats
from odeframe.solver import Solver, StepSolver, StopRule, check_state
from odeframe.stepmap import Frame, InitStep, SolverStep, StepMap


class Flow(nn.Module):
    """``x(T)`` of ``dx/dt = f(t, x, u)``, ``x(0) = x0``, as in ``nn.Sequential(stem, Flow(block), head)``.

    Args:
        dynamics: an ``nn.Module`` called as ``f(t, x)``, with ``t`` 0-d or ``(batch,)``; a plain ``f(x)`` is accepted
            (its ``forward`` has one required argument).  Or a word of the registry.
        control: how the weights depend on depth.
        solver: how depth is discretised.
        gradient: how gradients are had.
        horizon: first and last time.
        quadratures: running costs, integrated with the state.

    Words are a name, a mapping ``{"name": ..., **options}``, or an object.

    Raises:
        Incompatible: the parts do not fit, naming the two and what would.

    Shapes: ``x0`` ``(batch, *state)``; states ``(num_times, batch, *state)``.
    """

    def __init__(
        self,
        dynamics: Choice,
        control: Choice = "constant",
        solver: Choice = "rk4",
        gradient: Choice = "backprop",
        horizon: tuple[float, float] = (0.0, 1.0),
        quadratures: Sequence[Quadrature] = (),
    ) -> None:
        super().__init__()
        words = {
            "dynamics": word("dynamics", dynamics),
            "control": word("control", control),
            "solver": word("solver", solver),
            "gradient": word("gradient", gradient),
        }
        check(words)
        module = as_dynamics(words["dynamics"].build())
        check({**words, "dynamics": observed(module)})  # what only a built module shows
        others = {kind: each for kind, each in words.items() if kind != "dynamics"}
        self._check_again = others if sleeping(module) else None  # once it is put to training
        self.horizon = _check_horizon(horizon)
        built: Solver = build_part(words["solver"], Solver)
        self.quadratures = _check_quadratures(quadratures, built)
        self.gradient: Gradient = build_part(words["gradient"], Gradient)
        self.control: Control = build_part(words["control"], Control)
        block = Block(module, built, getattr(built, "slots", 1))
        steps = (built.steps or DEFAULT_STEPS) if isinstance(built, StepSolver) and built.dt is None else None
        self.control.attach(block, self.horizon, steps)
        if block.solver is None:
            self.solver = built
        else:  # its coefficients belong to the control: not a child of the flow as well
            object.__setattr__(self, "solver", built)
        self._takes_drive = takes_keyword(module, "drive")
        #: counts of the last solve, or of the step maps that were made last
        self.stats = Stats()
        self._counts: list[Stats] | None = None
        #: of the next draws in training; None takes torch's generator
        self.noise_seed: int | None = None

    def count(self, on: bool = True) -> None:
        """Begins to keep the counts of everything from here on for :meth:`counted`, or ends it."""
        self._counts = [] if on else None

    def counted(self) -> Stats:
        """The counts since :meth:`count`, summed; without it those of the last solve."""
        return self.stats if self._counts is None else sum(self._counts, Stats())

    def _counting(self, stats: Stats) -> Stats:
        self.stats = stats
        if self._counts is not None:
            self._counts.append(stats)
        return stats

    @property
    def dynamics(self) -> nn.Module:
        """The dynamics (of a piecewise control: those of the first piece)."""
        return self.control.block.slots[0]

    def forward(
        self,
        x0: Tensor,
        drive: Drive | Tensor | None = None,
        noise: Noise | None = None,
        stop: StopRule | None = None,
    ) -> Tensor:
        """The state at the last time, ``(batch, *state)``."""
        return self.solve(x0, drive=drive, noise=noise, stop=stop).final

    def solve(
        self,
        x0: Tensor,
        times: Any = None,
        drive: Drive | Tensor | None = None,
        noise: Noise | None = None,
        stop: StopRule | None = None,
        quadratures: Sequence[Quadrature] | None = None,
    ) -> Solution:
        """States, running costs and statistics at the times asked for, by default both ends of the horizon.

        Args:
            x0: ``(batch, *state)`` at the first time.
            times: strictly monotone within the horizon; may carry a gradient.
            drive: exogenous input; a tensor is constant in time.
            noise: the draws of a stochastic solver; by default drawn from torch's generator in training, and none
                (the scheme's mean) in evaluation.
            stop: an :class:`odeframe.Event` or a rule that ends samples early.
            quadratures: running costs in place of the flow's own; an empty list for none.

        Raises:
            SolveFailed: the state became non-finite, or a running cost did, which is named; or steps too small or too
                many.
        """
        asked = self.quadratures if quadratures is None else quadratures
        if torch.is_inference_mode_enabled() and any(getattr(cost, "needs_jacobian", False) for cost in asked):
            # tensors of that mode have no derivatives, and such a cost would be zero
            given = as_drive(drive)
            with without_graph((x0, times, () if given is None else given.tensors)) as (x0, times, tensors):
                drive = None if given is None else given.replace(tensors)
                return self.solve(x0, times, drive, noise, stop, quadratures)
        x0, times = check_state(x0), self.times(times)
        if self._check_again is not None and not sleeping(self.dynamics):
            check({**self._check_again, "dynamics": observed(self.dynamics)})
        field = self.field(as_drive(drive), self.noise(x0, noise))
        packed = self.packed(field, x0, quadratures)
        start = packed.pack(x0) if isinstance(packed, PackedField) else x0
        if stop is not None and isinstance(packed, PackedField):
            stop = stop.of(lambda z: packed.unpack(z)[0]) if isinstance(stop, Event) else packed.stop_rule(stop)
        with matching(x0, lambda: (*self.parameters(), *getattr(field.drive, "tensors", ()))):
            try:
                solution = self.gradient.solve(self.solver, packed, start, times, stop)
            except SolveFailed as failure:
                if isinstance(packed, PackedField):
                    blame(failure, self.solver, packed, x0, times)
                raise
        self._counting(solution.stats)
        if isinstance(packed, PackedField):
            states, costs = packed.unpack(solution.states)
            solution.states = states
            solution.quadratures = {q.name: costs[..., i] for i, q in enumerate(packed.quadratures)}
        return solution

    def steps(self, drive: Drive | Tensor | None = None, noise: Noise | None = None, carried: int = 0) -> list[StepMap]:
        """The flow as step maps, its starter first: ``z = (x, *drive.tensors)`` in, ``(x(T), cost)`` out.

        The weighted running cost ``(batch,)`` is there where the flow has quadratures; ``carried`` says how many
        running costs of earlier flows follow in ``z``.
        """
        if not isinstance(self.solver, StepSolver):
            raise Incompatible(
                f"step maps need a step solver: got {type(self.solver).__name__}, whose steps depend on the state; "
                "write e.g. solver='rk4'"
            )
        self.field(as_drive(drive), noise)
        times = self.times(None)
        grid = self.solver.grid(FlowField(self.control, as_drive(drive)), times)
        frame = Frame(self, grid, self._counting(Stats()), as_drive(drive), noise, carried)
        return [InitStep(frame, 0), *(SolverStep(frame, k) for k in range(len(grid.spacing)))]

    def times(self, times: Any) -> Tensor:
        """Checked times, by default the horizon; those outside it are refused."""
        checked = check_times(self.horizon if times is None else times)
        low, high = min(self.horizon), max(self.horizon)
        margin = 1e-9 * (high - low)
        plain = checked.detach()
        if float(plain.min()) < low - margin or float(plain.max()) > high + margin:
            raise InvalidOption(
                f"times: got {float(plain.min()):g} to {float(plain.max()):g}, outside the flow's horizon "
                f"{self.horizon}; build the flow with a longer horizon"
            )
        return checked

    def field(self, drive: Drive | None = None, noise: Noise | None = None) -> FlowField:
        """What the solver sees, with a fresh count of evaluations."""
        if drive is not None and not self._takes_drive:
            raise Incompatible(
                f"dynamics {type(self.dynamics).__name__} take no drive; write forward(self, t, x, u=None, drive=None)"
            )
        return FlowField(self.control, drive, noise)

    def packed(self, field: FlowField, x0: Tensor, quadratures: Sequence[Quadrature] | None = None) -> Field:
        """The field with its quadratures, or the field itself where there are none."""
        costs = self.quadratures if quadratures is None else _check_quadratures(quadratures, self.solver)
        drawn = [quadrature.drawn(field.noise, x0) for quadrature in costs]
        return PackedField(field, drawn, x0.shape[1:]) if drawn else field

    def add_costs(self, quadratures: Sequence[Quadrature]) -> None:
        """Has the flow integrate further running costs; refused as in the constructor."""
        self.quadratures = _check_quadratures([*self.quadratures, *quadratures], self.solver)

    def noise(self, x0: Tensor, noise: Noise | None) -> Noise | None:
        """The given noise, or in training that of ``noise_seed`` or a fresh one; samples are numbered over ranks."""
        random = "stochastic" in self.solver.traits or any(quadrature.draws for quadrature in self.quadratures)
        if noise is not None or not self.training or not random:
            return noise
        seed = int(torch.randint(2**62, ())) if self.noise_seed is None else self.noise_seed
        return Noise(seed, sample_numbers(x0))

    def weighted(self, costs: Tensor) -> Tensor:
        """``sum_j weight_j q_j``, ``(batch,)``, of costs ``(batch, num_quadratures)``."""
        return costs @ costs.new_tensor([q.weight for q in self.quadratures])

    def running_cost(self, solution: Solution) -> Tensor:
        """The weighted running cost of a solution at its last time, ``(batch,)``."""
        return self.weighted(torch.stack([solution.quadratures[q.name][-1] for q in self.quadratures], dim=1))

    def refine(self, factor: int) -> None:
        """``factor`` times as many pieces of the same control, and as many steps; an optimiser must be built anew."""
        check_factor(factor, "refine")
        self.control.refine(factor)
        if isinstance(self.solver, StepSolver) and self.solver.dt is None:
            self.solver.steps = (self.solver.steps or DEFAULT_STEPS) * factor

    def coarsen(self, factor: int) -> None:
        """``factor`` times fewer pieces and steps: the inverse of :meth:`refine`, or the nearest control."""
        check_factor(factor, "coarsen")
        solver = self.solver if isinstance(self.solver, StepSolver) and self.solver.dt is None else None
        steps = (solver.steps or DEFAULT_STEPS) if solver is not None else factor
        if steps % factor:
            raise InvalidOption(f"coarsen: got factor {factor}, expected a divisor of the solver's {steps} steps")
        self.control.coarsen(factor)
        if solver is not None:
            solver.steps = steps // factor

    def extra_repr(self) -> str:
        """The horizon and the gradient's name."""
        return f"horizon={self.horizon}, gradient={type(self.gradient).__name__}"


def _check_horizon(horizon: Any) -> tuple[float, float]:
    times = check_times(horizon)
    if times.numel() != 2:
        raise InvalidOption(f"horizon: got {horizon!r}, expected a first and a last time, e.g. (0.0, 1.0)")
    return float(times[0]), float(times[1])


def _check_quadratures(quadratures: Sequence[Quadrature], solver: Solver) -> tuple[Quadrature, ...]:
    names: set[str] = set()
    one_velocity = "second_order" not in solver.traits and getattr(solver, "slots", 1) == 1
    for quadrature in quadratures:
        if not isinstance(quadrature, Quadrature):
            raise InvalidOption(f"quadratures: got {type(quadrature).__name__}, expected odeframe.Quadrature objects")
        if quadrature.name in names:
            raise InvalidOption(f"quadratures: two have the name {quadrature.name!r}; name them apart")
        if quadrature.uses_velocity and not one_velocity:
            raise Incompatible(
                f"quadrature {quadrature.name!r} looks at dx/dt, which {type(solver).__name__} does not have "
                "as one value; take a cost of the state alone (RunningCost), or another solver"
            )
        names.add(quadrature.name)
    return tuple(sorted(quadratures, key=lambda q: not q.in_error_norm))
