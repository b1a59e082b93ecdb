"""Words to network, task and trainer, checked against each other before anything is built."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from odeframe.compatibility import check
from odeframe.cost_words import Costs, resolve_costs
from odeframe.errors import CheckpointError, Incompatible, InvalidOption
from odeframe.network import FLOW_KINDS, Architecture, Network
from odeframe.registry import Word, provenance, resolve, word
from odeframe.specification import DataSpec
from odeframe.task import Task
from odeframe.trainer import ControlTrainer

MODEL_KINDS = ("architecture", "task", "trainer", *FLOW_KINDS)
#: trainer words that stand for the default trainer with a gradient of that name
GRADIENT_WORDS = ("adjoint", "checkpoint", "reversible")
OBJECT = "object of type "  # how hyper-parameters mark a part that was given as an object


@dataclass
class Assembly:
    """What the words became."""

    network: Network
    task: Task
    trainer: ControlTrainer
    words: dict[str, Word]
    costs: Costs

    def plain_words(self) -> dict[str, Any]:
        """The words as plain data; parts given as objects are marked and cannot be rebuilt from it."""
        costs = {k: v if _is_plain(v) else OBJECT + type(v).__qualname__ for k, v in self.costs.words.items()}
        return {**{kind: plain(choice) for kind, choice in self.words.items()}, "costs": costs}

    def provenance(self) -> list[dict[str, Any]]:
        """Package and version of every registered part, for checkpoints."""
        return [
            provenance(kind, choice.component.qualified, {k: v for k, v in choice.options.items() if _is_plain(v)})
            for kind, choice in self.words.items()
            if choice.component is not None
        ]


def assemble(choices: Mapping[str, Any], spec: DataSpec, data: Word | None = None, costs: Any = None) -> Assembly:
    """Builds the model's parts.

    Args:
        choices: kind to word for :data:`MODEL_KINDS`; ``None``, or a missing kind, takes the default of the
            architecture (parts of the flow, trainer) or of the data (task).
        spec: shapes and target of the data.
        data: the word of the data, where known, for the compatibility check.
        costs: running costs of every flow and costs of its control, as :func:`odeframe.cost_words.resolve_costs`
            takes them.

    Raises:
        InvalidOption: an option is unknown or wrong.
        Incompatible: two parts do not go together.
    """
    given = {kind: choice for kind, choice in choices.items() if choice is not None}
    _refuse_lost_objects(given)
    _refuse_lost_objects({"costs": next(filter(_is_lost, costs.values()), None)} if isinstance(costs, Mapping) else {})
    resolved = resolve_costs(costs)
    architecture_word = word("architecture", given.get("architecture", "resnet"))
    architecture: Architecture = _built(architecture_word, Architecture)
    task_word = word("task", given.get("task", spec.task))
    task: Task = _built(task_word, Task)
    shapes = spec.network(task.output_shape(spec))
    given = split_trainer(given)
    chosen = {kind: word(kind, given[kind]) for kind in ("trainer", *FLOW_KINDS) if kind in given}
    both = {"architecture": architecture_word, **({} if data is None else {"data": data})}
    check(both, beside={"task": task_word, **chosen})  # an architecture has defaults for the data that it takes
    words = {
        kind: chosen[kind] if kind in chosen else word(kind, architecture.default(kind, shapes))
        for kind in ("trainer", *FLOW_KINDS)
    }
    words = {"architecture": architecture_word, "task": task_word, **words}
    check({**words, **both})
    for choice in words.values():
        choice.check()
    trainer: ControlTrainer = _built(words["trainer"], ControlTrainer)
    network = architecture.build(shapes, **{kind: words[kind] for kind in FLOW_KINDS})
    for flow in network.flows:
        flow.add_costs(resolved.running)
    _warn_of_idle(resolved, network)
    task.bind(network)
    return Assembly(network, task, trainer, words, resolved)


def _warn_of_idle(costs: Costs, network: Network) -> None:
    """Tells of a cost of the control that no control of the network has, as the smoothness of constant weights."""
    controls = [flow.control for flow in network.flows]
    for cost in costs.control:
        if not any(cost(control).requires_grad for control in controls):
            names = ", ".join(sorted({type(control).__name__ for control in controls})) or "a network without flows"
            warnings.warn(f"the cost {cost.name!r} has no effect on {names}", stacklevel=4)


def split_trainer(given: dict[str, Any]) -> dict[str, Any]:
    """``trainer: adjoint`` means ``trainer: gradient, gradient: adjoint``; a contradiction is refused."""
    trainer = given.get("trainer")
    name = trainer.get("name") if isinstance(trainer, Mapping) else trainer
    if name not in GRADIENT_WORDS:
        return given
    options = {k: v for k, v in trainer.items() if k != "name"} if isinstance(trainer, Mapping) else {}
    gradient = given.get("gradient")
    gradient_name = gradient.get("name") if isinstance(gradient, Mapping) else gradient
    if gradient is not None and gradient_name != name:
        raise Incompatible(
            f"trainer {name!r} is short for trainer 'gradient' with gradient {name!r}, and contradicts gradient "
            f"{gradient_name!r}; write trainer: gradient, gradient: {gradient_name}"
        )
    resolve("gradient", name)  # so that an unknown name is reported as a gradient
    chosen = gradient if gradient is not None and not options else {"name": name, **options}
    return {**given, "trainer": "gradient", "gradient": chosen}


def plain(choice: Word) -> Any:
    """A word as plain data."""
    if choice.component is not None and all(_is_plain(value) for value in choice.options.values()):
        return {"name": choice.component.qualified, **choice.options}
    made = choice.object if choice.component is None else choice.component.name
    return OBJECT + (made if isinstance(made, str) else type(made).__qualname__)


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    return value is None or isinstance(value, (bool, int, float, str))


def _refuse_lost_objects(given: Mapping[str, Any]) -> None:
    lost = [kind for kind, choice in given.items() if _is_lost(choice)]
    if lost:
        made = given[lost[0]].removeprefix(OBJECT)
        raise CheckpointError(
            f"the {', '.join(lost)} of this model was given as an object ({made}) and cannot be rebuilt from a "
            f"checkpoint; pass it again, e.g. odeframe.FlowModule.load(path, {lost[0]}=...)"
        )


def _is_lost(choice: Any) -> bool:
    return isinstance(choice, str) and choice.startswith(OBJECT)


def _built(choice: Word, interface: type) -> Any:
    built = choice.build()
    if not isinstance(built, interface):
        raise InvalidOption(
            f"{choice.kind}: got an object of type {type(built).__name__}, expected a name, a mapping with a name, or "
            f"an odeframe.{interface.__name__}"
        )
    return built
