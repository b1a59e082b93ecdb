"""What the user wrote: configuration files and arguments as plain data, with the line where each key stands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from odeframe.errors import InvalidOption, suggestion
from odeframe.hookspecs import KINDS

__all__ = [
    *("FLAGS", "LIGHTNING", "MODEL_KEYS", "OPTIMISATION", "SETTINGS", "Arguments", "Source", "Text"),
    *("read_arguments", "read_config", "read_text", "write_text"),
]

OPTIMISATION = ("optimizer", "learning_rate", "optimizer_options", "schedule")
MODEL_KEYS = (*(kind for kind in KINDS if kind != "data"), "costs", "refined", *OPTIMISATION)
"""What stands below ``model``."""

LIGHTNING = ("trainer", "optimizer", "lr_scheduler", "seed_everything")
"""The keys that Lightning's own parser reads."""

SETTINGS = ("output", "ckpt_path", "resume")
FLAGS = ("print_config", "quiet", "debug", "help", "version")
_KEYS = ("model", "data", *LIGHTNING, *SETTINGS)


class Text(str):
    """An option's value as it was typed: what it is depends on the option's type."""

    __slots__ = ()


@dataclass
class Source:
    """One configuration file.

    Attributes:
        path: the file.
        values: its content.
        lines: the line of each key of the first two levels, as ``{"trainer.max_epochs": 7}``.
    """

    path: str
    values: dict[str, Any]
    lines: dict[str, int]

    def where(self, key: str) -> str:
        """File and line of a key, for messages."""
        return f"config {self.path}, line {self.lines[key]}" if key in self.lines else f"config {self.path}"


@dataclass
class Arguments:
    """The arguments behind a command.

    Attributes:
        configs: configuration files in order.
        words: below ``model`` and ``data``, in order: the dotted name as a list, and the text.
        lightning: for Lightning's parser, in order: the name without dashes, and the text.
        settings: those of ``SETTINGS``.
        flags: which flags are set.
    """

    configs: list[str] = field(default_factory=list)
    words: list[tuple[list[str], str]] = field(default_factory=list)
    lightning: list[tuple[str, str]] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)


def read_arguments(arguments: Sequence[str]) -> Arguments:
    """Sorts the arguments behind a command; nothing is resolved yet.

    Raises:
        InvalidOption: an argument is unknown, has no value or is no ``--name=value``.
    """
    found, rest = Arguments(), list(arguments)
    while rest:
        token = {"-h": "--help", "-c": "--config"}.get(rest[0], rest[0])
        rest.pop(0)
        if not token.startswith("--") or token == "--":
            raise InvalidOption(f"got {token!r}, expected --name=value, such as --model.solver=rk4")
        name, equals, text = token[2:].partition("=")
        if name in FLAGS:
            if equals:
                raise InvalidOption(f"--{name} takes no value, got {text!r}")
            found.flags.add(name)
            continue
        _check_head(name)
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise InvalidOption(f"--{name} needs a value: --{name}=...")
            text = rest.pop(0)
        _sort(found, name, text)
    return found


def _check_head(name: str) -> None:
    head, known = name.partition(".")[0].rstrip("+"), (*_KEYS, "config", *FLAGS)
    if head not in known:
        near = suggestion(head, (*known, *MODEL_KEYS))
        hint = f" A part of the model is written --model.{name}=..." if head in MODEL_KEYS else near
        raise InvalidOption(f"there is no argument --{name}.{hint} Arguments begin with --{', --'.join(known)}.")


def _sort(found: Arguments, name: str, text: str) -> None:
    head = name.partition(".")[0].rstrip("+")
    if head in ("config", *SETTINGS):
        if name != head:
            raise InvalidOption(f"there is no argument --{name}; write --{head}=...")
        if head == "config":
            found.configs.append(text)
        else:
            found.settings[head] = text
    elif head in LIGHTNING:
        found.lightning.append((name, text))
    else:
        path = name.split(".")
        if not all(path):
            raise InvalidOption(f"--{name}: got an empty name between dots, expected --model.solver.steps=8 or alike")
        if path[0] == "model" and len(path) > 1:
            _check_keys(path[1:2], MODEL_KEYS, "model", f"argument --{name}")
        found.words.append((path, text))


def read_config(path: str) -> Source:
    """Reads one configuration file.

    Raises:
        InvalidOption: it is not there, is no YAML, or has a key that does not exist; says file and line.
    """
    try:
        text = Path(path).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise InvalidOption(f"config {path}: cannot be read: {reason}") from error
    node, values = _parse(text, f"config {path}")
    if values is None:
        return Source(path, {}, {})
    if not isinstance(values, dict):
        got = repr(text.strip()[:40])
        raise InvalidOption(f"config {path}: got {got}, expected a mapping with the keys {', '.join(_KEYS)}")
    source = Source(path, values, dict(_lines(node)))
    _check_config(source)
    return source


def _check_config(source: Source) -> None:
    for key in source.values:
        _check_keys([key], _KEYS, "a config", source.where(key))
    model = source.values.get("model")
    for key in ("model", "trainer"):
        if not isinstance(source.values.get(key) or {}, Mapping):
            example = "{architecture: resnet, solver: rk4}" if key == "model" else "{max_epochs: 10}"
            got = f"got {source.values[key]!r} as {key}"
            raise InvalidOption(f"{source.where(key)}: {got}, expected a mapping: {example}")
    for key in model or {}:
        _check_keys([key], MODEL_KEYS, "model", source.where(f"model.{key}"))


def _check_keys(keys: Iterable[Any], known: Sequence[str], whose: str, where: str) -> None:
    for key in keys:
        if key not in known:
            near = suggestion(key, known)
            raise InvalidOption(f"{where}: {whose} has no key {key!r}.{near} Its keys: {', '.join(known)}.")


def read_text(text: str, what: str) -> Any:
    """A value as YAML 1.2 reads it, so that ``1e-3`` is a number and ``no`` is a word.

    Raises:
        InvalidOption: it is no YAML.
    """
    return _parse(text, what)[1]


def _parse(text: str, what: str) -> tuple[Any, Any]:
    """The node and its value."""
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        _refuse_twice(node, what, set())
        return node, None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        reason = " ".join(part for part in (error.context, error.problem) if part)
        raise InvalidOption(f"{what}{line}: no YAML that can be read: {reason}") from error
    except yaml.YAMLError as error:  # a character that YAML does not have
        raise InvalidOption(f"{what}: no YAML that can be read: {' '.join(str(error).split())}") from error
    finally:
        if loader is not None:
            loader.dispose()


def _refuse_twice(node: yaml.Node | None, what: str, above: set[int]) -> None:
    """Refuses a key that stands twice in one mapping, of which YAML libraries silently take the last."""
    if id(node) in above:
        raise InvalidOption(f"{what}: an alias stands in what it stands for")
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            _refuse_twice(each, what, above | {id(node)})
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise InvalidOption(f"{what}, line {key.start_mark.line + 1}: got a key that is no word")
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                lines = f"lines {seen[key.value]} and {key.start_mark.line + 1}"
                raise InvalidOption(f"{what}, {lines}: {key.value!r} stands twice; keep one")
            seen[key.value] = key.start_mark.line + 1
            _refuse_twice(value, what, above | {id(node)})


def _lines(node: yaml.MappingNode, prefix: str = "") -> Iterable[tuple[str, int]]:
    for key, value in node.value:
        yield prefix + str(key.value), key.start_mark.line + 1
        if isinstance(value, yaml.MappingNode) and not prefix:
            yield from _lines(value, f"{key.value}.")


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema: PyYAML's own is 1.1, where 1e-3 is text, ``no`` is false and 12:30 is 750."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - filled below, as PyYAML wants it


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = node.value
    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


for _tag, _form, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+0123456789.")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_form})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)


class _Dumper(yaml.SafeDumper):
    """Quotes what the loader would not read as text."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def write_text(value: Any) -> str:
    """A value as YAML that ``read_text`` reads back; the innermost mappings and lists on one line each."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
