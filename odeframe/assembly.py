"""Words to network, task and trainer, checked against each other before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from odeframe.compatibility import check
from odeframe.errors import CheckpointError, Incompatible, InvalidOption
from odeframe.network import FLOW_KINDS, Architecture, Network
from odeframe.registry import Word, provenance, resolve, word
from odeframe.specification import DataSpec, NetworkSpec
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

    def plain_words(self) -> dict[str, Any]:
        """The words as plain data; parts given as objects are marked and cannot be rebuilt from it."""
        return {kind: plain(choice) for kind, choice in self.words.items()}

    def provenance(self) -> list[dict[str, Any]]:
        """Package and version of every registered part, for checkpoints."""
        return [
            provenance(kind, choice.component.qualified, {k: v for k, v in choice.options.items() if _is_plain(v)})
            for kind, choice in self.words.items()
            if choice.component is not None
        ]


def assemble(choices: Mapping[str, Any], spec: DataSpec, data: Word | None = None) -> Assembly:
    """Builds the model's parts.

    Args:
        choices: kind to word for :data:`MODEL_KINDS`; ``None``, or a missing kind, takes the default of the
            architecture (parts of the flow, trainer) or of the data (task).
        spec: shapes and target of the data.
        data: the word of the data, where known, for the compatibility check.

    Raises:
        InvalidOption: an option is unknown or wrong.
        Incompatible: two parts do not go together.
    """
    given = {kind: choice for kind, choice in choices.items() if choice is not None}
    _refuse_lost_objects(given)
    architecture_word = word("architecture", given.get("architecture", "resnet"))
    architecture: Architecture = _built(architecture_word, Architecture)
    task_word = word("task", given.get("task", spec.task))
    task: Task = _built(task_word, Task)
    shapes = NetworkSpec(spec.input_shape, task.output_shape(spec))
    given = split_trainer(given)
    words = {
        kind: word(kind, given[kind] if kind in given else architecture.default(kind, shapes))
        for kind in ("trainer", *FLOW_KINDS)
    }
    words = {"architecture": architecture_word, "task": task_word, **words}
    check(words if data is None else {**words, "data": data})
    for choice in words.values():
        choice.check()
    trainer: ControlTrainer = _built(words["trainer"], ControlTrainer)
    network = architecture.build(shapes, **{kind: words[kind] for kind in FLOW_KINDS})
    return Assembly(network, task, trainer, words)


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
    lost = [kind for kind, choice in given.items() if isinstance(choice, str) and choice.startswith(OBJECT)]
    if lost:
        made = given[lost[0]].removeprefix(OBJECT)
        raise CheckpointError(
            f"the {', '.join(lost)} of this model was given as an object ({made}) and cannot be rebuilt from a "
            f"checkpoint; pass it again, e.g. odeframe.FlowModule.load(path, {lost[0]}=...)"
        )


def _built(choice: Word, interface: type) -> Any:
    built = choice.build()
    if not isinstance(built, interface):
        raise InvalidOption(
            f"{choice.kind}: got an object of type {type(built).__name__}, expected a name, a mapping with a name, or "
            f"an odeframe.{interface.__name__}"
        )
    return built
