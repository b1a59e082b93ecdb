"""The words of a run: files and arguments laid over each other, before anything is built."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from odeframe.assembly import GRADIENT_WORDS, split_trainer
from odeframe.cli.sources import MODEL_KEYS, Text, read_text
from odeframe.component import Component, resolve, spelling
from odeframe.errors import InvalidOption
from odeframe.hookspecs import KINDS
from odeframe.network import Architecture
from odeframe.options import fits, options_of
from odeframe.registry import word
from odeframe.specification import DataSpec

__all__ = ["Words", "argument_words", "completed", "on_top", "overlaid", "with_types"]

Words = dict[str, Any]
"""``data`` and the keys of ``model`` to what was said: a name, a mapping, a number; ``None`` for the default."""


def overlaid(layers: Iterable[Mapping[str, Any]]) -> Words:
    """The words of several layers, each a mapping with ``model`` and ``data``; the later ones win.

    A part named anew keeps those of the old options that it has too; a warning names the others.

    Raises:
        InvalidOption: a layer contradicts itself, or a word is none.
        UnknownComponent, PluginConflict: a name is unknown, or has several providers.
    """
    words: Words = {}
    for layer in layers:
        model = layer.get("model") or {}
        said = _split({key: value for key, value in model.items() if value is not None})
        given = {**dict.fromkeys(key for key, value in model.items() if value is None), **said}
        if "data" in layer:
            given["data"] = layer["data"]
        for key, value in given.items():
            words[key] = _over(key, words.get(key), value)
    return words


def _split(model: Words) -> Words:
    """``trainer: adjoint`` as trainer and gradient, with what else the layer says of the gradient."""
    trainer, gradient = model.get("trainer"), model.get("gradient")
    name = trainer.get("name") if isinstance(trainer, Mapping) else trainer
    if name in GRADIENT_WORDS and isinstance(gradient, Mapping) and "name" not in gradient:
        said = trainer if isinstance(trainer, Mapping) else {"name": name}
        return {**model, "trainer": "gradient", "gradient": {**said, **gradient}}
    return split_trainer(model)


def argument_words(arguments: Iterable[tuple[list[str], str]]) -> dict[str, Any]:
    """One layer from arguments, the later ones over the earlier."""
    words: Words = {}
    for path, text in arguments:
        where = f"argument --{'.'.join(path)}"
        keys = path[1:] if path[0] == "model" else path
        if not keys:
            words |= _model(read_text(text, where), where)
            continue
        key, value = keys[0], None
        if len(keys) == 1:
            value = read_text(text, where)
        elif key in KINDS and keys[1:] == ["name"]:
            value = {"name": text}
        else:
            value = _nested(keys[1:], Text(text))
        words[key] = _over(key, words.get(key), value)
    return {"model": {key: value for key, value in words.items() if key != "data"}} | (
        {"data": words["data"]} if "data" in words else {}
    )


def _model(value: Any, where: str) -> Words:
    if not isinstance(value, Mapping) or not set(value) <= set(MODEL_KEYS):
        raise InvalidOption(
            f"{where}: got {value!r}, expected a mapping of {', '.join(MODEL_KEYS)}; one part is "
            f"--model.architecture={value if isinstance(value, str) else '...'}"
        )
    return dict(value)


def _nested(keys: list[str], value: Any) -> Any:
    return {keys[0]: _nested(keys[1:], value)} if keys else value


def _over(key: str, old: Any, new: Any) -> Any:
    """One key's value laid over an earlier one."""
    if key not in KINDS:
        return _deep(old, new) if isinstance(old, Mapping) and isinstance(new, Mapping) else new
    if new is None:
        return None
    if isinstance(new, str):
        new = {"name": new}
    if not isinstance(new, Mapping):
        raise InvalidOption(f"got {new!r} as the {key}, expected a name, or a mapping {{name: ..., option: value}}")
    if not isinstance(old, Mapping):
        old = {} if old is None else {"name": old}
    if "name" not in new or ("name" in old and _same(key, old["name"], new["name"])):
        return _deep(old, new)
    options = {name: value for name, value in old.items() if name != "name"}
    component = _component(key, new["name"])
    known, open_ended = options_of(component.load())
    taken = {option.name for option in known}
    lost = [name for name in options if not open_ended and name not in taken and name not in new]
    if lost:
        has_not = f"{key} {spelling(component)!r} has no option {', '.join(map(repr, lost))}"
        warnings.warn(f"{has_not}: what was said of it is dropped", stacklevel=2)
    return _deep({name: value for name, value in options.items() if name not in lost}, new)


def _deep(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        both = isinstance(merged.get(key), Mapping) and isinstance(value, Mapping)
        merged[key] = _deep(merged[key], value) if both else value
    return merged


def _component(kind: str, name: Any) -> Component:
    return resolve("gradient" if kind == "trainer" and name in GRADIENT_WORDS else kind, name)


def _same(kind: str, old: Any, new: Any) -> bool:
    return old == new or _component(kind, old) == _component(kind, new)


def completed(words: Mapping[str, Any], spec: DataSpec) -> Words:
    """The words with a name each: options alone go on top of the default of the architecture, or of the data.

    Args:
        words: the words but ``data``.
        spec: the data's specification.

    Raises:
        InvalidOption: the default is an object, which takes no options.
    """
    found = {key: value for key, value in words.items() if value is not None}
    found["architecture"] = on_top("architecture", found.get("architecture", "resnet"), "resnet")
    found["task"] = on_top("task", found.get("task", spec.task), spec.task)
    nameless = [
        kind for kind, choice in found.items() if kind in KINDS and isinstance(choice, Mapping) and "name" not in choice
    ]
    if nameless:
        architecture: Architecture = word("architecture", with_types("architecture", found["architecture"])).build()
        task = word("task", with_types("task", found["task"])).build()
        shapes = spec.network(task.output_shape(spec))
        for kind in nameless:
            found[kind] = on_top(kind, found[kind], architecture.default(kind, shapes))
    return {key: with_types(key, value) for key, value in found.items()}


def on_top(kind: str, choice: Any, default: Any) -> Any:
    """A word: options without a name go on top of the default's, anything else is the word itself."""
    if not isinstance(choice, Mapping) or "name" in choice:
        return choice
    if isinstance(default, str):
        return {"name": default, **choice}
    if isinstance(default, Mapping):
        return {**default, **choice}
    raise InvalidOption(f"got options {dict(choice)!r} without a name for the {kind}; write its name too")


def with_types(key: str, choice: Any) -> Any:
    """A word whose typed texts became values: what YAML reads in them, or the text where that is what is asked for."""
    if not isinstance(choice, Mapping):
        return choice
    hints: dict[str, Any] = {}
    if key in KINDS and isinstance(choice.get("name"), str):
        hints = {option.name: option.hint for option in options_of(_component(key, choice["name"]).load())[0]}
    return {name: _typed(f"option {name} of {key}", value, hints.get(name)) for name, value in choice.items()}


def _typed(what: str, value: Any, hint: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _typed(f"{what}, {key}", each, None) for key, each in value.items()}
    if not isinstance(value, Text):
        return value
    read = read_text(value, what)
    return str(value) if hint is not None and not fits(read, hint) and fits(str(value), hint) else read
