"""Architectures: named recipes of stem, flows, transitions and head; and the network that one builds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from odeframe.block import fresh_copy
from odeframe.compatibility import check, traits_of
from odeframe.drive import Drive
from odeframe.errors import Incompatible, InvalidOption
from odeframe.flow import Choice, Flow
from odeframe.grid import DEFAULT_STEPS
from odeframe.options import options_of
from odeframe.registry import Word, components, word
from odeframe.solution import Solution, Stats
from odeframe.solver import StepSolver
from odeframe.specification import NetworkSpec
from odeframe.stepmap import ModuleStep, StepMap

FLOW_KINDS = ("dynamics", "control", "solver", "gradient")


@dataclass
class Outcome:
    """What a network makes of a batch.

    Attributes:
        output: ``(batch, *output)``.
        cost: weighted running costs of all flows, ``(batch,)``; ``None`` where there are none.
        solutions: one a flow, in order.
    """

    output: Tensor
    cost: Tensor | None
    solutions: list[Solution] = field(default_factory=list)


class Network(nn.Module):
    """Stages in order: modules (stem, transitions, head) and flows.

    A stage that returns a pair ``(x0, drive)`` drives the flow after it.

    Args:
        stages: name to module, e.g. ``{"stem": ..., "flow": Flow(...), "head": ...}``.
    """

    def __init__(self, stages: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleDict(stages)

    @property
    def flows(self) -> list[Flow]:
        """The flows in order."""
        return [stage for stage in self.stages.values() if isinstance(stage, Flow)]

    @property
    def stats(self) -> Stats:
        """Counts of the last pass, summed over the flows."""
        return sum((flow.stats for flow in self.flows), Stats())

    def count(self, on: bool = True) -> None:
        """Begins to keep the counts of everything from here on for :meth:`counted`, or ends it."""
        for flow in self.flows:
            flow.count(on)

    def counted(self) -> Stats:
        """The counts since :meth:`count`, summed over passes and flows; without it those of the last pass."""
        return sum((flow.counted() for flow in self.flows), Stats())

    def forward(self, x: Tensor) -> Tensor:
        """The output, ``(batch, *output)``."""
        return self.run(x).output

    def run(self, x: Tensor, times: Sequence[float] | None = None) -> Outcome:
        """Output, running cost and solutions.

        Args:
            x: ``(batch, *input)``.
            times: fractions of each flow's horizon at which its states are kept, 0 to 1; default both ends.
        """
        drive: Drive | None = None
        costs: list[Tensor] = []
        solutions = []
        for stage in self.stages.values():
            if isinstance(stage, Flow):
                start, end = stage.horizon
                asked = None if times is None else [start + (end - start) * fraction for fraction in times]
                solution = stage.solve(x, asked, drive=drive)
                solutions.append(solution)
                x, drive = solution.final, None
                if stage.quadratures:
                    costs.append(stage.running_cost(solution))
            else:
                x = stage(x)
                if isinstance(x, tuple):
                    x, drive = x
        return Outcome(x, torch.stack(costs).sum(0) if costs else None, solutions)

    def steps(self, example: Tensor | None = None) -> list[StepMap]:
        """All step maps: stem, every solver step, transitions, head; ``z = (x,)`` in, ``(output, *costs)`` out.

        Args:
            example: a batch ``(batch, *input)``, needed where a stage makes a drive, to know its shape, and in training
                where a flow is random: its noise is drawn once, the same in every evaluation of these maps.
        """
        steps: list[StepMap] = []
        carried, drive = 0, None
        for stage in self.stages.values():
            if isinstance(stage, Flow):
                noise = None if example is None else stage.noise(example, None)
                steps += stage.steps(drive=drive, noise=noise, carried=carried)
                carried += bool(stage.quadratures)
                drive = None
            else:
                steps.append(ModuleStep(stage))
                if example is not None:
                    example, drive = _shape_of(stage, example)
        return steps


def _shape_of(stage: nn.Module, example: Tensor) -> tuple[Tensor, Drive | None]:
    """What a stage makes of an example, without a graph, a draw of dropout or a count in a batch norm."""
    modes = {module: module.training for module in stage.modules()}
    try:
        with torch.no_grad():
            made = stage.eval()(example)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return made if isinstance(made, tuple) else (made, None)


class Parts:
    """The words that fill an architecture: the user's where given, else the architecture's own."""

    def __init__(self, words: Mapping[str, Word]) -> None:
        self.words = dict(words)
        self._flows = 0

    def flow(self, horizon: tuple[float, float], steps: int | None = None, **shape: Any) -> Flow:
        """A flow of these parts.

        Args:
            horizon: first and last time.
            steps: the architecture's depth: steps of a step solver that says nothing else, and pieces of a piecewise
                control beside a solver that has no fixed number of steps (10 pieces where there is no depth).
            **shape: options that dynamics, control and solver get where they take them and the word has not set them
                (``width``).
        """
        dynamics = self.words["dynamics"]
        built = offer(dynamics, **shape)
        if dynamics.object is not None and isinstance(dynamics.object, nn.Module) and self._flows:
            built = fresh_copy(built)  # one given module cannot be the block of two flows
        self._flows += 1
        word = self.words["solver"]
        paced = steps is None or "dt" in word.options or "adaptive" in traits_of("solver", word)
        solver = offer(word, **shape, **({} if paced else {"steps": steps}))
        one_a_step = isinstance(solver, StepSolver) and solver.dt is None
        control = offer(self.words["control"], **shape, **({} if one_a_step else {"pieces": steps or DEFAULT_STEPS}))
        return Flow(built, control, solver, self.words["gradient"].build(), horizon)


def offer(choice: Word, **options: Any) -> Any:
    """Builds a word with those of the options that its target takes; the word's own win."""
    target = choice.component.load() if choice.component is not None else choice.object
    if choice.component is None and not isinstance(target, type):
        return choice.build()
    known, open_ended = options_of(target)
    if getattr(target, "__init__", None) is nn.Module.__init__:
        open_ended = False  # its signature has **kwargs, and it refuses them all
    names = {option.name for option in known}
    return choice.build(**{k: v for k, v in options.items() if open_ended or k in names})


class Architecture(ABC):
    """A recipe with default parts, each of which the user may replace by a word.

    Subclasses give :meth:`assemble`, and :meth:`default` where a default depends on the data.
    """

    #: default words by kind; ``trainer`` too
    defaults: ClassVar[dict[str, Choice]] = {
        "control": "piecewise_constant",
        "solver": "euler",
        "gradient": "backprop",
        "trainer": "gradient",
    }

    def default(self, kind: str, spec: NetworkSpec) -> Choice:
        """The word for a kind that the user left out."""
        if kind == "dynamics" and kind not in self.defaults:
            return "conv" if len(spec.input_shape) == 3 else "mlp"
        return self.defaults[kind] if kind in self.defaults else Architecture.defaults[kind]

    def build(self, spec: NetworkSpec, **words: Choice | None) -> Network:
        """The network for the shapes of ``spec``.

        Args:
            spec: input and output shape of one sample.
            **words: ``dynamics``, ``control``, ``solver``, ``gradient``: a name, a mapping, an object, or ``None``.

        Raises:
            Incompatible: the architecture or two of the parts do not go together.
        """
        unknown = set(words) - set(FLOW_KINDS)
        if unknown:
            raise InvalidOption(
                f"architecture {type(self).__name__}: got {', '.join(sorted(unknown))}, expected words for "
                f"{', '.join(FLOW_KINDS)}"
            )
        chosen = {kind: self.default(kind, spec) if words.get(kind) is None else words[kind] for kind in FLOW_KINDS}
        parts = {kind: word(kind, choice) for kind, choice in chosen.items()}
        check({"architecture": self, **parts})
        check_state(parts["dynamics"], self.state_trait(spec))
        return self.assemble(spec, Parts(parts))

    def state_trait(self, spec: NetworkSpec) -> str:
        """``"image"`` or ``"vector"``: what the states of the flows are, which the dynamics must take."""
        return "image" if len(spec.input_shape) == 3 else "vector"

    @abstractmethod
    def assemble(self, spec: NetworkSpec, parts: Parts) -> Network:
        """Stages for the shapes; flows are made by ``parts.flow(horizon, steps, width=...)``."""


def check_state(dynamics: Word, state: str) -> None:
    """Raises ``Incompatible`` where registered dynamics say that they take other states."""
    if dynamics.component is None:
        return
    takes = {"image", "vector"} & set(dynamics.component.part.traits)
    if takes and state not in takes:
        fitting = [each.name for each in components("dynamics") if state in each.part.traits]
        raise Incompatible(
            f"{dynamics} takes {' or '.join(sorted(takes))} states, and the states here are {state}s. Dynamics that "
            f"take them: {', '.join(fitting)}."
        )
