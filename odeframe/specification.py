"""What data states about itself before set-up, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from odeframe.errors import InvalidOption

TARGETS = ("class", "value", "none")


@dataclass(frozen=True)
class DataSpec:
    """Shapes and target of a data set, without the leading batch dimension.

    Attributes:
        name: the registry word of the data.
        input_shape: shape of one sample, e.g. ``(1, 8, 8)`` or ``(10,)``.
        target: ``"class"`` (integer labels), ``"value"`` (real numbers) or ``"none"``.
        num_classes: how many classes, for ``target="class"``.
        target_shape: shape of one target, ``()`` for a label or a scalar.
        task: the default task's word.
        class_names: names of the classes for pictures, may be empty.
        target_mean, target_scale: a value target in its own units is ``target_mean + target_scale * target``.
        input_range: least and greatest number that an input can have, as the network gets it; ``None`` where there
            is no such limit, or it is not known.
        dynamics: the word of the dynamics that the samples are initial states of, for architectures that take it.
        interval: time from one observation to the next, where the targets are states at several times.
        likelihood: the word of ``p(observation | state)`` (``odeframe.likelihoods``), for data to be filtered.
        quantum: one grey level in the unit of the inputs, where they are counts that uniform noise has made continuous.
    """

    name: str
    input_shape: tuple[int, ...]
    target: str = "none"
    num_classes: int | None = None
    target_shape: tuple[int, ...] = ()
    task: str = "classification"
    class_names: tuple[str, ...] = field(default=())
    target_mean: float = 0.0
    target_scale: float = 1.0
    input_range: tuple[float, float] | None = None
    dynamics: str | Mapping[str, Any] | None = None
    interval: float | None = None
    likelihood: str | Mapping[str, Any] | None = None
    quantum: float | None = None

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise InvalidOption(f"DataSpec target: got {self.target!r}, expected one of {', '.join(TARGETS)}")
        if self.target == "class" and (self.num_classes is None or self.num_classes < 2):
            raise InvalidOption(
                f"DataSpec of {self.name!r}: target 'class' needs num_classes >= 2, got {self.num_classes!r}"
            )
        if self.input_range is not None and not self.input_range[0] < self.input_range[1]:
            raise InvalidOption(f"DataSpec of {self.name!r}, input_range: got {self.input_range}, expected (low, high)")
        if self.quantum is not None and not self.quantum > 0:
            raise InvalidOption(f"DataSpec of {self.name!r}, quantum: got {self.quantum}, expected > 0 or None")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for hyper-parameters: lists, numbers and strings alone."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def network(self, output_shape: tuple[int, ...]) -> NetworkSpec:
        """What an architecture must map, for a task with outputs of that shape."""
        return NetworkSpec(self.input_shape, output_shape, self.dynamics, self.interval)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataSpec:
        """The inverse of :meth:`to_dict`."""
        known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        try:
            return cls(**known)
        except TypeError as error:
            raise InvalidOption(
                f"a data specification has the keys {list(cls.__dataclass_fields__)}: {error}"
            ) from error


@dataclass(frozen=True)
class NetworkSpec:
    """What an architecture must map: one sample's shape to one output's shape.

    Attributes:
        dynamics: the word of the dynamics that the samples are initial states of, where the data say so.
        interval: time from one observation to the next, where the data say so.
    """

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    dynamics: str | Mapping[str, Any] | None = None
    interval: float | None = None
