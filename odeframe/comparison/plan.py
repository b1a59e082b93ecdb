"""What a comparison consists of: axes of words, seeds and a budget; its cells, and the combinations that are none."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

from odeframe.assembly import assemble
from odeframe.cli.sources import MODEL_KEYS
from odeframe.component import spelling
from odeframe.cost_words import resolve_costs
from odeframe.data import specification
from odeframe.errors import InvalidOption, OdeframeError, suggestion
from odeframe.hookspecs import KINDS
from odeframe.optimizers import checked_optimizer, optimizer_class
from odeframe.registry import Word, word
from odeframe.schedule import checked_schedule

__all__ = ["BUDGETS", "KEYS", "Budget", "Cell", "Plan", "label", "reason_of"]

_FIRST = ("data", "architecture", "solver", "control", "dynamics", "gradient", "trainer")
KEYS = (*_FIRST, *(key for key in MODEL_KEYS if key not in _FIRST))
"""What may be an axis: the kinds of part, and what else a model takes; in the order in which a cell is told."""

BUDGETS = ("epochs", "seconds", "evaluations")
MODEL_KINDS = tuple(kind for kind in KINDS if kind != "data")
NAMES: dict[str, Callable[[Any], Any]] = {
    "optimizer": optimizer_class,
    "schedule": checked_schedule,
    "costs": resolve_costs,
}
"""What refuses a value of an axis that is no kind of part."""


@dataclass(frozen=True)
class Budget:
    """How long every cell may train, the same for all.

    Attributes:
        unit: ``"epochs"`` over the training set; ``"seconds"`` of training; or ``"evaluations"`` of the dynamics,
            forward and backward, a batch counted once whatever its size.
        amount: how many.
    """

    unit: str = "epochs"
    amount: float = 10

    def __post_init__(self) -> None:
        if self.unit not in BUDGETS:
            raise InvalidOption(f"budget: got {self.unit!r}, expected one of {', '.join(BUDGETS)}")
        number = isinstance(self.amount, int | float) and not isinstance(self.amount, bool)
        whole = number and (self.unit == "seconds" or self.amount == int(self.amount))
        if not number or not 0 < self.amount < float("inf") or not whole:
            what = "a number" if self.unit == "seconds" else "a whole number"
            raise InvalidOption(f"{self.unit}: got {self.amount!r}, expected {what} > 0")

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit.removesuffix('s') if self.amount == 1 else self.unit}"


@dataclass(frozen=True)
class Cell:
    """One combination with one seed.

    Attributes:
        words: what is said of it, by key; the rest is the architecture's and the data's.
        seed: of weights and batches.
        budget: how long it trains.
        device: ``"cpu"``, ``"gpu"`` or ``"auto"``.
    """

    words: Mapping[str, Any] = field(hash=False)
    seed: int
    budget: Budget
    device: str = "auto"

    @cached_property
    def identity(self) -> str:
        """16 hexadecimal digits of all that decides the result; the name of its file."""
        return hashlib.sha256(json.dumps(self.plain(), sort_keys=True).encode()).hexdigest()[:16]

    def plain(self) -> dict[str, Any]:
        """Plain data, from which :meth:`read` makes the cell again."""
        budget = {"unit": self.budget.unit, "amount": self.budget.amount}
        return {"words": dict(self.words), "seed": self.seed, "budget": budget, "device": self.device}

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Cell:
        """The inverse of :meth:`plain`."""
        return cls(plain["words"], plain["seed"], Budget(**plain["budget"]), plain["device"])

    def __str__(self) -> str:
        return f"{label(self.words)}, seed {self.seed}"


def label(words: Mapping[str, Any]) -> str:
    """A combination in one line: its words in order."""
    return " ".join(_text(value) for value in words.values())


def _text(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    options = ", ".join(f"{key}={_text(each)}" for key, each in value.items() if key != "name")
    name = str(value.get("name", ""))
    return f"{name}({options})" if options else name


class Plan:
    """A comparison before it runs.

    Args:
        axes: key to its values, each a name, a mapping with options, or a number; the cells are their product.
        seeds: of every combination.
        budget: of every cell.
        device: of every cell.

    Attributes:
        combinations: the legal ones.
        illegal: those that are not, each with the reason.

    Raises:
        InvalidOption: a key is none, a value stands twice, an option of a part is unknown or wrong.
        UnknownComponent, PluginConflict: a name is unknown, or has several providers.
    """

    def __init__(
        self, axes: Mapping[str, Sequence[Any]], seeds: Sequence[int], budget: Budget, device: str = "auto"
    ) -> None:
        for key in axes:
            if key not in KEYS:
                near = suggestion(key, KEYS)
                raise InvalidOption(f"there is no axis {key!r}.{near} The axes are {', '.join(KEYS)}.")
        self.axes = {key: _checked(key, axes[key]) for key in KEYS if key in axes}
        if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= seed < 2**32 for seed in seeds):
            raise InvalidOption(f"seeds: got {list(seeds)}, expected different whole numbers from 0")
        self.seeds, self.budget, self.device = list(seeds), budget, device
        self.combinations: list[dict[str, Any]] = []
        self.illegal: list[tuple[dict[str, Any], str]] = []
        self._data: dict[str, tuple[Word, Any]] = {}
        for values in product(*self.axes.values()):
            words = dict(zip(self.axes, values, strict=True))
            reason = self._refusal(words)
            if reason:
                self.illegal.append((words, reason))
            else:
                self.combinations.append(words)

    def cells(self) -> list[Cell]:
        """Every legal combination with every seed, seed by seed, so that an early stop leaves whole rounds."""
        return [Cell(words, seed, self.budget, self.device) for seed in self.seeds for words in self.combinations]

    @property
    def identity(self) -> str:
        """16 hexadecimal digits of all cells."""
        text = ",".join(sorted(cell.identity for cell in self.cells()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _refusal(self, words: Mapping[str, Any]) -> str:
        """Why the model of these words cannot be; empty where it can."""
        choice = words.get("data", "digits")
        key = repr(choice)
        if key not in self._data:
            made = word("data", choice)
            self._data[key] = made, specification(made.build())
        data, spec = self._data[key]
        try:
            parts = {kind: words[kind] for kind in MODEL_KINDS if kind in words}
            assemble(parts, spec, data, costs=words.get("costs"))
            rate = {"lr": words["learning_rate"]} if "learning_rate" in words else {}
            options = {**rate, **(words.get("optimizer_options") or {})}
            checked_optimizer(words.get("optimizer", "Adam"), options)
        except OdeframeError as error:
            return reason_of(error)
        return ""


def reason_of(error: BaseException) -> str:
    """An error in one line, without the names that would fit instead: a comparison has said what it wants."""
    text = " ".join(str(error).split()) or "no message"
    return re.split(rf" An? (?:{'|'.join(KINDS)}) that fits ", text)[0]


def _checked(key: str, values: Sequence[Any]) -> list[Any]:
    """The values of an axis, each held against what it names."""
    if not values:
        raise InvalidOption(f"axis {key}: got no value, expected one or more")
    values = [_spelt(key, value) if key in KINDS else value for value in values]
    if key in NAMES:
        for value in values:
            NAMES[key](value)
    texts = [json.dumps(value, sort_keys=True, default=repr) for value in values]
    twice = [value for value, text in zip(values, texts, strict=True) if texts.count(text) > 1]
    if twice:
        raise InvalidOption(f"axis {key}: {_text(twice[0])!r} stands twice; keep one")
    return values


def _spelt(kind: str, value: Any) -> Any:
    """A word as plain data, checked."""
    from odeframe.assembly import GRADIENT_WORDS

    name = value.get("name") if isinstance(value, Mapping) else value
    chosen = word("gradient" if kind == "trainer" and name in GRADIENT_WORDS else kind, value)
    chosen.check()
    if chosen.component is None:
        raise InvalidOption(f"axis {kind}: got {value!r}, expected a name, or a mapping {{name: ..., option: value}}")
    spelt = spelling(chosen.component)
    return {"name": spelt, **chosen.options} if chosen.options else spelt
