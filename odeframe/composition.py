"""Words to a run: data, model, and what trains them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from odeframe.data import specification
from odeframe.errors import InvalidOption
from odeframe.module import FlowModule
from odeframe.registry import word
from odeframe.run import Run


def compose(
    architecture: Any = "resnet",
    data: Any = "digits",
    task: Any = None,
    solver: Any = None,
    control: Any = None,
    gradient: Any = None,
    trainer: Any = None,
    dynamics: Any = None,
    output: str | Path | None = None,
    costs: Any = None,
    **options: Any,
) -> Run:
    """A run from words; what is left out comes from the architecture and the data.

    Args:
        architecture: a name, a mapping ``{"name": ..., option: value}``, or an object; so are the next ones.
        data: a word, or any ``LightningDataModule`` with a ``spec``.
        task: default the data's.
        solver: default the architecture's, and so for the next four.
        control: how the weights depend on depth.
        gradient: how gradients are had.
        trainer: how a batch improves the control; ``"adjoint"``, ``"checkpoint"`` and ``"reversible"`` are short for
            the default trainer with that gradient.
        dynamics: the block.
        costs: running costs of the state and costs of the control, names to weights:
            ``{"kinetic_energy": 0.01, "control_smoothness": 1e-4}``; objects and functions ``L(t, x)`` too.
        output: folder for results; default ``runs/<date>-<architecture>``.
        **options: ``optimizer``, ``learning_rate``, ``optimizer_options``, ``schedule`` and ``refined`` of
            :class:`FlowModule`.

    Returns:
        ``run.module``, ``run.data``, ``run.fit(**Trainer_options)``, ``run.test()``, ``run.predict()``.

    Raises:
        UnknownComponent: a name is unknown; the message has the near one.
        InvalidOption: an option is unknown or wrong.
        Incompatible: two parts do not go together; the message names the registered ones that would.
    """
    data_word = word("data", data)
    loaded = data_word.build()
    unknown = set(options) - {"optimizer", "learning_rate", "optimizer_options", "schedule", "refined"}
    if unknown:
        raise InvalidOption(
            f"compose: got {', '.join(sorted(unknown))}, expected a kind of part, output, optimizer, learning_rate, "
            "optimizer_options, schedule or refined"
        )
    words = {
        "architecture": architecture,
        "task": task,
        "dynamics": dynamics,
        "control": control,
        "solver": solver,
        "gradient": gradient,
        "trainer": trainer,
    }
    known = None if data_word.component is None else data_word  # an object's specification is held by the task alone
    module = FlowModule(data_spec=specification(loaded).to_dict(), data=known, costs=costs, **words, **options)
    return Run(module, loaded, output)
